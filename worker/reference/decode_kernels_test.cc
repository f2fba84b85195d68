#include "worker/reference/decode_kernels.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kernels/packed_matrix.h"
#include "worker/reference/counter_random.h"

namespace shiftadd::reference {
namespace {

using kernels::Isa;

constexpr int kLanes = kDecodeLanes;

// Even numbers in -1 … 1 that a half holds.
std::vector<uint16_t> Halves(uint64_t seed, int64_t n) {
  std::vector<uint16_t> out(n);
  for (int64_t i = 0; i < n; ++i)
    out[i] = kernels::FloatToHalf(static_cast<float>(2 * UniformAt(seed, 0, i) - 1));
  return out;
}

std::vector<float> Floats(uint64_t seed, int64_t n, float scale = 1.0f) {
  std::vector<float> out(n);
  for (int64_t i = 0; i < n; ++i)
    out[i] = scale * static_cast<float>(2 * UniformAt(seed, 1, i) - 1);
  return out;
}

std::vector<uint16_t> Panels(const std::vector<uint16_t>& w, int64_t rows, int64_t cols,
                             int lanes) {
  std::vector<uint16_t> out((rows + lanes - 1) / lanes * lanes * cols);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t k = 0; k < cols; ++k)
      out[r / lanes * lanes * cols + k * lanes + r % lanes] = w[r * cols + k];
  }
  return out;
}

std::vector<float> Product(Isa isa, const std::vector<uint16_t>& w, int64_t rows, int64_t cols,
                           const std::vector<float>& x, int sequences, bool out) {
  const DecodeKernels& k = DecodeKernelsFor(isa);
  std::vector<float> y(rows * kLanes, -1.0f);
  (out ? k.multiply_out : k.multiply)(Panels(w, rows, cols, k.lanes).data(), rows, cols, x.data(),
                                      sequences, y.data());
  return y;
}

TEST(DecodeKernels, ProductsAreExactToRounding) {
  for (const Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512}) {
    for (const int64_t rows : {1, 16, 37}) {
      const int64_t cols = 65;
      const std::vector<uint16_t> w = Halves(1, rows * cols);
      const std::vector<float> x = Floats(2, cols * kLanes);
      for (const int sequences : {1, 4, 5, 9, 13, 16}) {
        const std::vector<float> y = Product(isa, w, rows, cols, x, sequences, false);
        const std::vector<float> z = Product(isa, w, rows, cols, x, sequences, true);
        for (int64_t r = 0; r < rows; ++r) {
          for (int s = 0; s < sequences; ++s) {
            double expected = 0;
            for (int64_t k = 0; k < cols; ++k)
              expected +=
                  static_cast<double>(kernels::HalfToFloat(w[r * cols + k])) * x[k * kLanes + s];
            EXPECT_NEAR(y[r * kLanes + s], expected, 1e-5);
            EXPECT_EQ(z[s * rows + r], y[r * kLanes + s]);
          }
        }
      }
    }
  }
}

TEST(DecodeKernels, ASequencesProductDoesNotDependOnTheOthers) {
  const int64_t rows = 40, cols = 100;
  const std::vector<uint16_t> w = Halves(3, rows * cols);
  const std::vector<float> x = Floats(4, cols * kLanes);
  for (const Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512}) {
    const std::vector<float> all = Product(isa, w, rows, cols, x, kLanes, false);
    for (int sequences = 1; sequences < kLanes; ++sequences) {
      const std::vector<float> some = Product(isa, w, rows, cols, x, sequences, false);
      for (int64_t r = 0; r < rows; ++r) {
        for (int s = 0; s < sequences; ++s)
          ASSERT_EQ(some[r * kLanes + s], all[r * kLanes + s]) << sequences << " " << s;
      }
    }
  }
  EXPECT_EQ(Product(Isa::kAvx2, w, rows, cols, x, kLanes, false),
            Product(Isa::kAvx512, w, rows, cols, x, kLanes, false));
}

struct Attention {
  int64_t group, dim, length;
  std::vector<float> q, keys, values;  // [group][dim], [length][dim]: what a half holds

