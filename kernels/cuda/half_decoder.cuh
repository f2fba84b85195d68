// Planes to fp16 weights. The 2^q values that a weight of one row and group can have are made
// first, each rounded to fp16 once; bytes of them are then looked up for four weights at a time.
#ifndef SHIFTADD_KERNELS_CUDA_HALF_DECODER_CUH_
#define SHIFTADD_KERNELS_CUDA_HALF_DECODER_CUH_

#include "kernels/cuda/integer_product.cuh"

namespace shiftadd::kernels::cuda {

// The values of one row and group by their codes, low and high bytes apart.
template <int Q>
struct HalfTable {
  static constexpr int kCodes = 1 << Q;
  uint32_t low[kCodes / 4], high[kCodes / 4];

  __device__ __forceinline__ explicit HalfTable(const float (&value)[kCodes]) {
#pragma unroll
    for (int i = 0; i < kCodes / 4; ++i) {
      const __half2 a = __floats2half2_rn(value[4 * i], value[4 * i + 1]);
      const __half2 b = __floats2half2_rn(value[4 * i + 2], value[4 * i + 3]);
      const uint32_t first = *reinterpret_cast<const uint32_t*>(&a);
      const uint32_t second = *reinterpret_cast<const uint32_t*>(&b);
      low[i] = PickBytes(first, second, 0x6420);
      high[i] = PickBytes(first, second, 0x7531);
    }
  }

  // The weights of four nibbles of `codes` (planes 0 to 2) and of `fourth` (plane 3): 0 and 1 in
  // out[0], 2 and 3 in out[1].
  __device__ __forceinline__ void Four(uint32_t codes, uint32_t fourth, uint32_t* out) const {
    uint32_t l, h;
    if constexpr (Q == 2) {
      l = PickBytes(low[0], 0, codes);
      h = PickBytes(high[0], 0, codes);
    } else {
      l = PickBytes(low[0], low[1], codes);
      h = PickBytes(high[0], high[1], codes);
    }
    if constexpr (Q == 4) {
      const uint32_t mask = PickBytes(0xff00u, 0, fourth);
      l = PickBits(mask, PickBytes(low[2], low[3], codes), l);
      h = PickBits(mask, PickBytes(high[2], high[3], codes), h);
    }
    out[0] = PickBytes(l, h, 0x5140);
    out[1] = PickBytes(l, h, 0x7362);
  }
};

// The value of `pair`, of row g or g + 8.
__device__ __forceinline__ float HalfOfPair(uint32_t pair, int r) {
  const float2 v = HalvesToFloats(pair);
  return r == 0 ? v.x : v.y;
}

// One row's 32 weights of a lane in one half of a block.
template <typename B>
struct HalfDecoder;

template <Form F, bool Z, int Q, int S>
struct HalfDecoder<Block<F, Z, Q, S>> {
  using B = Block<F, Z, Q, S>;
  HalfTable<Q> table;
  PairCodes low;
  uint32_t third, fourth;

  // `slot` is the lane's own; tables: bcq/shift's bytes of each set.
  __device__ __forceinline__ HalfDecoder(const B& w, int h, int r, int slot, const uint2* tables,
                                         const Factors& factors)
      : table(Values(w, h, r, slot, tables, factors).of),
        low(w.Word(h, 0, r), w.Word(h, 1, r)),
        third(w.Word(h, Q > 2 ? 2 : 0, r)),
        fourth(w.Word(h, Q > 3 ? 3 : 0, r)) {}

  // The weights j + 4m of the lane, m = 0..7, in pairs.
  __device__ __forceinline__ void Step(int j, uint32_t (&out)[4]) const {
    uint32_t codes = low.Step(j) & 0x33333333u;
    if constexpr (Q > 2) codes |= PlaneBits(third, j, 2);
    const uint32_t top = Q > 3 ? PlaneBits(fourth, j, 0) : 0;
    table.Four(codes, top, out);
    table.Four(codes >> 16, top >> 16, out + 2);
  }

 private:
  struct Values {
    float of[1 << Q];

    __device__ __forceinline__ Values(const B& w, int h, int r, int slot, const uint2* tables,
                                      const Factors& factors) {
      const auto pick = [&](const uint32_t(&pairs)[2 * S]) {
        const uint32_t pair = S == 1 || slot == 0 ? pairs[h * S] : pairs[h * S + S - 1];
        return HalfOfPair(pair, r);
      };
      float zeta = 0;
      if constexpr (Z) zeta = pick(w.zeta) * factors.zeta;
      if constexpr (F == Form::kFree) {
        float twice[Q];
#pragma unroll
        for (int i = 0; i < Q; ++i) {
          const float alpha = pick(w.scale[i]) * factors.scale;
          twice[i] = 2 * alpha;
          if constexpr (!Z) zeta -= alpha;
        }
        of[0] = zeta;
#pragma unroll
        for (int i = 0; i < Q; ++i) {
#pragma unroll
          for (int c = 0; c < 1 << i; ++c) of[c + (1 << i)] = of[c] + twice[i];
        }
      } else {
        const float s = pick(w.scale[0]) * factors.scale;
        const uint2 look = tables[(w.sets >> (8 * (h * S + slot) + 4 * r)) & 7];
        const auto byte = [](uint32_t word, int at) {
          return static_cast<int>(static_cast<int8_t>(word >> (8 * at)));
        };
#pragma unroll
        for (int c = 0; c < 1 << Q; ++c) {
          const int value = Q == 4 ? byte(look.x, c % 4) + byte(look.y, c / 4)
                                   : byte(c < 4 ? look.x : look.y, c % 4);
          of[c] = fmaf(s, static_cast<float>(value), zeta);
        }
      }
    }
  };
};

// int8/group.
template <int S>
struct HalfDecoder<CodeBlock<S>> {
  const CodeBlock<S>& w;
  int h, r;
  float scale;

  __device__ __forceinline__ HalfDecoder(const CodeBlock<S>& block, int half, int row, int slot,
                                         const uint2*, const Factors& factors)
      : w(block),
        h(half),
        r(row),
        scale(HalfOfPair(S == 1 || slot == 0 ? w.scale[h * S] : w.scale[h * S + S - 1], r) *
              factors.scale) {}

  __device__ __forceinline__ void Step(int j, uint32_t (&out)[4]) const {
    const uint4& v = w.codes[h * 4 + j];
    const uint32_t lower = r == 0 ? v.x : v.y, upper = r == 0 ? v.z : v.w;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t word = (i < 2 ? lower : upper) >> (16 * (i % 2));
      const __half2 pair =
          __floats2half2_rn(scale * static_cast<float>(static_cast<int8_t>(word)),
                            scale * static_cast<float>(static_cast<int8_t>(word >> 8)));
      out[i] = *reinterpret_cast<const uint32_t*>(&pair);
    }
  }
};

}  // namespace shiftadd::kernels::cuda

#endif  // SHIFTADD_KERNELS_CUDA_HALF_DECODER_CUH_
