#include "worker/quantize/layer_quantizer.h"

#include <cmath>
#include <limits>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/rotation.h"
#include "services/base/digest.h"
#include "worker/quantize/testing/layers.h"

namespace shiftadd::quantize {
namespace {

using testing::CorrelatedHessian;
using testing::GaussianWeights;
using ::testing::HasSubstr;
using testing::LayerBlob;
using testing::QuadraticError;
using testing::Quantize;
using testing::Recipe;

struct Variant {
  const char* name;
  QuantRecipe recipe;
};

std::vector<Variant> Variants() {
  std::vector<Variant> out = {{"rtn", Recipe(QuantMethod::kRtn)},
                              {"lat", Recipe(QuantMethod::kLat)},
                              {"shiftadd", Recipe(QuantMethod::kShiftAdd)}};
  QuantRecipe r = Recipe(QuantMethod::kShiftAdd);
  r.offset = true;
  out.push_back({"shift_offset", r});
  r.scales = QuantScales::kFree;
  r.order = QuantOrder::kGar;
  r.rotation = QuantRotation::kNone;
  out.push_back({"free_offset_gar", r});
  r.offset = false;
  r.group = 32;
  out.push_back({"free_group32", r});
  r = Recipe(QuantMethod::kShiftAdd);
  r.group = -1;
  out.push_back({"shift_whole_row", r});
  r = Recipe(QuantMethod::kRtn);
  r.group = -1;
  out.push_back({"rtn_whole_row", r});
  r = Recipe(QuantMethod::kLat);
  r.group = -1;
  out.push_back({"lat_whole", r});
  r.apot_terms = 0;
  out.push_back({"lat_whole_free", r});
  out.push_back({"optq", Recipe(QuantMethod::kOptq)});
  r = Recipe(QuantMethod::kOptq);
  r.group = 32;
  r.order = QuantOrder::kNatural;
  out.push_back({"optq_natural_32", r});
  r = Recipe(QuantMethod::kAcc);
  out.push_back({"acc", r});
  r.rotation = QuantRotation::kButterfly;
  out.push_back({"acc_butterfly", r});
  r.group = -1;
  r.apot_terms = 0;
  out.push_back({"acc_butterfly_whole_free", r});
  r.rotation = QuantRotation::kNone;
  out.push_back({"acc_whole_free", r});
  return out;
}

class EveryVariant : public ::testing::TestWithParam<Variant> {
 protected:
  // Quantizes and checks the blob against the figures that come with it.
  void Check(const std::vector<float>& w, int64_t n, int64_t k, const HessianMatrix& h,
             const std::vector<int>& bits) {
    const auto candidates = Quantize(w, n, k, h, GetParam().recipe, bits);
    ASSERT_TRUE(candidates.ok()) << candidates.status();
    ASSERT_EQ(candidates->size(), bits.size());
    const std::vector<float> zero(w.size(), 0.0f);
    double norm = 0.0;
    for (const float x : w) norm += static_cast<double>(x) * x;
    const double base = QuadraticError(w, zero, n, h);
    for (size_t i = 0; i < bits.size(); ++i) {
      const Candidate& c = (*candidates)[i];
      const LayerBlob blob(c.blob, GetParam().recipe.seed);
      EXPECT_EQ(c.bits, bits[i]);
      if (GetParam().recipe.method == QuantMethod::kAcc) {
        EXPECT_EQ(blob.metadata().at("simulated"), "acc");
        EXPECT_EQ(blob.metadata().at("simulated_planes"), std::to_string(bits[i]));
        const int64_t group = GetParam().recipe.group > 0 ? GetParam().recipe.group : n;
        EXPECT_EQ(c.stored_bytes, bits[i] * k * ((n + 31) / 32 * 4 + (n + group - 1) / group * 2));
      } else {
        EXPECT_EQ(blob.matrix().q, bits[i]);
        EXPECT_EQ(c.stored_bytes, kernels::StoredBytes(blob.matrix()));
      }
      EXPECT_NEAR(c.stored_bits * static_cast<double>(n * k),
                  8.0 * static_cast<double>(c.stored_bytes), 1e-6);
      const std::vector<float> what = blob.Weights();
      double error = 0.0;
      for (size_t j = 0; j < w.size(); ++j) {
        ASSERT_TRUE(std::isfinite(what[j])) << j;
        error += (static_cast<double>(w[j]) - what[j]) * (w[j] - what[j]);
      }
      EXPECT_NEAR(c.weight_error, norm > 0.0 ? error / norm : 0.0, 1e-6 + 1e-5 * c.weight_error);
      const double output = base > 0.0 ? QuadraticError(w, what, n, h) / base : 0.0;
      EXPECT_NEAR(c.output_error, output, 1e-5 + 1e-4 * output);
      EXPECT_DOUBLE_EQ(c.importance, static_cast<double>(n * k) * c.output_error);
    }
  }
};

INSTANTIATE_TEST_SUITE_P(Methods, EveryVariant, ::testing::ValuesIn(Variants()),
                         [](const auto& info) { return info.param.name; });

TEST_P(EveryVariant, BlobSaysWhatTheFiguresSay) {
  Check(GaussianWeights(50, 192, 1), 50, 192, CorrelatedHessian(192, 2), {2, 3, 4});
}

TEST_P(EveryVariant, EveryWidth) {
  Check(GaussianWeights(5, 64, 1), 5, 64, CorrelatedHessian(64, 2), {1, 2, 3, 4, 5, 6, 7, 8});
}

TEST_P(EveryVariant, MoreBitsLessError) {
  const auto c = Quantize(GaussianWeights(64, 320, 5), 64, 320, CorrelatedHessian(320, 6),
                          GetParam().recipe, {1, 2, 3, 4});
  ASSERT_TRUE(c.ok()) << c.status();
  for (size_t i = 1; i < c->size(); ++i) EXPECT_LT((*c)[i].output_error, (*c)[i - 1].output_error);
  EXPECT_LT((*c)[3].output_error, 0.05);
}

TEST_P(EveryVariant, BytesDoNotDependOnThreadsOrOtherWidths) {
  const std::vector<float> w = GaussianWeights(100, 160, 3);
  const HessianMatrix h = CorrelatedHessian(160, 4);
  const auto one = Quantize(w, 100, 160, h, GetParam().recipe, {2, 3, 4}, 1);
  const auto seven = Quantize(w, 100, 160, h, GetParam().recipe, {2, 3, 4}, 7);
  const auto alone = Quantize(w, 100, 160, h, GetParam().recipe, {3}, 2);
  ASSERT_TRUE(one.ok() && seven.ok() && alone.ok());
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ((*one)[i].blob, (*seven)[i].blob);
    EXPECT_EQ((*one)[i].output_error, (*seven)[i].output_error);
  }
  EXPECT_EQ((*one)[1].blob, (*alone)[0].blob);
}

TEST_P(EveryVariant, OddShapes) {
  for (const auto& [n, k] : std::vector<std::pair<int64_t, int64_t>>{
           {1, 1}, {1, 5}, {3, 7}, {17, 33}, {1, 128}, {2, 129}, {33, 96}, {9, 140}}) {
    SCOPED_TRACE(::testing::Message() << n << " x " << k);
    Check(GaussianWeights(n, k, 9), n, k, CorrelatedHessian(k, 10), {2, 3});
  }
}

TEST_P(EveryVariant, HardWeights) {
  const int64_t n = 20, k = 160;
  const HessianMatrix h = CorrelatedHessian(k, 11);
  Check(std::vector<float>(n * k, 0.0f), n, k, h, {2, 4});
  std::vector<float> w = GaussianWeights(n, k, 12);
  for (int64_t i = 0; i < k; ++i) {
    w[i] = 0.0f;                            // an all-zero row
    w[k + i] = 0.3f;                        // a constant one
    w[2 * k + i] = i == 5 ? 100.0f : 0.0f;  // one big weight
    w[3 * k + i] = -1e-4f;
    w[4 * k + i] = i < 128 ? 0.5f : 0.0f;
  }
  Check(w, n, k, h, {1, 2, 3, 4});
}

TEST_P(EveryVariant, HardHessians) {
  const int64_t n = 18, k = 160;
  const std::vector<float> w = GaussianWeights(n, k, 13);
  HessianMatrix zero;
  zero.k = k;
  zero.tokens = 10;
  zero.h.assign(k * k, 0.0);
  Check(w, n, k, zero, {2, 3});
  // A layer that saw no token keeps its weights as well as it can.
  const auto unseen = Quantize(w, n, k, zero, GetParam().recipe, {4});
  ASSERT_TRUE(unseen.ok());
  EXPECT_LT((*unseen)[0].weight_error, 0.1);
  HessianMatrix rank_one = zero;
  for (int64_t i = 0; i < k * k; ++i) rank_one.h[i] = std::cos(i / k) * std::cos(i % k);
  Check(w, n, k, rank_one, {2, 3});
  // A calibration text of one token, over and over.
  for (const QuantHessian kind :
       {QuantHessian::kPlain, QuantHessian::kRms, QuantHessian::kGuided}) {
    const std::vector<float> token = GaussianWeights(1, k, 27), ones(4, 1e-6f);
    std::vector<float> x;
    for (int t = 0; t < 4; ++t) x.insert(x.end(), token.begin(), token.end());
    auto sums = HessianAccumulator::Create(k, kind);
    sums->Add(0, x.data(), 4, kind == QuantHessian::kGuided ? ones.data() : nullptr);
    Check(w, n, k, *sums->Finish(), {2, 3});
  }
  HessianMatrix dead = CorrelatedHessian(k, 14);
  for (int64_t i = 0; i < k * k; ++i) {
    if (i / k % 3 == 0 || i % k % 3 == 0 || i / k > 130 || i % k > 130) dead.h[i] = 0.0;
  }
  Check(w, n, k, dead, {2, 3});
  HessianMatrix tiny = CorrelatedHessian(k, 15), huge = tiny;
  for (double& x : tiny.h) x *= 1e-30;
  for (double& x : huge.h) x *= 1e30;
  const auto a = Quantize(w, n, k, tiny, GetParam().recipe, {3}),
             b = Quantize(w, n, k, huge, GetParam().recipe, {3});
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_NEAR((*a)[0].output_error, (*b)[0].output_error, 1e-2 * (*b)[0].output_error);
}

TEST_P(EveryVariant, BadInputNamesTheTensor) {
  const int64_t n = 4, k = 64;
  const HessianMatrix h = CorrelatedHessian(k, 16);
  std::vector<float> w = GaussianWeights(n, k, 17);
  const auto expect = [&](const std::vector<float>& weights, const char* what) {
    const auto c = Quantize(weights, n, k, h, GetParam().recipe, {2});
    EXPECT_EQ(c.status().code(), absl::StatusCode::kInvalidArgument) << what;
    EXPECT_THAT(std::string(c.status().message()), HasSubstr("blocks.0.attn.q")) << what;
  };
  std::vector<float> bad = w;
  bad[70] = std::numeric_limits<float>::quiet_NaN();
  expect(bad, "NaN");
  bad[70] = std::numeric_limits<float>::infinity();
  expect(bad, "infinity");
  bad[70] = 3e38f;
  expect(bad, "overflow");
  bad = w;
  for (float& x : bad) x *= 1e-12f;
  expect(bad, "underflow");
  bad = w;
  bad.pop_back();
  expect(bad, "size");
  EXPECT_EQ(Quantize(w, n, k, h, GetParam().recipe, {9}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Quantize(w, n, k, h, GetParam().recipe, {0}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

// Weights that the planes can say come out as they are, whatever the Hessian.
TEST_P(EveryVariant, ExactWeightsComeOutExactly) {
  const QuantRecipe& recipe = GetParam().recipe;
  const bool grid = recipe.method == QuantMethod::kRtn || recipe.method == QuantMethod::kOptq;
  const int64_t n = 48, k = 192;
  const int q = grid ? 3 : 2;
  std::vector<float> w(n * k);
  std::mt19937 engine(24);
  for (int64_t i = 0; i < n * k; ++i) {
    if (grid) {  // eight equal steps, one of them zero; both ends in every group
      const int m = i % 32 < 2 ? static_cast<int>(7 * (i % 32)) : static_cast<int>(engine() % 8);
      w[i] = 0.03125f * static_cast<float>(m - 3);
    } else {  // +-1/16 +-1/32
      w[i] = (engine() % 2 != 0 ? 0.0625f : -0.0625f) + (engine() % 2 != 0 ? 1.0f : -1.0f) / 32;
    }
  }
  std::vector<float> rotated = w;
  const bool rotate = recipe.rotation == QuantRotation::kWht128;
  const std::vector<uint32_t> signs = RotationSigns(recipe.seed, k);
  for (int64_t r = 0; rotate && r < n; ++r) {
    kernels::Unrotate(rotated.data() + r * k, k, signs.data());
  }
  const auto c = Quantize(rotated, n, k, CorrelatedHessian(k, 25), recipe, {q});
  ASSERT_TRUE(c.ok()) << c.status();
  if (recipe.rotation == QuantRotation::kButterfly) {
    EXPECT_LT((*c)[0].weight_error, 0.4);  // no longer a few levels
    return;
  }
  const std::vector<float> what = LayerBlob((*c)[0].blob, recipe.seed).Weights();
  int64_t exact = 0;
  for (int64_t r = 0; r < n; ++r) {
    float worst = 0.0f;
    for (int64_t i = r * k; i < (r + 1) * k; ++i) {
      worst = std::max(worst, std::fabs(what[i] - rotated[i]));
    }
    exact += worst <= (rotate ? 1e-6f : 0.0f);
  }
  // A weighted mean far from zero, where the fit of an offset starts, may lead elsewhere.
  EXPECT_GE(exact, recipe.offset ? n / 2 : n);
}

TEST(LayerQuantizer, ShiftAddBeatsLatBeatsNothing) {
  const int64_t n = 64, k = 256;
  const std::vector<float> w = GaussianWeights(n, k, 20);
  const HessianMatrix h = CorrelatedHessian(k, 21);
  const auto rtn = Quantize(w, n, k, h, Recipe(QuantMethod::kRtn), {2, 3, 4});
  const auto lat = Quantize(w, n, k, h, Recipe(QuantMethod::kLat), {2, 3, 4});
  const auto shiftadd = Quantize(w, n, k, h, Recipe(QuantMethod::kShiftAdd), {2, 3, 4});
  ASSERT_TRUE(rtn.ok() && lat.ok() && shiftadd.ok());
  for (int i = 0; i < 3; ++i) {
    EXPECT_LT((*shiftadd)[i].output_error, 0.6 * (*rtn)[i].output_error);
    EXPECT_LT((*shiftadd)[i].output_error, (*lat)[i].output_error);
    EXPECT_LT((*lat)[i].output_error, 0.8 * (*rtn)[i].output_error);
  }
  EXPECT_NEAR((*shiftadd)[1].stored_bits, 3.0 + 20.0 / 128, 1e-9);
  EXPECT_NEAR((*rtn)[1].stored_bits, 3.0 + 36.0 / 128, 1e-9);
}

TEST(LayerQuantizer, ChecksTheRecipe) {
  const HessianMatrix h = CorrelatedHessian(64, 22);
  const std::vector<float> w = GaussianWeights(4, 64, 23);
  QuantRecipe recipe = Recipe(QuantMethod::kShiftAdd);
  const auto prepared = PreparedHessian::Create(h, recipe);
  ASSERT_TRUE(prepared.ok());
  recipe.rotation = QuantRotation::kNone;
  EXPECT_THAT(
      std::string(
          QuantizeLayer("x", w, 4, 64, {*prepared}, recipe, {2}, 1, nullptr).status().message()),
      HasSubstr("another recipe"));
  recipe.rotation = QuantRotation::kWht128;
  recipe.group = 40;
  EXPECT_FALSE(QuantizeLayer("x", w, 4, 64, {*prepared}, recipe, {2}, 1, nullptr).ok());
  recipe.group = 128;
  for (const double damping : {std::numeric_limits<double>::quiet_NaN(), 1e6}) {
    recipe.damping = damping;
    EXPECT_EQ(PreparedHessian::Create(h, recipe).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
  recipe.damping = 0.01;
  HessianMatrix bad = h;
  bad.h[3] = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(PreparedHessian::Create(bad, recipe).status().code(),
            absl::StatusCode::kInvalidArgument);
  bad.h.pop_back();
  EXPECT_EQ(PreparedHessian::Create(bad, recipe).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(LayerQuantizer, Cancels) {
  TaskControl control;
  control.cancelled = true;
  const QuantRecipe recipe = Recipe(QuantMethod::kShiftAdd);
  const auto prepared = PreparedHessian::Create(CorrelatedHessian(64, 22), recipe);
  ASSERT_TRUE(prepared.ok());
  EXPECT_EQ(
      QuantizeLayer("x", GaussianWeights(4, 64, 23), 4, 64, {*prepared}, recipe, {2}, 2, &control)
          .status()
          .code(),
      absl::StatusCode::kCancelled);
}

TEST(RotationSigns, AreTheDigestsOfTheirPositions) {
  const std::vector<uint32_t> signs = RotationSigns(7, 70);
  ASSERT_EQ(signs.size(), 3u);
  EXPECT_EQ(signs[2] >> 6, 0u);
  std::string text = "wht128";
  for (const uint64_t part : {7, 70, 41}) {
    text.append(reinterpret_cast<const char*>(&part), 8);
  }
  EXPECT_EQ((signs[1] >> (41 - 32)) & 1u, static_cast<unsigned char>(Sha256Raw(text)[0]) & 1u);
  EXPECT_NE(RotationSigns(8, 70), signs);
}

TEST(QuantizeInt8, ThreadsGiveTheSameBytes) {
  const int64_t n = 700, k = 200;
  const std::vector<float> w = GaussianWeights(n, k, 31);
  const Int8Matrix one = QuantizeInt8("embed", w, n, k).value();
  const Int8Matrix many = QuantizeInt8("embed", w, n, k, 4).value();
  EXPECT_EQ(one.codes, many.codes);
  EXPECT_EQ(one.scale, many.scale);
}

TEST(QuantizeInt8, HalfAStep) {
  const int64_t n = 3, k = 200;
  std::vector<float> w = GaussianWeights(n, k, 30);
  for (int64_t i = 0; i < k; ++i) w[k + i] = 0.0f;
  const auto m = QuantizeInt8("embed", w, n, k);
  ASSERT_TRUE(m.ok());
  ASSERT_EQ(m->scale.size(), 6u);
  for (int64_t i = 0; i < n * k; ++i) {
    const float scale = kernels::HalfToFloat(m->scale[i / k * 2 + i % k / 128]);
    EXPECT_NEAR(w[i], scale * m->codes[i], 0.5f * scale * 1.15f)
        << i;  // 127 steps of a rounded scale may fall short
  }
  w[0] = std::numeric_limits<float>::infinity();
  EXPECT_THAT(std::string(QuantizeInt8("embed", w, n, k).status().message()), HasSubstr("embed"));
}

}  // namespace
}  // namespace shiftadd::quantize
