// The functions that exist once an instruction set, behind plain function pointers.
#ifndef SHIFTADD_KERNELS_CPU_KERNELS_H_
#define SHIFTADD_KERNELS_CPU_KERNELS_H_

#include <cstdint>

#include "kernels/cpu/layout.h"

namespace shiftadd::kernels::cpu {

// Tokens [0, m) in digits; see Activations.
struct ActivationsView {
  int64_t m = 0;
  int64_t stride = 0;            // of digits: a multiple of 128
  int64_t chunks = 0;            // stride of the three below
  const int8_t* high = nullptr;  // A8: the digits
  const int8_t* low = nullptr;   // A16 only
  const float* scale = nullptr;
  const float* sum = nullptr;
  const int32_t* digit_sum = nullptr;
};

// y[i * ldy + n] for all tokens i and rows row_begin <= n < row_end.
using MultiplyFunction = void (*)(const LayoutView& w, const ActivationsView& a, int64_t row_begin,
                                  int64_t row_end, float* y, int64_t ldy);

// One token to digits. All outputs are that token's; digits' padding is written too.
struct PrepareArgs {
  const float* x = nullptr;  // [k]
  int64_t k = 0;
  int64_t group = 0;
  int64_t k_padded = 0;
  const uint32_t* signs = nullptr;  // or null: no rotation
  int8_t* high = nullptr;           // [k_padded]
  int8_t* low = nullptr;            // [k_padded]; null: A8
  float* scale = nullptr;           // [chunks]
  float* sum = nullptr;             // [chunks]
  int32_t* digit_sum = nullptr;     // [chunks]
  float* scratch = nullptr;         // [k_padded]
};
using PrepareFunction = void (*)(const PrepareArgs& args);

struct Kernels {
  MultiplyFunction multiply = nullptr;
  PrepareFunction prepare = nullptr;
};

// Null members where this build or its processor family has no such instructions; callers ask the
// CPU.
Kernels PortableKernels();
Kernels Avx2Kernels();
Kernels Avx512Kernels();

}  // namespace shiftadd::kernels::cpu

#endif  // SHIFTADD_KERNELS_CPU_KERNELS_H_
