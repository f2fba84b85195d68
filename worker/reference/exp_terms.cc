#include "worker/reference/exp_terms.h"

#include <algorithm>
#include <bit>

namespace shiftadd {
namespace {

// exp(x) for -700 <= x <= 0: x = k log 2 + r, |r| <= log(2) / 2, Taylor to r^10 / 10! (error r^11 /
// 11! < 3e-13), and 2^k through the exponent's bits. Straight code without a branch, so that the
// compiler makes vectors of it.
inline double Exp(double x) {
  constexpr double kLog2E = 0x1.71547652b82fep+0;
  constexpr double kLog2High = 0x1.62e42fefa0000p-1,
                   kLog2Low = 0x1.cf79abc9e3b3ap-40;  // high: 11 trailing zeros
  constexpr double kRound = 0x1.8p52;  // adding it rounds to a whole number, left in the low bits
  const double shifted = x * kLog2E + kRound;
  const double k = shifted - kRound;
  const double r = (x - k * kLog2High) - k * kLog2Low;
  double p = 1.0 / 3628800;
  p = p * r + 1.0 / 362880;
  p = p * r + 1.0 / 40320;
  p = p * r + 1.0 / 5040;
  p = p * r + 1.0 / 720;
  p = p * r + 1.0 / 120;
  p = p * r + 1.0 / 24;
  p = p * r + 1.0 / 6;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  return p * std::bit_cast<double>((std::bit_cast<uint64_t>(shifted) + 1023) << 52);
}

}  // namespace

void ExpTerms(const float* x, int64_t n, float max, double* terms) {
  constexpr double kLowest = -700;
  for (int64_t i = 0; i < n; ++i) {
    const double d = static_cast<double>(x[i]) - max;
    const double e = Exp(d < kLowest ? kLowest : d);
    terms[i] = d < kLowest ? 0.0 : e;
  }
}

double ExpSum(const double* terms, int64_t n) {
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += kExpBlock) {
    double sum = 0;
    for (int64_t i = begin; i < std::min(n, begin + kExpBlock); ++i) sum += terms[i];
    total += sum;
  }
  return total;
}

}  // namespace shiftadd
