// Layers quantized in shards of rows and in chunks of rows with a Hessian each.
#include <algorithm>
#include <cmath>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/quantize/layer_blob.h"
#include "worker/quantize/layer_quantizer.h"
#include "worker/quantize/testing/layers.h"

namespace shiftadd::quantize {
namespace {

using testing::CorrelatedHessian;
using testing::GaussianWeights;
using ::testing::HasSubstr;
using testing::Recipe;

constexpr char kName[] = "blocks.0.attn.q";

using Hessians = std::vector<std::shared_ptr<const PreparedHessian>>;

Hessians Prepared(const QuantRecipe& recipe, int64_t k, int count) {
  Hessians out;
  for (int c = 0; c < count; ++c) {
    out.push_back(*PreparedHessian::Create(CorrelatedHessian(k, 50 + c), recipe));
  }
  return out;
}

std::vector<float> Rows(const std::vector<float>& w, int64_t k, int64_t begin, int64_t end) {
  return std::vector<float>(w.begin() + begin * k, w.begin() + end * k);
}

struct Case {
  const char* name;
  QuantRecipe recipe;
};

std::vector<Case> Cases() {
  std::vector<Case> out;
  for (const bool offset : {false, true}) {
    for (const QuantScales scales : {QuantScales::kShift, QuantScales::kFree}) {
      QuantRecipe r = Recipe(QuantMethod::kShiftAdd);
      r.offset = offset;
      r.scales = scales;
      r.group = offset ? 32 : 128;
      out.push_back({scales == QuantScales::kShift ? (offset ? "shift_offset" : "shift")
                                                   : (offset ? "free_offset" : "free"),
                     r});
    }
  }
  out.push_back({"lat", Recipe(QuantMethod::kLat)});
  out.push_back({"lat_whole", Recipe(QuantMethod::kLat)});
  out.back().recipe.group = -1;
  out.push_back({"optq", Recipe(QuantMethod::kOptq)});
  out.push_back({"acc", Recipe(QuantMethod::kAcc)});
  out.back().recipe.group = 32;
  out.push_back({"acc_butterfly", Recipe(QuantMethod::kAcc)});
  out.back().recipe.rotation = QuantRotation::kButterfly;
  out.push_back({"rtn", Recipe(QuantMethod::kRtn)});
  out.push_back({"rtn_whole", Recipe(QuantMethod::kRtn)});
  out.back().recipe.group = 0;
  return out;
}

class Shards : public ::testing::TestWithParam<Case> {
 protected:
  // Quantizes shards of about n / `parts` rows and joins them.
  std::vector<std::string> Joined(const std::vector<float>& w, int64_t n, int64_t k,
                                  const Hessians& h, const std::vector<int>& bits, int64_t parts,
                                  std::vector<ErrorSums>* sums) {
    const QuantRecipe& recipe = GetParam().recipe;
    const int64_t align = RowAlignment(recipe, n);
    const int64_t step = std::max<int64_t>((n / parts + align - 1) / align * align, align);
    std::vector<std::vector<std::string>> blobs(bits.size());
    sums->assign(bits.size(), ErrorSums());
    for (int64_t begin = 0; begin < n; begin += step) {
      const int64_t end = std::min(begin + step, n);
      const auto c = QuantizeLayer(kName, Rows(w, k, begin, end), end - begin, k, h, recipe, bits,
                                   2, nullptr, nullptr, {begin, n});
      EXPECT_TRUE(c.ok()) << c.status();
      for (size_t i = 0; i < bits.size(); ++i) {
        blobs[i].push_back((*c)[i].blob);
        (*sums)[i].weight += (*c)[i].sums.weight;
        (*sums)[i].output += (*c)[i].sums.output;
      }
    }
    std::vector<std::string> out;
    for (const auto& shards : blobs) {
      const auto joined = JoinLayerBlobs(kName, shards);
      EXPECT_TRUE(joined.ok()) << joined.status();
      out.push_back(*joined);
    }
    return out;
  }

