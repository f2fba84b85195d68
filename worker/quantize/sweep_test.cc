// Coordinate descent and joint refit against a plain float64 reading of the method.
#include "worker/quantize/sweep.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/packed_matrix.h"
#include "worker/quantize/small_solve.h"
#include "worker/quantize/testing/layers.h"

namespace shiftadd::quantize {
namespace {

struct Case {
  const char* name;
  int q;
  QuantScales scales;
  bool offset;
  int64_t group;  // 0: the whole row
};

class SweepTest : public ::testing::TestWithParam<Case> {
 protected:
  static constexpr int64_t kRows = 20, kWidth = 208, kTiles = 2;

  void SetUp() override {
    QuantRecipe recipe = testing::Recipe(QuantMethod::kShiftAdd);
    recipe.rotation = QuantRotation::kNone;
    recipe.group = GetParam().group;
    prepared_ = *PreparedHessian::Create(testing::CorrelatedHessian(kWidth, 70), recipe);
    options_.q = GetParam().q;
    options_.scales = GetParam().scales;
    options_.offset = GetParam().offset;
    original_.assign(kTiles * kWidth * kLanes, 0.0f);
    const std::vector<float> w = testing::GaussianWeights(kRows, kWidth, 71);
    for (int64_t i = 0; i < kRows * kWidth; ++i) original_[Index(i / kWidth, i % kWidth)] = w[i];
    std::vector<float> scratch = original_;
    tiles_ = RunGroupLoop(BestTileKernels(), factor(), options_, kTiles, scratch.data());
  }

  const LoopFactor& factor() const { return Impl(*prepared_).factor; }
  static int64_t Index(int64_t row, int64_t p) {
    return (row / kLanes * kWidth + p) * kLanes + row % kLanes;
  }
  int64_t GroupOf(int64_t p) const { return p / factor().groups[0].size; }
  double H(int64_t i, int64_t j) const { return factor().h.at(i, j); }

