// The factor and the group loop against float64 vectors of every stage (free scales with offset,
// groups ordered by mean diagonal, no rotation). The loops are chaotic, one flipped tie changes
// later codes: beyond the first round of the first group losses are compared, not codes.
#include <filesystem>
#include <string>
#include <tuple>

#include "gtest/gtest.h"
#include "worker/quantize/factor.h"
#include "worker/quantize/group_loop.h"
#include "worker/quantize/prepared_hessian.h"
#include "worker/quantize/sweep.h"
#include "worker/quantize/testing/npz.h"

namespace shiftadd::quantize {
namespace {

using testing::NpyArray;

struct Case {
  const char* file;
  int q;
  // Relative losses as published with the recipe: after the group loop, the first sweep's descent,
  // both sweeps.
  double loop, sweep, end;
};

class RecipeVectors : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    const std::string path =
        std::string(SHIFTADD_SOURCE_DIR) + "/../shared/reference/" + GetParam().file;
    if (!std::filesystem::exists(path)) GTEST_SKIP() << "no reference vectors at " << path;
    v_ = testing::ReadNpz(path, {"W",
                                 "Hraw",
                                 "perm",
                                 "H",
                                 "R",
                                 "start_alpha",
                                 "start_z",
                                 "g0_round0_loss",
                                 "g0_round0_code",
                                 "g0_round3_loss",
                                 "loop_loss",
                                 "base",
                                 "loop_alpha",
                                 "loop_z",
                                 "loop_code",
                                 "sweep0_code",
                                 "refit0_alpha",
                                 "refit0_z",
                                 "sweep1_code",
                                 "refit1_alpha",
                                 "refit1_z"});
    n_ = v_["W"].shape[0];
    k_ = v_["W"].shape[1];
    recipe_.method = QuantMethod::kShiftAdd;
    recipe_.scales = QuantScales::kFree;
    recipe_.offset = true;
    recipe_.rotation = QuantRotation::kNone;
    recipe_.order = QuantOrder::kGar;
    HessianMatrix h;
    h.k = k_;
    h.tokens = 4096;
    h.h = v_["Hraw"].data;
    absl::StatusOr<std::shared_ptr<const PreparedHessian>> prepared =
        PreparedHessian::Create(h, recipe_);
    ASSERT_TRUE(prepared.ok()) << prepared.status();
    prepared_ = *prepared;
  }

  const PreparedHessianImpl& impl() const { return Impl(*prepared_); }

  std::vector<float> Tiles() {
    const int64_t tiles = (n_ + kLanes - 1) / kLanes;
    std::vector<float> w(tiles * k_ * kLanes, 0.0f);
    for (int64_t r = 0; r < n_; ++r) {
      for (int64_t p = 0; p < k_; ++p) {
        w[(r / kLanes * k_ + p) * kLanes + r % kLanes] =
            static_cast<float>(v_["W"].data[r * k_ + impl().order[p]]);
      }
    }
    return w;
  }

  GroupLoopOptions Options() const {
    GroupLoopOptions options;
    options.q = GetParam().q;
    options.scales = QuantScales::kFree;
    options.offset = true;
    return options;
  }

  // Sum over rows of d H d^T / base, d the difference to the tiles' weights.
  double RelativeLoss(const std::vector<GroupLoopTile>& tiles) {
    const std::vector<float> original = Tiles();
    double loss = 0.0, base = 0.0;
    std::vector<double> d(k_);
    Levels levels;
    for (int64_t r = 0; r < n_; ++r) {
      const GroupLoopTile& tile = tiles[r / kLanes];
      for (size_t g = 0; g < impl().factor.groups.size(); ++g) {
        const LoopFactor::Group& group = impl().factor.groups[g];
        MakeLevels(Options(), tile.scales[g], &levels);
        for (int64_t p = group.begin; p < group.begin + group.size; ++p) {
          const int64_t at = p * kLanes + r % kLanes;
          d[p] = original[r / kLanes * k_ * kLanes + at] - levels.level[tile.codes[at]][r % kLanes];
        }
      }
      for (int64_t i = 0; i < k_; ++i) {
        for (int64_t j = 0; j < k_; ++j) loss += d[i] * v_["H"].data[i * k_ + j] * d[j];
      }
      base += v_["base"].data[r];
    }
    return loss / base;
  }

