#include "worker/quantize/bcq_fit.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "worker/quantize/apot.h"
#include "worker/quantize/small_solve.h"

namespace shiftadd::quantize {

BcqFitter::BcqFitter(int q, int rounds, int apot_terms)
    : q_(q), rounds_(rounds), apot_terms_(apot_terms), alpha_(q), gram_(q * q), rhs_(q) {}

void BcqFitter::Fit(const float* w, int64_t n, float* what) {
  index_.resize(n);
  std::iota(index_.begin(), index_.end(), 0);
  std::sort(index_.begin(), index_.end(),
            [w](int64_t a, int64_t b) { return w[a] != w[b] ? w[a] < w[b] : a < b; });
  sorted_.resize(n);
  prefix_.assign(n + 1, 0.0);
  for (int64_t i = 0; i < n; ++i) {
    sorted_[i] = w[index_[i]];
    prefix_[i + 1] = prefix_[i] + sorted_[i];
  }
  Greedy();
  for (int t = 0; t < rounds_; ++t) {
    const std::vector<double> before = alpha_;
    Solve();
    Assign();
    if (t > 0 && alpha_ == before) break;  // the same scales give the same codes, and so on
  }
  if (rounds_ == 0) Assign();
  int64_t begin = 0;
  for (const Run& run : runs_) {
    const float level = static_cast<float>(Level(run.code));
    for (; begin < run.end; ++begin) what[index_[begin]] = level;
  }
}

double BcqFitter::Level(int code) const {
  double level = 0.0;
  for (int i = 0; i < q_; ++i) level += ((code >> i) & 1) != 0 ? alpha_[i] : -alpha_[i];
  return level;
}

// Plane by plane: the signs of what is left, and its mean size.
void BcqFitter::Greedy() {
  const int64_t n = static_cast<int64_t>(sorted_.size());
  std::vector<double> left = sorted_;
  std::vector<int> code(n, 0);
  for (int i = 0; i < q_; ++i) {
    double sum = 0.0;
    for (const double r : left) sum += std::fabs(r);
    alpha_[i] = sum / static_cast<double>(n);
    for (int64_t k = 0; k < n; ++k) {
      const bool up = left[k] >= 0.0;
      code[k] |= up ? 1 << i : 0;
      left[k] -= up ? alpha_[i] : -alpha_[i];
    }
  }
  runs_.clear();
  for (int64_t k = 0; k < n; ++k) {
    if (runs_.empty() || runs_.back().code != code[k]) runs_.push_back({code[k], k});
    runs_.back().end = k + 1;
  }
}

// Least squares of the scales for the codes as they are; they stay if it is singular.
void BcqFitter::Solve() {
  std::fill(gram_.begin(), gram_.end(), 0.0);
  std::fill(rhs_.begin(), rhs_.end(), 0.0);
  int64_t begin = 0;
  for (const Run& run : runs_) {
    const double count = static_cast<double>(run.end - begin);
    const double sum = prefix_[run.end] - prefix_[begin];
    for (int i = 0; i < q_; ++i) {
      const bool up = ((run.code >> i) & 1) != 0;
      rhs_[i] += up ? sum : -sum;
      for (int j = 0; j <= i; ++j) {
        gram_[i * q_ + j] += up == (((run.code >> j) & 1) != 0) ? count : -count;
      }
    }
    begin = run.end;
  }
  // Every diagonal entry is n: a ridge relative to it, since two planes may coincide.
  const double ridge = 1e-5 * static_cast<double>(sorted_.size()) + 1e-12;
  for (int i = 0; i < q_; ++i) gram_[i * (q_ + 1)] += ridge;
  if (!SolveSpd(q_, gram_.data(), rhs_.data())) return;
  for (int i = 0; i < q_; ++i) alpha_[i] = std::fabs(rhs_[i]);
  std::sort(alpha_.begin(), alpha_.end(), std::greater<>());
  if (apot_terms_ <= 0) return;
  for (double& alpha : alpha_) alpha = AdditivePowersOfTwo(static_cast<float>(alpha), apot_terms_);
}

// Every weight takes the nearest sum.
void BcqFitter::Assign() {
  std::vector<std::pair<double, int>> levels(size_t{1} << q_);
  for (int c = 0; c < (1 << q_); ++c) levels[c] = {Level(c), c};
  std::sort(levels.begin(), levels.end());
  runs_.clear();
  auto begin = sorted_.begin();
  for (size_t c = 0; c < levels.size(); ++c) {
    auto end = sorted_.end();
    if (c + 1 < levels.size()) {
      end = std::lower_bound(begin, end, 0.5 * (levels[c].first + levels[c + 1].first));
    }
    if (end != begin) runs_.push_back({levels[c].second, end - sorted_.begin()});
    begin = end;
  }
}

}  // namespace shiftadd::quantize
