#include "worker/quantize/butterfly.h"

#include <cmath>
#include <numeric>
#include <tuple>
#include <utility>

#include "worker/reference/counter_random.h"

namespace shiftadd::quantize {
namespace {

// Uniform numbers in a row.
class Random {
 public:
  Random(uint64_t seed, uint64_t stream) : seed_(seed), stream_(stream) {}
  double Uniform() { return UniformAt(seed_, stream_, position_++); }
  // Nearly normal (Irwin and Hall), with no function of the C library, whose last bits differ.
  double Normal() {
    double sum = -6.0;
    for (int i = 0; i < 12; ++i) sum += Uniform();
    return sum;
  }

 private:
  const uint64_t seed_, stream_;
  uint64_t position_ = 0;
};

// n = p q with p and q close: prime factors in ascending order, dealt out in turn.
std::pair<int64_t, int64_t> Split(int64_t n) {
  int64_t parts[2] = {1, 1};
  int turn = 0;
  for (int64_t f = 2; n > 1; ++f) {
    if (f * f > n) f = n;
    for (; n % f == 0; n /= f) {
      parts[turn] *= f;
      turn = 1 - turn;
    }
  }
  return {parts[0], parts[1]};
}

std::vector<int64_t> Permutation(int64_t n, Random* random) {
  std::vector<int64_t> out(n);
  std::iota(out.begin(), out.end(), 0);
  for (int64_t i = n - 1; i > 0; --i) {
    std::swap(out[i], out[static_cast<int64_t>(random->Uniform() * static_cast<double>(i + 1))]);
  }
  return out;
}

// Gram and Schmidt, each row twice, on random rows. [n, n] to `out`.
void Orthogonal(int64_t n, Random* random, double* out) {
  for (int64_t r = 0; r < n; ++r) {
    double* row = out + r * n;
    double norm = 0.0;
    while (norm < 1e-3) {  // drawn again should it lie in the span of the rows before
      for (int64_t c = 0; c < n; ++c) row[c] = random->Normal();
      for (int pass = 0; pass < 2; ++pass) {
        for (int64_t b = 0; b < r; ++b) {
          double dot = 0.0;
          for (int64_t c = 0; c < n; ++c) dot += row[c] * out[b * n + c];
          for (int64_t c = 0; c < n; ++c) row[c] -= dot * out[b * n + c];
        }
      }
      norm = 0.0;
      for (int64_t c = 0; c < n; ++c) norm += row[c] * row[c];
      norm = std::sqrt(norm);
    }
    for (int64_t c = 0; c < n; ++c) row[c] /= norm;
  }
}

// y := M x or M^T x, both `step` apart.
void Multiply(const double* m, int64_t n, bool transposed, double* x, int64_t step,
              std::vector<double>* scratch) {
  scratch->assign(n, 0.0);
  for (int64_t r = 0; r < n; ++r) {
    for (int64_t c = 0; c < n; ++c) {
      (*scratch)[transposed ? c : r] += m[r * n + c] * x[(transposed ? r : c) * step];
    }
  }
  for (int64_t r = 0; r < n; ++r) x[r * step] = (*scratch)[r];
}

}  // namespace

Butterfly::Butterfly(int64_t n, uint64_t seed, uint64_t stream) : n_(n) {
  Random random(seed, stream);
  std::tie(p_, q_) = Split(n);
  in_ = Permutation(n, &random);
  out_ = Permutation(n, &random);
  across_.resize(q_ * p_ * p_);
  for (int64_t j = 0; j < q_; ++j) Orthogonal(p_, &random, across_.data() + j * p_ * p_);
  within_.resize(p_ * q_ * q_);
  for (int64_t i = 0; i < p_; ++i) Orthogonal(q_, &random, within_.data() + i * q_ * q_);
}

void Butterfly::Apply(double* x, int64_t stride) const {
  std::vector<double> y(n_), scratch;
  for (int64_t i = 0; i < n_; ++i) y[i] = x[in_[i] * stride];
  for (int64_t j = 0; j < q_; ++j) {
    Multiply(across_.data() + j * p_ * p_, p_, false, y.data() + j, q_, &scratch);
  }
  for (int64_t i = 0; i < p_; ++i) {
    Multiply(within_.data() + i * q_ * q_, q_, false, y.data() + i * q_, 1, &scratch);
  }
  for (int64_t i = 0; i < n_; ++i) x[out_[i] * stride] = y[i];
}

void Butterfly::ApplyTransposed(double* x, int64_t stride) const {
  std::vector<double> y(n_), scratch;
  for (int64_t i = 0; i < n_; ++i) y[i] = x[out_[i] * stride];
  for (int64_t i = 0; i < p_; ++i) {
    Multiply(within_.data() + i * q_ * q_, q_, true, y.data() + i * q_, 1, &scratch);
  }
  for (int64_t j = 0; j < q_; ++j) {
    Multiply(across_.data() + j * p_ * p_, p_, true, y.data() + j, q_, &scratch);
  }
  for (int64_t i = 0; i < n_; ++i) x[in_[i] * stride] = y[i];
}

}  // namespace shiftadd::quantize
