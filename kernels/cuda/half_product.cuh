// Products of one half of a block on the fp16 tensor cores: weights rounded to fp16 once
// (half_decoder.cuh), digits as they are, sums over a slot in fp32.
#ifndef SHIFTADD_KERNELS_CUDA_HALF_PRODUCT_CUH_
#define SHIFTADD_KERNELS_CUDA_HALF_PRODUCT_CUH_

#include "kernels/cuda/half_decoder.cuh"

namespace shiftadd::kernels::cuda {

// A block that is multiplied so.
template <typename B>
struct HalfBlock : B {};

// Four signed bytes as fp16, exactly: 1024 + 128 + digit is what the byte says below 0x64.
__device__ __forceinline__ void DigitsToHalves(uint32_t digits, uint32_t* out) {
  const uint32_t biased = digits ^ 0x80808080u;
  const __half2 bias = __floats2half2_rn(1152, 1152);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint32_t pair = PickBytes(biased, 0x64646464u, i == 0 ? 0x4140 : 0x4342);
    const __half2 half = __hsub2(*reinterpret_cast<const __half2*>(&pair), bias);
    out[i] = *reinterpret_cast<const uint32_t*>(&half);
  }
}

// As in integer_product.cuh.
template <Form F, bool Z, int Q, int S, int N8, typename X, typename R>
__device__ __forceinline__ void AddHalf(const HalfBlock<Block<F, Z, Q, S>>& w, int h, X& x,
                                        const R& scales, const uint2* tables,
                                        const Factors& factors, int lane, float (&acc)[N8][4]) {
  using B = Block<F, Z, Q, S>;
  const int slot = (lane & 3) / (4 / S);
  const HalfDecoder<B> first(w, h, 0, slot, tables, factors);
  const HalfDecoder<B> second(w, h, 1, slot, tables, factors);
  float c[S][N8][4] = {};
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    uint32_t rows[2][4];
    first.Step(j, rows[0]);
    second.Step(j, rows[1]);
#pragma unroll
    for (int n = 0; n < N8; ++n) {
      const uint2 digits = x.Step(n, j);
#pragma unroll
      for (int k = 0; k < 2; ++k) {  // weights m = 4k .. 4k + 3 of the step
        uint32_t b[2];
        DigitsToHalves(k == 0 ? digits.x : digits.y, b);
        const uint32_t a[4] = {rows[0][2 * k], rows[1][2 * k], rows[0][2 * k + 1],
                               rows[1][2 * k + 1]};
#pragma unroll
        for (int s = 0; s < S; ++s) {
          uint32_t kept[4];
          KeepSlot<S>(s, lane, a, kept);
          HalfMma(kept, b[0], b[1], c[s][n]);
        }
      }
    }
  }
#pragma unroll
  for (int s = 0; s < S; ++s) {
#pragma unroll
    for (int n = 0; n < N8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        acc[n][e] = fmaf(scales.At(s, n, e & 1).scale, c[s][n][e], acc[n][e]);
      }
    }
  }
}

}  // namespace shiftadd::kernels::cuda

#endif  // SHIFTADD_KERNELS_CUDA_HALF_PRODUCT_CUH_