  Attention(int64_t group, int64_t dim, int64_t length)
      : group(group), dim(dim), length(length), q(Floats(5, group * dim, 0.5f)) {
    for (const uint16_t h : Halves(6, length * dim)) keys.push_back(kernels::HalfToFloat(h));
    for (const uint16_t h : Halves(7, length * dim)) values.push_back(kernels::HalfToFloat(h));
  }

  std::vector<double> Expected(int64_t seen) const {
    std::vector<double> out(group * dim);
    for (int64_t h = 0; h < group; ++h) {
      std::vector<double> p(seen);
      double sum = 0;
      for (int64_t t = 0; t < seen; ++t) {
        double score = 0;
        for (int64_t d = 0; d < dim; ++d)
          score += static_cast<double>(q[h * dim + d]) * keys[t * dim + d];
        sum += p[t] = std::exp(score);
      }
      for (int64_t t = 0; t < seen; ++t) {
        for (int64_t d = 0; d < dim; ++d) out[h * dim + d] += p[t] / sum * values[t * dim + d];
      }
    }
    return out;
  }

  // The sequence stands in lane 3.
  std::vector<float> Found(Isa isa, int64_t seen) const {
    const int64_t padded = (length + 15) / 16 * 16, dim_padded = (dim + 15) / 16 * 16;
    std::vector<uint16_t> k(padded * dim), v(length * dim_padded);
    for (int64_t t = 0; t < length; ++t) {
      for (int64_t d = 0; d < dim; ++d) {
        k[(t / 16 * dim + d) * 16 + t % 16] = kernels::FloatToHalf(keys[t * dim + d]);
        v[t * dim_padded + d] = kernels::FloatToHalf(values[t * dim + d]);
      }
    }
    std::vector<float> in(group * dim * kLanes), out(group * dim * kLanes, -1.0f),
        scores(group * padded), found(group * dim);
    for (int64_t i = 0; i < group * dim; ++i) in[i * kLanes + 3] = q[i];
    DecodeKernelsFor(isa).attend({in.data() + 3, k.data(), v.data(), group, dim, dim_padded, seen,
                                  scores.data(), out.data() + 3});
    for (int64_t i = 0; i < group * dim; ++i) found[i] = out[i * kLanes + 3];
    return found;
  }
};

TEST(DecodeKernels, AttentionOfAnyShape) {
  for (const int64_t group : {1, 2, 3, 4, 7}) {
    for (const int64_t dim : {8, 64, 80, 96}) {
      const Attention a(group, dim, 150);
      for (const int64_t seen : {1, 15, 16, 17, 64, 65, 150}) {
        const std::vector<double> expected = a.Expected(seen);
        for (const Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512}) {
          const std::vector<float> found = a.Found(isa, seen);
          for (size_t i = 0; i < found.size(); ++i)
            ASSERT_NEAR(found[i], expected[i], 2e-6)
                << group << " heads of " << dim << ", " << seen << " seen, " << i;
        }
        EXPECT_EQ(a.Found(Isa::kAvx2, seen), a.Found(Isa::kAvx512, seen));
      }
    }
  }
}

TEST(DecodeKernels, SwiGlu) {
  for (const Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512}) {
    std::vector<float> gate = Floats(8, 512, 20.0f), up = Floats(9, 512);
    gate[0] = -200;
    gate[1] = 200;
    gate[2] = std::numeric_limits<float>::quiet_NaN();
    const std::vector<float> before = gate;
    DecodeKernelsFor(isa).swiglu(gate.data(), up.data(), 512);
    for (int i = 0; i < 512; ++i) {
      if (i == 2) continue;
      const double g = before[i], expected = g / (1 + std::exp(-g)) * up[i];
      EXPECT_NEAR(gate[i], expected, 1e-6 * std::abs(expected) + 1e-30) << g;
    }
    EXPECT_TRUE(std::isnan(gate[2]));
  }
}

}  // namespace
}  // namespace shiftadd::reference
