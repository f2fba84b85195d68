#include "worker/serve/vector_ops.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu_linear.h"

namespace shiftadd {
namespace {

using kernels::Isa;

std::vector<Isa> IsasOfThisMachine() {
  std::vector<Isa> isas = {Isa::kPortable};
  const Isa best = kernels::DetectIsa();
  if (best == Isa::kAvx2 || best == Isa::kAvx512) isas.push_back(Isa::kAvx2);
  if (best == Isa::kAvx512) isas.push_back(Isa::kAvx512);
  return isas;
}

std::vector<float> Random(std::mt19937* random, int64_t n, float scale = 1) {
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> x(n);
  for (float& v : x) v = normal(*random);
  return x;
}

float FromHalf(uint16_t half) {
  const int exponent = (half >> 10) & 31, mantissa = half & 1023;
  const float magnitude = exponent == 0
                              ? std::ldexp(static_cast<float>(mantissa), -24)
                              : std::ldexp(static_cast<float>(mantissa + 1024), exponent - 25);
  return (half & 0x8000) != 0 ? -magnitude : magnitude;
}

struct AttentionCase {
  int rows;
  int64_t head_dim;
  int64_t length;  // of the last row; each before it sees one key less
  bool halves = false;
  int64_t window = 0;  // keys that a row sees; 0: all
  float slope = 0;
  float cap = 0;
};

std::string NameOf(const ::testing::TestParamInfo<AttentionCase>& info) {
  const AttentionCase& c = info.param;
  return std::to_string(c.rows) + "x" + std::to_string(c.head_dim) + "_" +
         std::to_string(c.length) + (c.halves ? "_halves" : "") + (c.window > 0 ? "_window" : "") +
         (c.slope > 0 ? "_slope" : "") + (c.cap > 0 ? "_cap" : "");
}

// Queries and a cache of pages, as the executor keeps them.
class Attention {
 public:
  explicit Attention(const AttentionCase& c) : c_(c), stride_((c.head_dim + 15) / 16 * 16) {
    std::mt19937 random(static_cast<unsigned>(c.head_dim * 1000 + c.length * 10 + c.rows));
    queries_ = Random(&random, c.rows * c.head_dim);
    const int64_t pages = (c.length + kPageTokens - 1) / kPageTokens;
    for (int64_t page = 0; page < pages; ++page) {
      keys_.push_back(Random(&random, c.head_dim * kPageTokens));
      std::vector<float> values(kPageTokens * stride_);
      for (int64_t i = 0; i < kPageTokens; ++i) {
        const std::vector<float> row = Random(&random, c.head_dim);
        std::copy(row.begin(), row.end(), values.begin() + i * stride_);
      }
      values_.push_back(std::move(values));
    }
    if (c.halves) ToHalves();
    for (int64_t page = 0; page < pages; ++page) {
      key_pages_.push_back(c.halves ? static_cast<const void*>(key_halves_[page].data())
                                    : keys_[page].data());
      value_pages_.push_back(c.halves ? static_cast<const void*>(value_halves_[page].data())
                                      : values_[page].data());
    }
  }

  std::vector<float> Run(const VectorOps& ops) const {
    const int64_t padded = static_cast<int64_t>(keys_.size()) * kPageTokens;
    std::vector<float> out(c_.rows * c_.head_dim, NAN), scratch(kTileRows * padded, NAN);
    AttentionTile tile;
    tile.rows = c_.rows;
    for (int r = 0; r < c_.rows; ++r) {
      tile.query[r] = queries_.data() + r * c_.head_dim;
      tile.length[r] = Length(r);
      tile.first[r] = First(r);
      tile.slope[r] = c_.slope * static_cast<float>(r + 1);
      tile.out[r] = out.data() + r * c_.head_dim;
    }
    tile.keys = key_pages_.data();
    tile.values = value_pages_.data();
    tile.halves = c_.halves;
    tile.head_dim = c_.head_dim;
    tile.scale = Scale();
    tile.cap = c_.cap;
    tile.value_stride = stride_;
    tile.scratch = scratch.data();
    tile.score_stride = padded;
    ops.attend(tile);
    return out;
  }

  // The same in float64.
  std::vector<double> Expected() const {
    std::vector<double> out;
    for (int r = 0; r < c_.rows; ++r) {
      std::vector<double> scores;
      for (int64_t j = First(r); j < Length(r); ++j) scores.push_back(Score(r, j));
      const double maximum = *std::max_element(scores.begin(), scores.end());
      double sum = 0;
      for (double& s : scores) sum += s = std::exp(s - maximum);
      for (int64_t d = 0; d < c_.head_dim; ++d) {
        double value = 0;
        for (int64_t j = First(r); j < Length(r); ++j) {
          value += scores[j - First(r)] * values_[j / kPageTokens][j % kPageTokens * stride_ + d];
        }
        out.push_back(value / sum);
      }
    }
    return out;
  }

 private:
  void ToHalves() {
    const VectorOps& ops = VectorOpsFor(Isa::kPortable);
    const auto convert = [&](std::vector<float>* page) {
      std::vector<uint16_t> halves(page->size());
      ops.to_halves(page->data(), static_cast<int64_t>(page->size()), halves.data());
      std::transform(halves.begin(), halves.end(), page->begin(), FromHalf);
      return halves;
    };
    for (std::vector<float>& page : keys_) key_halves_.push_back(convert(&page));
    for (std::vector<float>& page : values_) value_halves_.push_back(convert(&page));
  }

