// The paper's steps in plain float64, one weight at a time, for tests to compare with.
#ifndef SHIFTADD_WORKER_QUANTIZE_TESTING_PLAIN_READING_H_
#define SHIFTADD_WORKER_QUANTIZE_TESTING_PLAIN_READING_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

namespace shiftadd::quantize::testing {

inline double Apot(double x, int terms) {
  double sum = 0.0;
  for (int t = 0; t < terms; ++t) {
    const double r = x - sum;
    if (r != 0.0) sum += std::copysign(std::exp2(std::round(std::log2(std::fabs(r)))), r);
  }
  return sum;
}

inline double LevelOf(const std::vector<double>& alpha, int code) {
  double level = 0.0;
  for (size_t i = 0; i < alpha.size(); ++i) level += ((code >> i) & 1) != 0 ? alpha[i] : -alpha[i];
  return level;
}

inline int NearestCode(const std::vector<double>& alpha, double x) {
  int best = 0;
  for (int c = 1; c < (1 << alpha.size()); ++c) {
    if (std::fabs(x - LevelOf(alpha, c)) < std::fabs(x - LevelOf(alpha, best))) best = c;
  }
  return best;
}

// Solves A x = b by elimination with pivoting.
inline std::vector<double> Solve(std::vector<std::vector<double>> a, std::vector<double> b) {
  const int r = static_cast<int>(b.size());
  for (int i = 0; i < r; ++i) {
    int p = i;
    for (int j = i + 1; j < r; ++j) p = std::fabs(a[j][i]) > std::fabs(a[p][i]) ? j : p;
    std::swap(a[i], a[p]);
    std::swap(b[i], b[p]);
    for (int j = 0; j < r; ++j) {
      if (j == i) continue;
      const double f = a[j][i] / a[i][i];
      for (int c = 0; c < r; ++c) a[j][c] -= f * a[i][c];
      b[j] -= f * b[i];
    }
  }
  for (int i = 0; i < r; ++i) b[i] /= a[i][i];
  return b;
}

inline std::vector<double> Bcq(const std::vector<double>& w, int q, int rounds, int terms) {
  std::vector<double> alpha(q), r = w;
  std::vector<int> code(w.size(), 0);
  for (int i = 0; i < q; ++i) {
    for (const double x : r) alpha[i] += std::fabs(x) / static_cast<double>(w.size());
    for (size_t k = 0; k < w.size(); ++k) {
      code[k] |= r[k] >= 0.0 ? 1 << i : 0;
      r[k] -= r[k] >= 0.0 ? alpha[i] : -alpha[i];
    }
  }
  for (int t = 0; t < rounds; ++t) {
    std::vector<std::vector<double>> gram(q, std::vector<double>(q, 0.0));
    std::vector<double> rhs(q, 0.0);
    for (size_t k = 0; k < w.size(); ++k) {
      for (int i = 0; i < q; ++i) {
        const double bi = ((code[k] >> i) & 1) != 0 ? 1.0 : -1.0;
        rhs[i] += bi * w[k];
        for (int j = 0; j < q; ++j) gram[i][j] += bi * (((code[k] >> j) & 1) != 0 ? 1.0 : -1.0);
      }
    }
    for (int i = 0; i < q; ++i) gram[i][i] += 1e-5 * static_cast<double>(w.size());
    alpha = Solve(gram, rhs);
    for (double& a : alpha) a = std::fabs(a);
    std::sort(alpha.rbegin(), alpha.rend());
    for (double& a : alpha) a = terms > 0 ? Apot(a, terms) : a;
    for (size_t k = 0; k < w.size(); ++k) code[k] = NearestCode(alpha, w[k]);
  }
  return alpha;
}

// The upper Cholesky factor of the inverse of h.
inline std::vector<std::vector<double>> UpperOfInverse(const std::vector<std::vector<double>>& h) {
  const int64_t k = static_cast<int64_t>(h.size());
  std::vector<std::vector<double>> u(k, std::vector<double>(k, 0.0)), inverse;
  for (int64_t i = 0; i < k; ++i) {
    std::vector<double> e(k, 0.0);
    e[i] = 1.0;
    inverse.push_back(Solve(h, e));
  }
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = i; j < k; ++j) {
      double sum = inverse[i][j];
      for (int64_t p = 0; p < i; ++p) sum -= u[p][i] * u[p][j];
      u[i][j] = i == j ? std::sqrt(sum) : sum / u[i][i];
    }
  }
  return u;
}

}  // namespace shiftadd::quantize::testing

#endif  // SHIFTADD_WORKER_QUANTIZE_TESTING_PLAIN_READING_H_
