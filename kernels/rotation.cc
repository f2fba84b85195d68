#include "kernels/rotation.h"

#include <cmath>

namespace shiftadd::kernels {
namespace {

// Unnormalized Sylvester-Hadamard transform of n = 2^m values, smallest distance first. The order
// is part of the contract between executors: the CPU kernels' transform gives the same bits.
template <typename T>
void Hadamard(T* x, int64_t n) {
  for (int64_t h = 1; h < n; h *= 2) {
    for (int64_t i = 0; i < n; i += 2 * h) {
      for (int64_t j = i; j < i + h; ++j) {
        const T a = x[j];
        const T b = x[j + h];
        x[j] = a + b;
        x[j + h] = a - b;
      }
    }
  }
}

template <typename T>
void ApplySigns(T* x, int64_t begin, int64_t n, const uint32_t* signs, T factor) {
  for (int64_t i = begin; i < begin + n; ++i) {
    const bool plus = (signs[i / 32] >> (i % 32)) & 1u;
    x[i] *= plus ? factor : -factor;
  }
}

template <typename T>
T Norm(int64_t n) {
  return static_cast<T>(1.0 / std::sqrt(static_cast<double>(n)));
}

template <typename T>
void RotateAny(T* x, int64_t k, const uint32_t* signs) {
  ForEachRotationBlock(k, [&](int64_t begin, int64_t n) {
    ApplySigns(x, begin, n, signs, Norm<T>(n));
    Hadamard(x + begin, n);
  });
}

template <typename T>
void UnrotateAny(T* x, int64_t k, const uint32_t* signs) {
  ForEachRotationBlock(k, [&](int64_t begin, int64_t n) {
    Hadamard(x + begin, n);
    ApplySigns(x, begin, n, signs, Norm<T>(n));
  });
}

}  // namespace

void Rotate(float* x, int64_t k, const uint32_t* signs) { RotateAny(x, k, signs); }
void Rotate(double* x, int64_t k, const uint32_t* signs) { RotateAny(x, k, signs); }
void Unrotate(float* x, int64_t k, const uint32_t* signs) { UnrotateAny(x, k, signs); }
void Unrotate(double* x, int64_t k, const uint32_t* signs) { UnrotateAny(x, k, signs); }

}  // namespace shiftadd::kernels