  int64_t Length(int r) const { return std::max<int64_t>(1, c_.length - (c_.rows - 1 - r)); }
  int64_t First(int r) const {
    return c_.window > 0 ? std::max<int64_t>(0, Length(r) - c_.window) : 0;
  }
  float Scale() const { return 1.0f / std::sqrt(static_cast<float>(c_.head_dim)); }
  double Score(int r, int64_t j) const {
    double score = 0;
    for (int64_t d = 0; d < c_.head_dim; ++d) {
      score += static_cast<double>(queries_[r * c_.head_dim + d]) *
               keys_[j / kPageTokens][d * kPageTokens + j % kPageTokens];
    }
    score *= Scale();
    if (c_.cap > 0) score = c_.cap * std::tanh(score / c_.cap);
    return score - c_.slope * (r + 1) * static_cast<double>(Length(r) - 1 - j);
  }

  AttentionCase c_;
  int64_t stride_;
  std::vector<float> queries_;
  std::vector<std::vector<float>> keys_, values_;
  std::vector<std::vector<uint16_t>> key_halves_, value_halves_;
  std::vector<const void*> key_pages_, value_pages_;
};

class AttendTest : public ::testing::TestWithParam<AttentionCase> {};

TEST_P(AttendTest, IsSoftmaxOfScoresTimesValuesAndTheSameBitsOnEveryInstructionSet) {
  const Attention attention(GetParam());
  const std::vector<double> expected = attention.Expected();
  const std::vector<float> portable = attention.Run(VectorOpsFor(Isa::kPortable));
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_NEAR(portable[i], expected[i], 2e-6 * (1 + std::abs(expected[i]))) << i;
  }
  for (const Isa isa : IsasOfThisMachine()) {
    const std::vector<float> out = attention.Run(VectorOpsFor(isa));
    EXPECT_EQ(0, std::memcmp(out.data(), portable.data(), out.size() * sizeof(float)))
        << kernels::IsaName(isa);
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, AttendTest,
                         ::testing::Values(AttentionCase{1, 64, 1}, AttentionCase{1, 64, 8},
                                           AttentionCase{1, 64, 9}, AttentionCase{2, 64, 16, true},
                                           AttentionCase{3, 64, 17, true}, AttentionCase{4, 64, 31},
                                           AttentionCase{4, 64, 32, true}, AttentionCase{3, 64, 33},
                                           AttentionCase{4, 128, 100, true},
                                           AttentionCase{3, 72, 47, true}, AttentionCase{2, 80, 65},
                                           AttentionCase{4, 24, 40, true}, AttentionCase{1, 4, 33},
                                           AttentionCase{4, 256, 70, true},
                                           AttentionCase{4, 64, 200, true, 48},
                                           AttentionCase{3, 64, 90, false, 0, 0.25f},
                                           AttentionCase{2, 64, 77, true, 0, 0, 5.0f},
                                           AttentionCase{4, 16, 129, true, 7, 0.125f, 2.0f}),
                         NameOf);

TEST(VectorOpsTest, LoopsOfFloatsHaveTheSameBitsOnEveryInstructionSet) {
  for (const int64_t n : {1, 7, 8, 15, 16, 17, 64, 100, 576}) {
    std::mt19937 random(static_cast<unsigned>(n));
    const std::vector<float> x = Random(&random, 2 * n, 2), y = Random(&random, n),
                             z = Random(&random, n);
    const auto run = [&](Isa isa) {
      const VectorOps& ops = VectorOpsFor(isa);
      std::vector<float> all;
      const auto keep = [&](const std::vector<float>& out) {
        all.insert(all.end(), out.begin(), out.end());
      };
      std::vector<float> out(n);
      ops.rms_norm(x.data(), y.data(), 1e-5, n, out.data());
      keep(out);
      ops.layer_norm(x.data(), y.data(), z.data(), 1e-5, n, out.data());
      keep(out);
      ops.silu_mul(x.data(), y.data(), n, out.data());
      keep(out);
      ops.gelu_mul(x.data(), nullptr, n, out.data());
      keep(out);
      std::vector<float> rotated = x;
      ops.rope(rotated.data(), y.data(), z.data(), n);
      ops.add(rotated.data(), y.data(), n);
      ops.soft_cap(rotated.data(), 2 * n, 3.0f);
      keep(rotated);
      const float maximum = ops.maximum(x.data(), n);
      const float sum = ops.softmax_weights(x.data(), n, maximum, 0.5f, out.data());
      keep(out);
      keep({ops.dot(x.data(), y.data(), n), maximum, sum,
            static_cast<float>(ops.log_sum_exp(x.data(), n))});
      std::vector<uint16_t> halves(n);
      ops.to_halves(x.data(), n, halves.data());
      for (const uint16_t half : halves) all.push_back(FromHalf(half));
      return all;
    };
    const std::vector<float> expected = run(Isa::kPortable);
    for (const Isa isa : IsasOfThisMachine()) {
      EXPECT_EQ(run(isa), expected) << kernels::IsaName(isa) << " " << n;
    }
  }
}

}  // namespace
}  // namespace shiftadd
