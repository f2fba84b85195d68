// AVX-512 with BW, VBMI and VNNI: 16 rows are the 16 lanes of a vector.
#include "kernels/cpu/multiply_inl.h"
#include "kernels/cpu/prepare_inl.h"

#if defined(__AVX512BW__) && defined(__AVX512VNNI__) && defined(__F16C__)

#include <immintrin.h>

namespace shiftadd::kernels::cpu {
namespace {

struct Avx512 {
  using F = __m512;
  using I = __m512i;
  static constexpr int kDotRows = 8;
  static constexpr int kInt8Bias = 128;  // VNNI's weights are unsigned
  static constexpr int kVectorTokens = 3;
  static constexpr int64_t kAhead = 4096;  // bytes of prefetch

  static F Broadcast(float x) { return _mm512_set1_ps(x); }
  static F Load(const float* p) { return _mm512_loadu_ps(p); }
  static void Store(float* p, F a) { _mm512_storeu_ps(p, a); }
  static F Add(F a, F b) { return _mm512_add_ps(a, b); }
  static F Mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F ToFloat(I a) { return _mm512_cvtepi32_ps(a); }
  static F LoadHalves(const uint8_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static I LookUp(const uint8_t* table, const uint8_t* sets) {
    const __m128i t = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
    const __m128i s = _mm_loadu_si128(reinterpret_cast<const __m128i*>(sets));
    return _mm512_cvtepu8_epi32(_mm_shuffle_epi8(t, s));
  }
  static F LookUpPower(const uint8_t* table, const uint8_t* sets) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(LookUp(table, sets), 23));
  }
  static I Same(int32_t x) { return _mm512_set1_epi32(x); }
  static I Add(I a, I b) { return _mm512_add_epi32(a, b); }
  static I Sub(I a, I b) { return _mm512_sub_epi32(a, b); }
  static I Times(I a, int32_t x) { return _mm512_mullo_epi32(a, Same(x)); }
  template <int kBits>
  static I ShiftLeft(I a) {
    return _mm512_slli_epi32(a, kBits);
  }

  static I LoadBytes(const void* p) { return _mm512_loadu_si512(p); }
  static I Broadcast4(const int8_t* x) {
    int32_t v;
    __builtin_memcpy(&v, x, 4);
    return _mm512_set1_epi32(v);
  }
  static I Broadcast16(const void* p) {
    return _mm512_broadcast_i32x4(_mm_loadu_si128(static_cast<const __m128i*>(p)));
  }

  // The tables of rows e, 4 + e, 8 + e, 12 + e in the four lanes.
  static I Tables(const LayoutView& w, const uint8_t* sets, int e) {
    const auto table = [&](int row) {
      return _mm_load_si128(reinterpret_cast<const __m128i*>(w.values[sets[row]]));
    };
    const __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(table(e)), table(4 + e), 1);
    const __m256i high =
        _mm256_inserti128_si256(_mm256_castsi128_si256(table(8 + e)), table(12 + e), 1);
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
  }

  static I FromNibble(I table, I v) {
    return _mm512_shuffle_epi8(table, _mm512_and_si512(v, _mm512_set1_epi8(15)));
  }

  // Integers of one step of a quad of rows. Of an index only bit 7 and the q lowest count.
  template <int kQ>
  static I Values(const uint8_t* quad, int step, I table) {
    if constexpr (kQ == 2) {
      const unsigned shift = static_cast<unsigned>(step % 4 * 2);
      return FromNibble(table, _mm512_srli_epi16(LoadBytes(quad + step / 4 * 64), shift));
    }
    if (kQ == 4 || step < 6) {
      const I v = LoadBytes(quad + step / 2 * 64);
      return FromNibble(table, step % 2 == 0 ? v : _mm512_srli_epi16(v, 4));
    }
    const unsigned top = step == 6 ? 0u : 4u;  // to bits 0, 1, 2 of the index
    const I a = _mm512_srli_epi16(LoadBytes(quad), top + 3);
    const I b = _mm512_srli_epi16(LoadBytes(quad + 64), top + 2);
    const I c = _mm512_srli_epi16(LoadBytes(quad + 128), top + 1);
    // Where the mask has ones take the first, else the second.
    const I ab = _mm512_ternarylogic_epi32(_mm512_set1_epi8(1), a, b, 0xca);
    return FromNibble(table, _mm512_ternarylogic_epi32(_mm512_set1_epi8(3), ab, c, 0xca));
  }

