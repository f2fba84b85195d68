#include "worker/quantize/small_solve.h"

#include <cmath>

namespace shiftadd::quantize {
namespace {

bool Factor(int r, double* a) {
  for (int i = 0; i < r; ++i) {
    for (int j = 0; j <= i; ++j) {
      double sum = a[i * r + j];
      for (int k = 0; k < j; ++k) sum -= a[i * r + k] * a[j * r + k];
      if (i != j) {
        a[i * r + j] = sum / a[j * r + j];
      } else {
        if (!(sum > 0.0) || !std::isfinite(sum)) return false;
        a[i * r + i] = std::sqrt(sum);
      }
    }
  }
  return true;
}

void Substitute(int r, const double* a, double* b) {
  for (int i = 0; i < r; ++i) {
    for (int k = 0; k < i; ++k) b[i] -= a[i * r + k] * b[k];
    b[i] /= a[i * r + i];
  }
  for (int i = r - 1; i >= 0; --i) {
    for (int k = i + 1; k < r; ++k) b[i] -= a[k * r + i] * b[k];
    b[i] /= a[i * r + i];
  }
}

}  // namespace

bool SolveSpd(int r, double* a, double* b) {
  bool good = Factor(r, a);
  if (good) {
    Substitute(r, a, b);
    for (int i = 0; i < r; ++i) good = good && std::isfinite(b[i]);
  }
  for (int i = 0; !good && i < r; ++i) b[i] = 0.0;
  return good;
}

}  // namespace shiftadd::quantize
