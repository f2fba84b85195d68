// The recipe of one row in float64, plainly, step by step: what the CUDA kernels are tested
// against. Every choice notes how close it was: a result may differ only where some choice was a
// tie.
#ifndef SHIFTADD_WORKER_QUANTIZE_TESTING_RECIPE_FLOAT64_H_
#define SHIFTADD_WORKER_QUANTIZE_TESTING_RECIPE_FLOAT64_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

#include "kernels/packed_matrix.h"
#include "worker/quantize/small_solve.h"

namespace shiftadd::quantize::testing {

struct RowRecipe {
  int q = 2;
  bool free_scales = false;
  bool offset = false;
  int rounds = 15;
  int inner_rounds = 4;
  int unknowns() const { return (free_scales ? q : 1) + (offset ? 1 : 0); }
};

// Scales of one group of one row.
struct RowGroupScales {
  std::vector<double> alpha;  // shift: {s}
  double z = 0.0;
  int set = 0;
};

class RowReference {
 public:
  explicit RowReference(const RowRecipe& recipe)
      : o_(recipe), table_(kernels::DefaultExponentTable(recipe.q)) {}

  // The smallest relative distance from a tie among the choices made so far.
  double margin() const { return margin_; }

  // What unknown u of a group is multiplied with, for a code.
  double Column(const RowGroupScales& s, int code, int u) const {
    if (o_.offset && u == o_.unknowns() - 1) return 1.0;
    if (o_.free_scales) return ((code >> u) & 1) != 0 ? 1.0 : -1.0;
    double sum = 0.0;
    for (int i = 0; i < o_.q; ++i) {
      const double plane = std::ldexp(1.0, table_.exponents[s.set][i]);
      sum += ((code >> i) & 1) != 0 ? plane : -plane;
    }
    return sum;
  }
  double Weight(const RowGroupScales& s, int code) const {
    double sum = o_.offset ? s.z : 0.0;
    for (size_t u = 0; u < s.alpha.size(); ++u) {
      sum += s.alpha[u] * Column(s, code, static_cast<int>(u));
    }
    return sum;
  }

  // One group: w [n], u and r [n][n] upper. Returns the codes.
  std::vector<int> Group(const std::vector<double>& w, const std::vector<double>& u,
                         const std::vector<double>& r, RowGroupScales* best, double* best_loss) {
    const int n = static_cast<int>(w.size());
    std::vector<double> omega(n, 0.0);
    for (int i = 0; i < n; ++i) {
      for (int j = 0; j < n; ++j) omega[i] += r[i * n + j] * r[i * n + j];
    }
    RowGroupScales s = o_.free_scales ? StartFree(w, omega) : StartShift(w, omega);
    std::vector<int> best_codes;
    *best_loss = std::numeric_limits<double>::infinity();
    for (int t = 0; t < o_.inner_rounds; ++t) {
      std::vector<int> codes(n);
      std::vector<double> v = w;
      for (int j = 0; j < n; ++j) {
        codes[j] = Nearest(s, v[j], false);
        const double e = (v[j] - Weight(s, codes[j])) / u[j * n + j];
        for (int k = j + 1; k < n; ++k) v[k] -= e * u[j * n + k];
      }
      const double loss = RefitGroup(w, r, codes, &s);
      if (t > 0) Note(std::fabs(loss - *best_loss) / (loss + 1e-300));
      if (!(loss < *best_loss)) continue;
      *best_loss = loss;
      *best = s;
      best_codes = codes;
    }
    return best_codes;
  }

  // Nearest code: the lowest on a tie, or the higher level.
  int Nearest(const RowGroupScales& s, double x, bool up) {
    int best = 0;
    double best_level = Weight(s, 0), second = std::numeric_limits<double>::infinity();
    double size = std::fabs(best_level);
    for (int c = 1; c < 1 << o_.q; ++c) {
      const double level = Weight(s, c);
      size = std::max(size, std::fabs(level));
      if (level == best_level) continue;
      const double d = std::fabs(x - level), least = std::fabs(x - best_level);
      if (d < least || (up && d == least && level > best_level)) {
        second = least;
        best = c;
        best_level = level;
      } else {
        second = std::min(second, d);
      }
    }
    if (size > 0.0) Note((second - std::fabs(x - best_level)) / size);
    return best;
  }

 private:
  void Note(double margin) { margin_ = std::min(margin_, margin); }

  RowGroupScales StartShift(const std::vector<double>& w, const std::vector<double>& omega) {
    const double h = o_.q == 2 ? 1.5 : o_.q == 3 ? 2.05 : 2.5;
    double total = 0.0, mean = 0.0, square = 0.0;
    for (size_t i = 0; i < w.size(); ++i) {
      total += omega[i];
      mean += omega[i] * w[i];
    }
    mean /= total;
    const double z0 = o_.offset ? mean : 0.0;
    for (size_t i = 0; i < w.size(); ++i) square += omega[i] * (w[i] - z0) * (w[i] - z0);
    RowGroupScales best;
    double best_error = 0.0;
    for (int set = 0; set < table_.count; ++set) {
      RowGroupScales s;
      s.set = set;
      s.z = z0;
      double sum = 0.0;
      for (int i = 0; i < o_.q; ++i) sum += std::ldexp(1.0, table_.exponents[set][i]);
      s.alpha = {h * std::sqrt(square / total) / sum};
      for (int t = 0; t < o_.rounds; ++t) FitWeighted(w, omega, Codes(w, s), &s);
      double error = 0.0;
      const std::vector<int> codes = Codes(w, s);
      for (size_t i = 0; i < w.size(); ++i) {
        const double d = w[i] - Weight(s, codes[i]);
        error += omega[i] * d * d;
      }
      if (set > 0) Note(std::fabs(error - best_error) / (error + 1e-300));
      if (set > 0 && !(error < best_error)) continue;
      best_error = error;
      best = s;
    }
    return best;
  }