  // Four vectors of one 16-input step, rows 4L+e, to four quads of inputs, lanes = rows.
  static void StoreStep(const I* v, uint8_t* tile) {
    const I a = _mm512_unpacklo_epi32(v[0], v[1]);
    const I b = _mm512_unpackhi_epi32(v[0], v[1]);
    const I c = _mm512_unpacklo_epi32(v[2], v[3]);
    const I d = _mm512_unpackhi_epi32(v[2], v[3]);
    _mm512_store_si512(tile, _mm512_unpacklo_epi64(a, c));
    _mm512_store_si512(tile + 64, _mm512_unpackhi_epi64(a, c));
    _mm512_store_si512(tile + 128, _mm512_unpacklo_epi64(b, d));
    _mm512_store_si512(tile + 192, _mm512_unpackhi_epi64(b, d));
  }

  template <int kQ>
  static void DecodeSteps(const LayoutView& w, const uint8_t* codes, const uint8_t* sets,
                          int64_t quad_bytes, int first, int last, uint8_t* tile) {
    const I tables[4] = {Tables(w, sets, 0), Tables(w, sets, 1), Tables(w, sets, 2),
                         Tables(w, sets, 3)};
    for (int step = first; step < last; ++step) {
      I v[4];
      for (int e = 0; e < 4; ++e) {
        v[e] = Values<kQ>(codes + e * quad_bytes, step, tables[e]);
      }
      StoreStep(v, tile + step * 256);
    }
  }

  static void DecodeCodes(const LayoutView& w, const uint8_t* codes, const uint8_t* sets, int steps,
                          int first, int last, uint8_t* tile) {
    const int64_t quad_bytes = BlockBytes(Form::kCode, w.q, steps) / 4;
    if (w.q == 2) {
      DecodeSteps<2>(w, codes, sets, quad_bytes, first, last, tile);
    } else if (w.q == 3) {
      DecodeSteps<3>(w, codes, sets, quad_bytes, first, last, tile);
    } else {
      DecodeSteps<4>(w, codes, sets, quad_bytes, first, last, tile);
    }
  }

  static I PlaneBytes(const uint8_t* word) {
    uint64_t bits;
    __builtin_memcpy(&bits, word, 8);
    return _mm512_maskz_mov_epi8(bits, _mm512_set1_epi8(1));
  }

  static void DecodePlane(const uint8_t* words, int quads, uint8_t* tile) {
    for (int i = 0; i < quads; ++i) _mm512_store_si512(tile + i * 64, PlaneBytes(words + i * 8));
  }

  static I Biased(const uint8_t* codes) {
    return _mm512_xor_si512(LoadBytes(codes), _mm512_set1_epi8(-128));
  }

  static const uint8_t* Int8Tile(const uint8_t* codes, int quads, uint8_t* tile) {
    for (int i = 0; i < quads; ++i) _mm512_store_si512(tile + i * 64, Biased(codes + i * 64));
    return tile;
  }

  // sum + the dot products of v's unsigned bytes with the four signed ones at x, by lane. In
  // assembly since compilers make a broadcast of its own and copies of the sums of the intrinsic.
  static I DotBroadcast(I sum, I v, const int8_t* x) {
    struct Four {
      int8_t bytes[4];
    };
    __asm__("vpdpbusd %2%{1to16%}, %1, %0"
            : "+v"(sum)
            : "v"(v), "m"(*reinterpret_cast<const Four*>(x)));
    return sum;
  }

