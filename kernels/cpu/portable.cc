// The reference kernels: plain C++, any processor.
#include <cstring>

#include "kernels/cpu/multiply_inl.h"
#include "kernels/cpu/prepare_inl.h"

namespace shiftadd::kernels::cpu {
namespace {

struct Portable {
  struct F {
    float v[kTileRows];
  };
  struct I {
    int32_t v[kTileRows];
  };
  static constexpr int kDotRows = 4;
  static constexpr int kInt8Bias = 0;
  static constexpr int kVectorTokens = 0;

  template <class R, class Op>
  static R Each(Op op) {
    R r;
    for (int i = 0; i < kTileRows; ++i) r.v[i] = op(i);
    return r;
  }

  static F Broadcast(float x) {
    return Each<F>([&](int) { return x; });
  }
  static F Load(const float* p) {
    return Each<F>([&](int i) { return p[i]; });
  }
  static void Store(float* p, const F& a) { std::memcpy(p, a.v, sizeof(a.v)); }
  static F Add(const F& a, const F& b) {
    return Each<F>([&](int i) { return a.v[i] + b.v[i]; });
  }
  static F Mul(const F& a, const F& b) {
    return Each<F>([&](int i) { return a.v[i] * b.v[i]; });
  }
  static F ToFloat(const I& a) {
    return Each<F>([&](int i) { return static_cast<float>(a.v[i]); });
  }
  static F LoadHalves(const uint8_t* p) {
    return Each<F>([&](int i) {
      uint16_t h;
      std::memcpy(&h, p + 2 * i, 2);
      return HalfToFloat(h);
    });
  }
  // 2^(table[set] - 127).
  static F LookUpPower(const uint8_t* table, const uint8_t* sets) {
    return Each<F>([&](int i) {
      const uint32_t bits = static_cast<uint32_t>(table[sets[i]]) << 23;
      float f;
      std::memcpy(&f, &bits, 4);
      return f;
    });
  }
  static I LookUp(const uint8_t* table, const uint8_t* sets) {
    return Each<I>([&](int i) { return table[sets[i]]; });
  }
  static I Same(int32_t x) {
    return Each<I>([&](int) { return x; });
  }
  static I Add(const I& a, const I& b) {
    return Each<I>([&](int i) { return a.v[i] + b.v[i]; });
  }
  static I Sub(const I& a, const I& b) {
    return Each<I>([&](int i) { return a.v[i] - b.v[i]; });
  }
  static I Times(const I& a, int32_t x) {
    return Each<I>([&](int i) { return a.v[i] * x; });
  }
  template <int kBits>
  static I ShiftLeft(const I& a) {
    return Each<I>([&](int i) { return a.v[i] * (1 << kBits); });
  }

  static void DecodeCodes(const LayoutView& w, const uint8_t* codes, const uint8_t* sets, int steps,
                          int first_step, int last_step, uint8_t* tile) {
    const int64_t quad_bytes = BlockBytes(Form::kCode, w.q, steps) / 4;
    for (int lane = 0; lane < kTileRows; ++lane) {
      const uint8_t* at = codes + lane % 4 * quad_bytes + lane / 4 * 16;
      const uint8_t* values = w.values[sets[lane]];
      for (int step = first_step; step < last_step; ++step) {
        uint8_t* out = tile + step * 256 + lane * 4;
        for (int j = 0; j < kStepInputs; ++j) {
          int code = 0;
          if (w.q == 2) {
            code = (at[step / 4 * 64 + j] >> (step % 4 * 2)) & 3;
          } else if (w.q == 3 && step >= 6) {
            const int bit = step == 6 ? 3 : 7;
            for (int i = 0; i < 3; ++i) code |= ((at[i * 64 + j] >> bit) & 1) << i;
          } else {  // bit 3 of an index does not matter with 3 planes
            code = at[step / 2 * 64 + j] >> (step % 2 * 4);
          }
          out[j / 4 * 64 + j % 4] = values[code & 15];
        }
      }
    }
  }

  static void DecodePlane(const uint8_t* words, int quads, uint8_t* tile) {
    for (int i = 0; i < quads * 8; ++i) {
      for (int bit = 0; bit < 8; ++bit) tile[i * 8 + bit] = (words[i] >> bit) & 1;
    }
  }

  static const uint8_t* Int8Tile(const uint8_t* codes, int, uint8_t*) { return codes; }

  template <bool kSigned, int kRows>
  static void Dot(const uint8_t* tile, int first, int last, int /*max_value*/,
                  const int8_t* const* x, I* out) {
    for (int r = 0; r < kRows; ++r) out[r] = Same(0);
    const int8_t* w = reinterpret_cast<const int8_t*>(tile);  // codes stay below 128
    for (int quad = first; quad < last; ++quad) {
      for (int r = 0; r < kRows; ++r) {
        const int8_t* at = x[r] + quad * 4;
        for (int i = 0; i < kTileRows; ++i) {
          const int8_t* p = w + quad * 64 + i * 4;
          out[r].v[i] += p[0] * at[0] + p[1] * at[1] + p[2] * at[2] + p[3] * at[3];
        }
      }
    }
  }

  static void Prefetch(const uint8_t*, int64_t) {}
  static constexpr int kTableTiles = 1;
  static bool HasTableProduct(const LayoutView&) { return false; }
  static void TableProduct(const LayoutView&, const ActivationsView&, int64_t, int, int64_t,
                           float*) {}
  static bool HasVectorProduct(const LayoutView&) { return false; }
  static void VectorProduct(const LayoutView&, const ActivationsView&, int64_t, int64_t, float*) {}
};

}  // namespace

Kernels PortableKernels() { return {&Multiply<Portable>, &PrepareToken}; }

}  // namespace shiftadd::kernels::cpu