  RowGroupScales StartFree(const std::vector<double>& w, const std::vector<double>& omega) {
    RowGroupScales s;
    s.alpha.assign(o_.q, 0.0);
    double total = 0.0, mean = 0.0;
    for (size_t i = 0; i < w.size(); ++i) {
      total += omega[i];
      mean += omega[i] * w[i];
    }
    s.z = o_.offset ? mean / total : 0.0;
    std::vector<double> r = w;
    std::vector<int> codes(w.size(), 0);
    for (double& x : r) x -= s.z;
    for (int i = 0; i < o_.q; ++i) {
      for (size_t k = 0; k < w.size(); ++k) s.alpha[i] += omega[k] * std::fabs(r[k]) / total;
      for (size_t k = 0; k < w.size(); ++k) {
        codes[k] |= (r[k] >= 0.0) << i;
        r[k] -= r[k] >= 0.0 ? s.alpha[i] : -s.alpha[i];
      }
    }
    for (int t = 0; t < o_.rounds; ++t) {
      FitWeighted(w, omega, codes, &s);
      if (t + 1 < o_.rounds) codes = Codes(w, s);
    }
    return s;
  }

  std::vector<int> Codes(const std::vector<double>& w, const RowGroupScales& s) {
    std::vector<int> codes(w.size());
    for (size_t i = 0; i < w.size(); ++i) codes[i] = Nearest(s, w[i], true);
    return codes;
  }

  void FitWeighted(const std::vector<double>& w, const std::vector<double>& omega,
                   const std::vector<int>& codes, RowGroupScales* s) {
    const int r = o_.unknowns();
    std::vector<double> a(r * r, 0.0), x(r, 0.0);
    for (size_t k = 0; k < w.size(); ++k) {
      for (int i = 0; i < r; ++i) {
        const double b = omega[k] * Column(*s, codes[k], i);
        x[i] += b * w[k];
        for (int j = 0; j <= i; ++j) a[i * r + j] += b * Column(*s, codes[k], j);
      }
    }
    double mean = 0.0;
    for (int i = 0; i < r; ++i) mean += a[i * r + i] / r;
    for (int i = 0; i < r; ++i) a[i * r + i] += 1e-5 * mean + 1e-12;
    if (!SolveSpd(r, a.data(), x.data())) return;
    if (o_.offset) s->z = x[r - 1];
    for (size_t i = 0; i < s->alpha.size(); ++i) s->alpha[i] = std::fabs(x[i]);
    std::sort(s->alpha.begin(), s->alpha.end(), std::greater<>());
  }

  // Least loss in the metric R R^T; returns it.
  double RefitGroup(const std::vector<double>& w, const std::vector<double>& r,
                    const std::vector<int>& codes, RowGroupScales* s) const {
    const int n = static_cast<int>(w.size()), m = o_.unknowns();
    const auto times_r = [&](const std::function<double(int)>& x) {
      std::vector<double> out(n, 0.0);
      for (int k = 0; k < n; ++k) {
        for (int j = k; j < n; ++j) out[j] += x(k) * r[k * n + j];
      }
      return out;
    };
    std::vector<double> d = times_r([&](int k) { return w[k] - Weight(*s, codes[k]); });
    std::vector<std::vector<double>> p(m);
    for (int i = 0; i < m; ++i) {
      p[i] = times_r([&](int k) { return Column(*s, codes[k], i); });
    }
    std::vector<double> a(m * m, 0.0), x(m, 0.0);
    double mean = 0.0;
    for (int i = 0; i < m; ++i) {
      for (int k = 0; k < n; ++k) x[i] += p[i][k] * d[k];
      for (int j = 0; j <= i; ++j) {
        for (int k = 0; k < n; ++k) a[i * m + j] += p[i][k] * p[j][k];
      }
      mean += a[i * m + i] / m;
    }
    for (int i = 0; i < m; ++i) a[i * m + i] += 1e-4 * mean;
    SolveSpd(m, a.data(), x.data());
    double loss = 0.0;
    for (int i = 0; i < m; ++i) {
      (o_.offset && i == m - 1 ? s->z : s->alpha[i]) += x[i];
      for (int k = 0; k < n; ++k) d[k] -= x[i] * p[i][k];
    }
    for (double value : d) loss += value * value;
    return loss;
  }

  const RowRecipe o_;
  const kernels::ExponentTable table_;
  double margin_ = std::numeric_limits<double>::infinity();
};

}  // namespace shiftadd::quantize::testing

#endif  // SHIFTADD_WORKER_QUANTIZE_TESTING_RECIPE_FLOAT64_H_