  template <bool kSigned, int kRows>
  static void Dot(const uint8_t* tile, int first, int last, int /*max_value*/,
                  const int8_t* const* x, I* out) {
    I sum[kRows];
    const int8_t* at[kRows];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      sum[r] = _mm512_setzero_si512();
      at[r] = x[r];
    }
    const auto add = [&](int quad) __attribute__((always_inline)) {
      const I v = _mm512_load_si512(tile + quad * 64);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) sum[r] = DotBroadcast(sum[r], v, at[r] + quad * 4);
    };
    int quad = first;
    for (; quad + 4 <= last; quad += 4) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) add(quad + i);
    }
    for (; quad < last; ++quad) add(quad);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) out[r] = sum[r];
  }

  // --- One token, weights straight from memory ---------------------------------------------------

  static void Prefetch(const uint8_t* p, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64) {
      _mm_prefetch(reinterpret_cast<const char*>(p + kAhead + i), _MM_HINT_T0);
    }
  }

  // Sums of the four lanes' dwords of four quads of rows: lane = row.
  static I ReduceQuads(const I* v) {
    const I a = Add(_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[0], v[1]));
    const I b = Add(_mm512_unpacklo_epi32(v[2], v[3]), _mm512_unpackhi_epi32(v[2], v[3]));
    return Add(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
  }

  // kSteps: steps first..first+kSteps, unrolled; 0: up to last.
  template <int kQ, bool kTwoDigits, int kSteps>
  static void CodeDots(const LayoutView& w, const uint8_t* codes, int64_t quad_bytes,
                       const uint8_t* sets, int first, int last, const int8_t* high,
                       const int8_t* low, I* dots) {
    I sum_high[4], sum_low[4];
    for (int e = 0; e < 4; ++e) {
      const I table = Tables(w, sets, e);
      const uint8_t* quad = codes + e * quad_bytes;
      sum_high[e] = _mm512_setzero_si512();
      sum_low[e] = _mm512_setzero_si512();
      const auto add = [&](int step) __attribute__((always_inline)) {
        const I v = Values<kQ>(quad, step, table);
        sum_high[e] = _mm512_dpbusd_epi32(sum_high[e], v, Broadcast16(high + step * 16));
        if constexpr (kTwoDigits) {
          sum_low[e] = _mm512_dpbusd_epi32(sum_low[e], v, Broadcast16(low + step * 16));
        }
      };
      if constexpr (kSteps > 0) {
#pragma GCC unroll 8
        for (int step = 0; step < kSteps; ++step) add(step);
      } else {
        for (int step = first; step < last; ++step) add(step);
      }
    }
    dots[0] = ReduceQuads(sum_high);
    if constexpr (kTwoDigits) dots[0] = JoinDigits<Avx512>(dots[0], ReduceQuads(sum_low));
  }

  template <int kQ, bool kTwoDigits>
  static void CodeVector(const LayoutView& w, const ActivationsView& a, int64_t tile, int64_t token,
                         float* out) {
    const uint8_t* codes = w.codes + tile * w.tile_bytes;
    F acc = _mm512_setzero_ps();
    for (int64_t block = 0; block < w.blocks; ++block, codes += w.block_bytes) {
      const int64_t at = token * a.stride + block * kBlockInputs;
      const int64_t quad_bytes = BlockBytes(Form::kCode, kQ, StepsOf(w, block)) / 4;
      Prefetch(codes, 4 * quad_bytes);
      for (int64_t c = w.first_chunk[block]; c < w.first_chunk[block + 1]; ++c) {
        const Chunk& chunk = w.chunks[c];
        const uint8_t* record = RecordOf<Avx512>(w, tile, c);
        const uint8_t* sets = record + 32;
        const int8_t* low = kTwoDigits ? a.low + at : nullptr;
        I dot;
        if (chunk.end - chunk.begin == kBlockInputs) {
          CodeDots<kQ, kTwoDigits, 8>(w, codes, quad_bytes, sets, 0, 8, a.high + at, low, &dot);
        } else {
          CodeDots<kQ, kTwoDigits, 0>(w, codes, quad_bytes, sets, chunk.begin / kStepInputs,
                                      (chunk.end + kStepInputs - 1) / kStepInputs, a.high + at, low,
                                      &dot);
        }
        const int64_t x = token * a.chunks + c;
        dot = Sub(Add(dot, dot), Times(LookUp(w.totals, sets), a.digit_sum[x]));
        const F scale = Mul(LoadHalves(record), LookUpPower(w.exponents, sets));
        acc = AddScaled<Avx512>(acc, scale, a.scale[x], dot);
        if (w.zeta) acc = Add(acc, Mul(LoadHalves(record + 48), Broadcast(a.sum[x])));
      }
    }
    Store(out, acc);
  }

  // Dots of a chunk of bytes that `load` gives for each quad of inputs.
  template <bool kTwoDigits, class Load>
  static I QuadDots(int first, int last, const int8_t* high, const int8_t* low, Load load) {
    I sum[4], sum_low[4];
    for (int j = 0; j < 4; ++j) sum[j] = sum_low[j] = _mm512_setzero_si512();
    int quad = first;
    const auto add = [&](int j, int at) __attribute__((always_inline)) {
      const I v = load(at);
      sum[j] = _mm512_dpbusd_epi32(sum[j], v, Broadcast4(high + at * 4));
      if constexpr (kTwoDigits) {
        sum_low[j] = _mm512_dpbusd_epi32(sum_low[j], v, Broadcast4(low + at * 4));
      }
    };
    for (; quad + 4 <= last; quad += 4) {
      add(0, quad);
      add(1, quad + 1);
      add(2, quad + 2);
      add(3, quad + 3);
    }
    for (; quad < last; ++quad) add(0, quad);
    const I dot = Add(Add(sum[0], sum[1]), Add(sum[2], sum[3]));
    if constexpr (!kTwoDigits) return dot;
    return JoinDigits<Avx512>(dot, Add(Add(sum_low[0], sum_low[1]), Add(sum_low[2], sum_low[3])));
  }

  template <bool kTwoDigits>
  static void Int8Vector(const LayoutView& w, const ActivationsView& a, int64_t tile, int64_t token,
                         float* out) {
    const uint8_t* codes = w.codes + tile * w.tile_bytes;
    F acc = _mm512_setzero_ps();
    for (int64_t block = 0; block < w.blocks; ++block, codes += w.block_bytes) {
      const int64_t at = token * a.stride + block * kBlockInputs;
      for (int64_t c = w.first_chunk[block]; c < w.first_chunk[block + 1]; ++c) {
        const Chunk& chunk = w.chunks[c];
        const auto load = [&](int quad) {
          _mm_prefetch(reinterpret_cast<const char*>(codes + quad * 64 + kAhead), _MM_HINT_T0);
          return Biased(codes + quad * 64);
        };
        I dot = QuadDots<kTwoDigits>(chunk.begin / 4, (chunk.end + 3) / 4, a.high + at,
                                     kTwoDigits ? a.low + at : nullptr, load);
        const int64_t x = token * a.chunks + c;
        dot = Sub(dot, Same(kInt8Bias * a.digit_sum[x]));
        const F scale = LoadHalves(RecordOf<Avx512>(w, tile, c));
        acc = AddScaled<Avx512>(acc, scale, a.scale[x], dot);
      }
    }
    Store(out, acc);
  }

  template <bool kTwoDigits>
  static void PlanesVector(const LayoutView& w, const ActivationsView& a, int64_t tile,
                           int64_t token, float* out) {
    const uint8_t* codes = w.codes + tile * w.tile_bytes;
    F acc = _mm512_setzero_ps();
    for (int64_t block = 0; block < w.blocks; ++block, codes += w.block_bytes) {
      const int64_t at = token * a.stride + block * kBlockInputs;
      const int64_t first = w.first_chunk[block];
      const int64_t last = w.first_chunk[block + 1];
      const int64_t plane_bytes = int64_t{32} * StepsOf(w, block);
      Prefetch(codes, plane_bytes * w.q);
      for (int plane = 0; plane < w.q; ++plane) {
        const uint8_t* words = codes + plane * plane_bytes;
        for (int64_t c = first; c < last; ++c) {
          const uint8_t* record = RecordOf<Avx512>(w, tile, c);
          I dot = QuadDots<kTwoDigits>(w.chunks[c].begin / 4, (w.chunks[c].end + 3) / 4,
                                       a.high + at, kTwoDigits ? a.low + at : nullptr,
                                       [&](int quad) { return PlaneBytes(words + quad * 8); });
          acc = AddPlane<Avx512>(w, a, record, plane, c, token, dot, acc);
        }
      }
      acc = AddOffsetsOfOne<Avx512>(w, a, tile, first, last, token, acc);
    }
    Store(out, acc);
  }

  template <bool kTwoDigits>
  static void AnyVector(const LayoutView& w, const ActivationsView& a, int64_t tile, int64_t token,
                        float* out) {
    if (w.form == Form::kInt8) return Int8Vector<kTwoDigits>(w, a, tile, token, out);
    if (w.form == Form::kPlanes) return PlanesVector<kTwoDigits>(w, a, tile, token, out);
    if (w.q == 2) return CodeVector<2, kTwoDigits>(w, a, tile, token, out);
    if (w.q == 3) return CodeVector<3, kTwoDigits>(w, a, tile, token, out);
    return CodeVector<4, kTwoDigits>(w, a, tile, token, out);
  }

  static constexpr int kTableTiles = 1;
  static bool HasTableProduct(const LayoutView&) { return false; }
  static void TableProduct(const LayoutView&, const ActivationsView&, int64_t, int, int64_t,
                           float*) {}
  static bool HasVectorProduct(const LayoutView& w) { return w.form != Form::kBlock8; }
  static void VectorProduct(const LayoutView& w, const ActivationsView& a, int64_t tile,
                            int64_t token, float* out) {
    if (a.low != nullptr) return AnyVector<true>(w, a, tile, token, out);
    return AnyVector<false>(w, a, tile, token, out);
  }
};

}  // namespace

Kernels Avx512Kernels() { return {&Multiply<Avx512>, &PrepareToken}; }

}  // namespace shiftadd::kernels::cpu

#else

namespace shiftadd::kernels::cpu {
Kernels Avx512Kernels() { return PortableKernels(); }
}  // namespace shiftadd::kernels::cpu

#endif
