// The signed Walsh-Hadamard rotation of inputs, x~ = D x: in each block of n = 128 consecutive
// inputs x~ = n^-1/2 Had_n (sigma o x), Had_n the Sylvester-Hadamard matrix. A tail is cut into
// descending powers of two. D is orthogonal. No allocation, thread-safe.
#ifndef SHIFTADD_KERNELS_ROTATION_H_
#define SHIFTADD_KERNELS_ROTATION_H_

#include <cstdint>

namespace shiftadd::kernels {

inline constexpr int64_t kRotationBlock = 128;

// In place: x [k] -> D x. `signs`: [ceil(k/32)] words, bit 1 = +1.
void Rotate(float* x, int64_t k, const uint32_t* signs);
void Rotate(double* x, int64_t k, const uint32_t* signs);
// In place: x [k] -> D^T x, the inverse.
void Unrotate(float* x, int64_t k, const uint32_t* signs);
void Unrotate(double* x, int64_t k, const uint32_t* signs);

// The order of the rotation's blocks of an input of width k: calls f(begin, length) for each.
template <typename F>
void ForEachRotationBlock(int64_t k, F f) {
  int64_t begin = 0;
  while (k - begin >= kRotationBlock) {
    f(begin, kRotationBlock);
    begin += kRotationBlock;
  }
  for (int64_t n = kRotationBlock / 2; n >= 1; n /= 2) {
    if (k - begin >= n) {
      f(begin, n);
      begin += n;
    }
  }
}

}  // namespace shiftadd::kernels

#endif  // SHIFTADD_KERNELS_ROTATION_H_