  void Check(int64_t n, int64_t k, int chunks) {
    SCOPED_TRACE(::testing::Message() << n << " x " << k << ", " << chunks << " chunks");
    const std::vector<int> bits = {1, 2, 3};
    const std::vector<float> w = GaussianWeights(n, k, 60);
    const Hessians h = Prepared(GetParam().recipe, k, chunks);
    const auto whole = QuantizeLayer(kName, w, n, k, h, GetParam().recipe, bits, 2, nullptr);
    ASSERT_TRUE(whole.ok()) << whole.status();
    for (const int64_t parts : {1, 2, 5}) {
      std::vector<ErrorSums> sums;
      const std::vector<std::string> joined = Joined(w, n, k, h, bits, parts, &sums);
      for (size_t i = 0; i < bits.size(); ++i) {
        EXPECT_EQ(joined[i], (*whole)[i].blob) << parts << " parts, " << bits[i] << " bits";
        EXPECT_NEAR(sums[i].weight, (*whole)[i].sums.weight, 1e-9 * (*whole)[i].sums.weight);
        EXPECT_NEAR(sums[i].output, (*whole)[i].sums.output, 1e-9 * (*whole)[i].sums.output);
      }
    }
  }
};

INSTANTIATE_TEST_SUITE_P(Methods, Shards, ::testing::ValuesIn(Cases()),
                         [](const auto& info) { return info.param.name; });

TEST_P(Shards, JoinToTheBytesOfTheWhole) {
  Check(96, 128, 1);
  Check(83, 160, 1);  // tails of rows and inputs
  Check(5, 70, 1);
}

TEST_P(Shards, WithChunks) {
  if (RowAlignment(GetParam().recipe, 96) == 96) GTEST_SKIP() << "rows are mixed";
  // Chunks of 24 rows, or larger: multiples of the rows that share a scale.
  Check(96, 96,
        GetParam().recipe.method == QuantMethod::kLat   ? 2
        : GetParam().recipe.method == QuantMethod::kAcc ? 3
                                                        : 4);
}

TEST(Chunks, EachHasItsHessian) {
  const int64_t n = 40, k = 96;
  QuantRecipe recipe = Recipe(QuantMethod::kShiftAdd);
  recipe.hessian = QuantHessian::kGuided;
  const std::vector<float> w = GaussianWeights(n, k, 61);
  const Hessians h = Prepared(recipe, k, 3);
  const auto c = QuantizeLayer(kName, w, n, k, h, recipe, {2}, 1, nullptr);
  ASSERT_TRUE(c.ok()) << c.status();
  const std::vector<float> what = testing::LayerBlob((*c)[0].blob, recipe.seed).Weights();
  double loss = 0.0;
  for (int i = 0; i < 3; ++i) {
    const int64_t begin = ChunkBegin(n, 3, i), end = ChunkBegin(n, 3, i + 1);
    const auto alone = QuantizeLayer(kName, Rows(w, k, begin, end), end - begin, k, {h[i]}, recipe,
                                     {2}, 1, nullptr);
    ASSERT_TRUE(alone.ok());
    EXPECT_EQ(testing::LayerBlob((*alone)[0].blob, recipe.seed).Weights(),
              Rows(what, k, begin, end));
    // Not normalized: the Hessian's own scale.
    const double part = testing::QuadraticError(Rows(w, k, begin, end), Rows(what, k, begin, end),
                                                end - begin, CorrelatedHessian(k, 50 + i));
    EXPECT_NEAR((*alone)[0].guided_error, part, 1e-4 * part);
    loss += part;
  }
  EXPECT_NEAR((*c)[0].guided_error, loss, 1e-4 * loss);
  recipe.hessian = QuantHessian::kRms;
  EXPECT_EQ(QuantizeLayer(kName, w, n, k, h, recipe, {2}, 1, nullptr)->front().guided_error, 0.0);
}

TEST(Chunks, BadOnesAreErrors) {
  const int64_t n = 40, k = 64;
  const std::vector<float> w = GaussianWeights(n, k, 62);
  const QuantRecipe shiftadd = Recipe(QuantMethod::kShiftAdd), lat = Recipe(QuantMethod::kLat);
  const auto status = [&](const QuantRecipe& recipe, const Hessians& h, LayerShard shard = {}) {
    return QuantizeLayer(kName, w, n, k, h, recipe, {2}, 1, nullptr, nullptr, shard).status();
  };
  for (const absl::Status& bad :
       {status(shiftadd, {}), status(shiftadd, {nullptr}), status(shiftadd, Prepared(lat, k, 1)),
        status(shiftadd, Prepared(shiftadd, k, 41)), status(lat, Prepared(lat, k, 2)),
        status(shiftadd, Prepared(shiftadd, k, 1), {8, 100}),
        status(shiftadd, Prepared(shiftadd, k, 1), {0, 100}),
        status(shiftadd, Prepared(shiftadd, k, 1), {16, 50}),
        status(shiftadd, Prepared(shiftadd, k, 1), {-16, 100})}) {
    EXPECT_EQ(bad.code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_THAT(std::string(bad.message()), HasSubstr(kName));
  }
}

// ||IS||_F var(IS) with IS = W / diag(U), in float64 from the inverse of the damped H.
TEST(PaperCriterion, MatchesTheDefinition) {
  const int64_t n = 20, k = 72;
  QuantRecipe recipe = Recipe(QuantMethod::kShiftAdd);
  recipe.rotation = QuantRotation::kNone;
  HessianMatrix h = CorrelatedHessian(k, 63);
  const std::vector<float> w = GaussianWeights(n, k, 64);
  const auto prepared = *PreparedHessian::Create(h, recipe);
  double mean = 0.0;
  for (int64_t i = 0; i < k; ++i) mean += h.h[i * (k + 1)] / static_cast<double>(k);
  for (int64_t i = 0; i < k; ++i) h.h[i * (k + 1)] += recipe.damping * mean;
  // U_ii^2 = 1 / (H_ii - H_i,rest H_rest^-1 H_rest,i), rest = the later inputs: eliminate from the
  // last input up.
  std::vector<double> a = h.h;
  for (int64_t p = k - 1; p >= 0; --p) {
    for (int64_t i = 0; i < p; ++i) {
      for (int64_t j = 0; j < p; ++j) a[i * k + j] -= a[i * k + p] * a[p * k + j] / a[p * (k + 1)];
    }
  }
  double sum = 0.0, square = 0.0;
  for (int64_t i = 0; i < n * k; ++i) {
    const double is = w[i] * std::sqrt(a[i % k * (k + 1)]);
    sum += is / static_cast<double>(n * k);
    square += is * is;
  }
  const double expected = std::sqrt(square) * (square / static_cast<double>(n * k) - sum * sum);
  const auto c = QuantizeLayer(kName, w, n, k, {prepared}, recipe, {2, 4}, 2, nullptr);
  ASSERT_TRUE(c.ok()) << c.status();
  EXPECT_NEAR((*c)[0].paper_criterion / expected, 1.0, 1e-4);
  EXPECT_EQ((*c)[0].paper_criterion, (*c)[1].paper_criterion);
}

TEST(JoinLayerBlobs, RawRowsOfSeveralTypes) {
  std::vector<float> w = GaussianWeights(9, 20, 65);
  for (int64_t i = 0; i < 60; ++i) w[i] = kernels::HalfToFloat(kernels::FloatToHalf(w[i]));
  const auto whole = BuildRawLayerBlob(kName, w, 9, 20);
  const auto a = BuildRawLayerBlob(kName, Rows(w, 20, 0, 3), 3, 20),
             b = BuildRawLayerBlob(kName, Rows(w, 20, 3, 9), 6, 20);
  ASSERT_TRUE(whole.ok() && a.ok() && b.ok());
  EXPECT_EQ(JoinLayerBlobs(kName, {*a, *b}).value(), *whole);
}

TEST(JoinLayerBlobs, BadShardsAreErrors) {
  const auto blob = [&](int64_t k, const QuantRecipe& recipe, int bits) {
    return QuantizeLayer(kName, GaussianWeights(16, k, 66), 16, k, Prepared(recipe, k, 1), recipe,
                         {bits}, 1, nullptr)
        ->front()
        .blob;
  };
  QuantRecipe recipe = Recipe(QuantMethod::kShiftAdd), offset = recipe;
  offset.offset = true;
  const std::string good = blob(64, recipe, 2);
  const auto expect = [&](const std::vector<std::string>& blobs, const char* what) {
    const auto joined = JoinLayerBlobs(kName, blobs);
    EXPECT_EQ(joined.status().code(), absl::StatusCode::kInvalidArgument) << what;
    EXPECT_THAT(std::string(joined.status().message()), HasSubstr(kName)) << what;
  };
  EXPECT_TRUE(JoinLayerBlobs(kName, {good, good}).ok());
  expect({}, "none");
  expect({good, blob(32, recipe, 2)}, "another width");
  expect({good, blob(64, recipe, 3)}, "another number of planes");
  expect({good, blob(64, offset, 2)}, "an offset");
  expect({good, "nonsense"}, "not a blob");
  expect({good, good.substr(0, good.size() - 1)}, "cut short");
  EXPECT_FALSE(JoinLayerBlobs("blocks.0.attn.k", {good}).ok());
  const QuantRecipe lat = Recipe(QuantMethod::kLat);
  const auto odd = QuantizeLayer(kName, GaussianWeights(5, 64, 67), 5, 64, Prepared(lat, 64, 1),
                                 lat, {2}, 1, nullptr, nullptr, {16, 21});
  ASSERT_TRUE(odd.ok());
  expect({odd->front().blob, blob(64, lat, 2)}, "a short shard that is not the last");
}

}  // namespace
}  // namespace shiftadd::quantize