  // A row on the text's terms.
  struct Row {
    std::vector<std::vector<double>> scales;  // by group: UnknownsOf of them
    std::vector<int> codes;
  };
  Row RowOf(std::vector<GroupLoopTile>& tiles, int64_t row) {
    Row out;
    for (GroupScales& scales : tiles[row / kLanes].scales) {
      out.scales.emplace_back();
      for (int i = 0; i < UnknownsOf(options_); ++i) {
        out.scales.back().push_back(ScaleOf(options_, i, &scales)[row % kLanes]);
      }
    }
    for (int64_t p = 0; p < kWidth; ++p) {
      out.codes.push_back(tiles[row / kLanes].codes[p * kLanes + row % kLanes]);
    }
    return out;
  }
  // What scale i of a group is multiplied with under a code.
  double Design(int64_t row, int64_t g, int i, int code) {
    if (options_.offset && i == UnknownsOf(options_) - 1) return 1.0;
    if (options_.scales == QuantScales::kFree) return ((code >> i) & 1) != 0 ? 1.0 : -1.0;
    const kernels::ExponentTable table = kernels::DefaultExponentTable(options_.q);
    const int set = tiles_[row / kLanes].scales[g].shift.set[row % kLanes];
    double unit = 0.0;
    for (int b = 0; b < options_.q; ++b) {
      unit += (((code >> b) & 1) != 0 ? 1.0 : -1.0) * std::exp2(table.exponents[set][b]);
    }
    return unit;
  }
  double Level(int64_t row, const Row& state, int64_t p, int code) {
    double level = 0.0;
    for (int i = 0; i < UnknownsOf(options_); ++i) {
      level += state.scales[GroupOf(p)][i] * Design(row, GroupOf(p), i, code);
    }
    return level;
  }
  std::vector<double> Residual(int64_t row, const Row& state) {
    std::vector<double> r(kWidth, 0.0);
    for (int64_t i = 0; i < kWidth; ++i) {
      const double d = original_[Index(row, i)] - Level(row, state, i, state.codes[i]);
      for (int64_t j = 0; j < kWidth; ++j) r[j] += d * H(i, j);
    }
    return r;
  }
  double Loss(int64_t row, const Row& state) {
    const std::vector<double> r = Residual(row, state);
    double loss = 0.0;
    for (int64_t i = 0; i < kWidth; ++i) {
      loss += r[i] * (original_[Index(row, i)] - Level(row, state, i, state.codes[i]));
    }
    return loss;
  }
  void NaiveDescent(int64_t row, Row* state) {
    std::vector<double> r = Residual(row, *state);
    for (int64_t p = 0; p < kWidth; ++p) {
      const double old = Level(row, *state, p, state->codes[p]), t = old + r[p] / H(p, p);
      int best = 0;
      for (int c = 1; c < (1 << options_.q); ++c) {
        if (std::fabs(t - Level(row, *state, p, c)) < std::fabs(t - Level(row, *state, p, best))) {
          best = c;
        }
      }
      state->codes[p] = best;
      const double moved = Level(row, *state, p, best) - old;
      for (int64_t j = 0; j < kWidth; ++j) r[j] -= moved * H(p, j);
    }
  }
  void NaiveRefit(int64_t row, Row* state) {
    const int r = UnknownsOf(options_), total = r * static_cast<int>(state->scales.size());
    const auto phi = [&](int u, int64_t p) {
      return GroupOf(p) == u / r ? Design(row, u / r, u % r, state->codes[p]) : 0.0;
    };
    const std::vector<double> residual = Residual(row, *state);
    std::vector<double> a(total * total, 0.0), b(total, 0.0);
    double diagonal = 0.0;
    for (int u = 0; u < total; ++u) {
      std::vector<double> product(kWidth, 0.0);
      for (int64_t i = 0; i < kWidth; ++i) {
        const double x = phi(u, i);
        b[u] += x * residual[i];
        for (int64_t j = 0; x != 0.0 && j < kWidth; ++j) product[j] += x * H(i, j);
      }
      for (int v = 0; v < total; ++v) {
        for (int64_t j = 0; j < kWidth; ++j) a[u * total + v] += product[j] * phi(v, j);
      }
      diagonal += a[u * total + u];
    }
    for (int u = 0; u < total; ++u) a[u * total + u] += 1e-6 * diagonal / total;
    ASSERT_TRUE(SolveSpd(total, a.data(), b.data()));
    for (int u = 0; u < total; ++u) state->scales[u / r][u % r] += b[u];
  }