  // The vectors' state after the group loop, or after a refit: alpha, z and codes under these
  // names.
  std::vector<GroupLoopTile> State(const std::string& scales, const std::string& codes) {
    const size_t groups = impl().factor.groups.size();
    std::vector<GroupLoopTile> tiles((n_ + kLanes - 1) / kLanes);
    for (GroupLoopTile& tile : tiles) {
      tile.scales.resize(groups);
      tile.codes.resize(k_ * kLanes);
    }
    const std::vector<double>& alpha = v_[scales + "_alpha"].data;
    for (int64_t r = 0; r < n_; ++r) {
      GroupLoopTile& tile = tiles[r / kLanes];
      const int64_t lane = r % kLanes;
      for (int64_t p = 0; p < k_; ++p) {
        tile.codes[p * kLanes + lane] = static_cast<uint8_t>(v_[codes].data[r * k_ + p]);
      }
      for (size_t g = 0; g < groups; ++g) {
        const size_t at = static_cast<size_t>(r) * groups + g;
        FreeScales& to = tile.scales[g].free;
        to.z[lane] = static_cast<float>(v_[scales + "_z"].data[at]);
        for (int i = 0; i < GetParam().q; ++i) {
          to.alpha[i][lane] = static_cast<float>(alpha[at * GetParam().q + i]);
        }
      }
    }
    return tiles;
  }

  std::map<std::string, NpyArray> v_;
  int64_t n_ = 0, k_ = 0;
  QuantRecipe recipe_;
  std::shared_ptr<const PreparedHessian> prepared_;
};

TEST_P(RecipeVectors, OrderAndFactor) {
  for (int64_t p = 0; p < k_; ++p)
    ASSERT_EQ(impl().order[p], static_cast<int64_t>(v_["perm"].data[p])) << p;
  absl::StatusOr<Factor> factor = FactorHessian(v_["H"].data, k_);
  ASSERT_TRUE(factor.ok()) << factor.status();
  for (int64_t i = 0; i < k_ * k_; ++i) ASSERT_NEAR(factor->r[i], v_["R"].data[i], 1e-9);
  for (const LoopFactor::Group& g : impl().factor.groups) {
    for (int64_t i = 0; i < g.size; ++i) {
      for (int64_t j = 0; j < g.size; ++j) {
        const double expected = v_["R"].data[(g.begin + i) * k_ + g.begin + j];
        ASSERT_NEAR(g.r[i * g.size + j], expected, 1e-6 * (1.0 + std::fabs(expected)));
      }
    }
  }
}

TEST_P(RecipeVectors, WeightedStart) {
  const std::vector<float> w = Tiles();
  const LoopFactor::Group& group = impl().factor.groups[0];
  StartOptions options;
  options.q = GetParam().q;
  options.offset = true;
  int close = 0;
  for (int64_t r = 0; r < n_; r += kLanes) {
    FreeScales scales;
    BestTileKernels().start_free(w.data() + r * k_, group.omega.data(), group.size, options,
                                 &scales);
    for (int lane = 0; lane < kLanes; ++lane) {
      double worst = std::fabs(scales.z[lane] - v_["start_z"].data[r + lane]);
      for (int i = 0; i < options.q; ++i) {
        const double alpha = v_["start_alpha"].data[(r + lane) * options.q + i];
        worst = std::max(worst, std::fabs(scales.alpha[i][lane] - alpha));
      }
      close += worst < 1e-4 * v_["start_alpha"].data[(r + lane) * options.q];
    }
  }
  // A weight that lies on a midpoint to fp32's precision may go the other way.
  EXPECT_GE(close, n_ * 95 / 100);
}

TEST_P(RecipeVectors, GroupLoop) {
  std::vector<float> w = Tiles();
  const int64_t tiles = (n_ + kLanes - 1) / kLanes;
  std::vector<double> g0[4];
  int64_t same_codes = 0;
  const GroupLoopObserver observer = [&](int64_t group, int round, const uint8_t* codes,
                                         const float* losses) {
    if (group != 0) return;
    const int64_t tile = static_cast<int64_t>(g0[round].size()) / kLanes;
    g0[round].insert(g0[round].end(), losses, losses + kLanes);
    if (round != 0) return;
    for (int64_t j = 0; j < 128; ++j) {
      for (int lane = 0; lane < kLanes; ++lane) {
        same_codes +=
            codes[j * kLanes + lane] == v_["g0_round0_code"].data[(tile * kLanes + lane) * 128 + j];
      }
    }
  };
  const std::vector<GroupLoopTile> out = RunGroupLoop(BestTileKernels(), impl().factor, Options(),
                                                      static_cast<int>(tiles), w.data(), &observer);
  EXPECT_GE(same_codes, n_ * 128 * 95 / 100);
  for (int round : {0, 3}) {
    double mine = 0.0, theirs = 0.0;
    for (int64_t r = 0; r < n_; ++r) {
      mine += g0[round][r];
      theirs += v_["g0_round" + std::to_string(round) + "_loss"].data[r];
    }
    EXPECT_NEAR(mine / theirs, 1.0, 0.005) << "round " << round;
  }
  EXPECT_NEAR(RelativeLoss(out) / GetParam().loop, 1.0, 0.01);
}