  std::shared_ptr<const PreparedHessian> prepared_;
  GroupLoopOptions options_;
  std::vector<float> original_;
  std::vector<GroupLoopTile> tiles_;
};

INSTANTIATE_TEST_SUITE_P(Kinds, SweepTest,
                         ::testing::Values(Case{"shift2", 2, QuantScales::kShift, false, 64},
                                           Case{"shift3_offset", 3, QuantScales::kShift, true, 128},
                                           Case{"shift4_row", 4, QuantScales::kShift, false, 0},
                                           Case{"shift1", 1, QuantScales::kShift, false, 32},
                                           Case{"free2", 2, QuantScales::kFree, false, 128},
                                           Case{"free3_offset", 3, QuantScales::kFree, true, 64},
                                           Case{"free4_row", 4, QuantScales::kFree, true, 0}),
                         [](const auto& info) { return info.param.name; });

TEST_P(SweepTest, MatchesAPlainReading) {
  std::vector<GroupLoopTile> swept = tiles_;
  RunSweeps(BestTileKernels(), factor(), options_, 1, original_.data(), &swept);
  int64_t same_rows = 0, close = 0;
  double mine = 0.0, theirs = 0.0;
  for (int64_t row = 0; row < kRows; ++row) {
    Row expected = RowOf(tiles_, row);
    NaiveDescent(row, &expected);
    NaiveRefit(row, &expected);
    const Row found = RowOf(swept, row);
    mine += Loss(row, found);
    theirs += Loss(row, expected);
    if (found.codes != expected.codes) continue;  // a tie to fp32's precision fell the other way
    ++same_rows;
    double worst = 0.0;
    for (size_t g = 0; g < found.scales.size(); ++g) {
      for (size_t i = 0; i < found.scales[g].size(); ++i) {
        worst = std::max(worst, std::fabs(found.scales[g][i] - expected.scales[g][i]));
      }
    }
    close += worst < 1e-3 * std::fabs(expected.scales[0][0]);
  }
  EXPECT_GE(same_rows, kRows * 8 / 10);
  EXPECT_GE(close, same_rows * 9 / 10);
  EXPECT_NEAR(mine / theirs, 1.0, 1e-3);
}

TEST_P(SweepTest, EveryStepLowersTheLossOfEveryRow) {
  std::vector<double> before(kRows);
  for (int64_t row = 0; row < kRows; ++row) before[row] = Loss(row, RowOf(tiles_, row));
  int steps = 0;
  const SweepObserver observer = [&](int, bool, const std::vector<GroupLoopTile>& state) {
    std::vector<GroupLoopTile> copy = state;
    for (int64_t row = 0; row < kRows; ++row) {
      const double loss = Loss(row, RowOf(copy, row));
      EXPECT_LE(loss, before[row] * (1.0 + 1e-4)) << "row " << row << ", step " << steps;
      before[row] = loss;
    }
    ++steps;
  };
  std::vector<GroupLoopTile> swept = tiles_;
  RunSweeps(BestTileKernels(), factor(), options_, 3, original_.data(), &swept, &observer);
  EXPECT_EQ(steps, 6);
}

TEST_P(SweepTest, TilesAndInstructionSetsDoNotMatter) {
  std::vector<GroupLoopTile> together = tiles_;
  RunSweeps(BestTileKernels(), factor(), options_, 2, original_.data(), &together);
  for (const kernels::Isa isa :
       {kernels::Isa::kPortable, kernels::Isa::kAvx2, kernels::Isa::kAvx512}) {
    for (int t = 0; t < kTiles; ++t) {
      std::vector<GroupLoopTile> alone = {tiles_[t]};
      RunSweeps(TileKernelsFor(isa), factor(), options_, 2, original_.data() + t * kWidth * kLanes,
                &alone);
      EXPECT_EQ(alone[0].codes, together[t].codes);
      std::vector<GroupLoopTile> padded(kTiles, alone[0]);
      for (int64_t row = t * kLanes; row < std::min<int64_t>(kRows, (t + 1) * kLanes); ++row) {
        EXPECT_EQ(RowOf(padded, row).scales, RowOf(together, row).scales);
      }
    }
  }
}

TEST(Sweep, SingularRefitMovesNothing) {
  // Weights of zero: every scale is 0, every level the same; nothing may become NaN.
  QuantRecipe recipe = testing::Recipe(QuantMethod::kShiftAdd);
  recipe.rotation = QuantRotation::kNone;
  const auto prepared = *PreparedHessian::Create(testing::CorrelatedHessian(64, 72), recipe);
  GroupLoopOptions options;
  options.q = 4;
  options.scales = QuantScales::kFree;
  options.offset = true;
  const std::vector<float> zero(64 * kLanes, 0.0f);
  std::vector<float> scratch = zero;
  const LoopFactor& factor = Impl(*prepared).factor;
  std::vector<GroupLoopTile> tiles =
      RunGroupLoop(BestTileKernels(), factor, options, 1, scratch.data());
  RunSweeps(BestTileKernels(), factor, options, 2, zero.data(), &tiles);
  for (int i = 0; i < 5; ++i) {
    for (int lane = 0; lane < kLanes; ++lane) {
      EXPECT_NEAR(ScaleOf(options, i, &tiles[0].scales[0])[lane], 0.0f, 1e-6f);
    }
  }
}

}  // namespace
}  // namespace shiftadd::quantize