// One sweep from the vectors' own state before it, so that only this stage's rounding differs.
TEST_P(RecipeVectors, OneSweep) {
  const std::vector<float> original = Tiles();
  for (const auto& [scales, codes, sweep] :
       {std::tuple("loop", "loop_code", "0"), std::tuple("refit0", "sweep0_code", "1")}) {
    std::vector<GroupLoopTile> tiles = State(scales, codes);
    RunSweeps(BestTileKernels(), impl().factor, Options(), 1, original.data(), &tiles);
    const std::string refit = std::string("refit") + sweep;
    const std::vector<GroupLoopTile> expected =
        State(refit, std::string("sweep") + sweep + "_code");
    int64_t same = 0, rows = 0, close = 0;
    for (int64_t r = 0; r < n_; ++r) {
      const GroupLoopTile &mine = tiles[r / kLanes], &theirs = expected[r / kLanes];
      const int64_t lane = r % kLanes;
      int64_t row = 0;
      for (int64_t p = 0; p < k_; ++p) {
        row += mine.codes[p * kLanes + lane] == theirs.codes[p * kLanes + lane];
      }
      same += row;
      if (row < k_) continue;  // another code, another refit
      ++rows;
      double worst = 0.0;
      for (size_t g = 0; g < mine.scales.size(); ++g) {
        const FreeScales &a = mine.scales[g].free, &b = theirs.scales[g].free;
        worst = std::max<double>(worst, std::fabs(a.z[lane] - b.z[lane]));
        for (int i = 0; i < GetParam().q; ++i) {
          worst = std::max<double>(worst, std::fabs(a.alpha[i][lane] - b.alpha[i][lane]));
        }
      }
      close += worst < 1e-3 * theirs.scales[0].free.alpha[0][lane];
    }
    EXPECT_GE(same, n_ * k_ * 99 / 100) << "sweep " << sweep;
    EXPECT_GE(rows, n_ * 8 / 10) << "sweep " << sweep;
    EXPECT_GE(close, rows * 95 / 100) << "sweep " << sweep;
    EXPECT_NEAR(RelativeLoss(tiles) / RelativeLoss(expected), 1.0, 1e-3) << "sweep " << sweep;
  }
}

TEST_P(RecipeVectors, WholeRecipe) {
  std::vector<float> w = Tiles();
  const std::vector<float> original = w;
  std::vector<GroupLoopTile> tiles =
      RunGroupLoop(BestTileKernels(), impl().factor, Options(),
                   static_cast<int>((n_ + kLanes - 1) / kLanes), w.data());
  std::vector<double> descended, refitted;
  const SweepObserver observer = [&](int, bool refit, const std::vector<GroupLoopTile>& state) {
    (refit ? refitted : descended).push_back(RelativeLoss(state));
  };
  RunSweeps(BestTileKernels(), impl().factor, Options(), 2, original.data(), &tiles, &observer);
  ASSERT_EQ(refitted.size(), 2u);
  EXPECT_NEAR(descended[0] / GetParam().sweep, 1.0, 0.01);
  EXPECT_NEAR(refitted[1] / GetParam().end, 1.0, 0.01);
}

INSTANTIATE_TEST_SUITE_P(
    Files, RecipeVectors,
    ::testing::Values(Case{"smol_l5_q_k256_b2.npz", 2, .03850, .03583, .03474},
                      Case{"smol_l5_q_k256_b3.npz", 3, .01178, .01094, .01060},
                      Case{"smol_l5_q_k256_b4.npz", 4, .00360, .00335, .00323},
                      Case{"smol_l5_q_k320tail_b2.npz", 2, .02556, .02323, .02215},
                      Case{"smol_l5_q_k320tail_b3.npz", 3, .00715, .00652, .00623},
                      Case{"smol_l5_q_k320tail_b4.npz", 4, .00212, .00195, .00186}),
    [](const auto& info) {
      const std::string name = info.param.file;
      return name.substr(10, name.size() - 14);
    });

}  // namespace
}  // namespace shiftadd::quantize
