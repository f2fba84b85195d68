// AVX2 with F16C: 16 rows are two vectors of 8 lanes.
#include "kernels/cpu/multiply_inl.h"
#include "kernels/cpu/prepare_inl.h"

#if defined(__AVX2__) && defined(__F16C__)

#include <immintrin.h>

namespace shiftadd::kernels::cpu {
namespace {

struct Avx2 {
  struct F {
    __m256 a, b;
  };
  struct I {
    __m256i a, b;
  };
  static constexpr int kDotRows = 4;
  static constexpr int kInt8Bias = 0;
  static constexpr int kVectorTokens = 3;
  static constexpr int64_t kAhead = 4096;  // bytes of prefetch

  static F Broadcast(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static F Load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static void Store(float* p, const F& x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
  }
  static F Add(const F& x, const F& y) {
    return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
  }
  static F Mul(const F& x, const F& y) {
    return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
  }
  static F ToFloat(const I& x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
  static F LoadHalves(const uint8_t* p) {
    return {_mm256_cvtph_ps(Load16(p)), _mm256_cvtph_ps(Load16(p + 16))};
  }
  static I LookUp(const uint8_t* table, const uint8_t* sets) {
    const __m128i v = _mm_shuffle_epi8(Load16(table), Load16(sets));
    return {_mm256_cvtepu8_epi32(v), _mm256_cvtepu8_epi32(_mm_srli_si128(v, 8))};
  }
  static F LookUpPower(const uint8_t* table, const uint8_t* sets) {
    const I v = ShiftLeft<23>(LookUp(table, sets));
    return {_mm256_castsi256_ps(v.a), _mm256_castsi256_ps(v.b)};
  }
  static I Same(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
  static I Add(const I& x, const I& y) {
    return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)};
  }
  static I Sub(const I& x, const I& y) {
    return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)};
  }
  static I Times(const I& x, int32_t y) {
    const __m256i v = _mm256_set1_epi32(y);
    return {_mm256_mullo_epi32(x.a, v), _mm256_mullo_epi32(x.b, v)};
  }
  template <int kBits>
  static I ShiftLeft(const I& x) {
    return {_mm256_slli_epi32(x.a, kBits), _mm256_slli_epi32(x.b, kBits)};
  }

  static __m128i Load16(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
  static __m256i Load32(const void* p) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(p));
  }
  static void Store32(void* p, __m256i v) { _mm256_store_si256(static_cast<__m256i*>(p), v); }
  static __m256i Broadcast4(const int8_t* x) {
    int32_t v;
    __builtin_memcpy(&v, x, 4);
    return _mm256_set1_epi32(v);
  }

  // --- Decoding ----------------------------------------------------------------------------------

  // The tables of rows 8 half + e and 8 half + 4 + e in the two lanes.
  static __m256i Tables(const LayoutView& w, const uint8_t* sets, int e, int half) {
    const int row = 8 * half + e;
    return _mm256_inserti128_si256(_mm256_castsi128_si256(Load16(w.values[sets[row]])),
                                   Load16(w.values[sets[row + 4]]), 1);
  }

  static __m256i FromNibble(__m256i table, __m256i v) {
    return _mm256_shuffle_epi8(table, _mm256_and_si256(v, _mm256_set1_epi8(15)));
  }
  static __m256i Bit(__m256i v, int bit) {
    return _mm256_and_si256(v, _mm256_set1_epi8(static_cast<char>(1 << bit)));
  }

  // Integers of one step of half a quad of rows. Of an index only bit 7 and the q lowest count.
  template <int kQ>
  static __m256i Values(const uint8_t* quad, int step, __m256i table) {
    if constexpr (kQ == 2) {
      return FromNibble(table, _mm256_srli_epi16(Load32(quad + step / 4 * 64), step % 4 * 2));
    }
    if (kQ == 4 || step < 6) {
      const __m256i v = Load32(quad + step / 2 * 64);
      return FromNibble(table, step % 2 == 0 ? v : _mm256_srli_epi16(v, 4));
    }
    const int top = step == 6 ? 0 : 4;
    const __m256i a = Bit(_mm256_srli_epi16(Load32(quad), top + 3), 0);
    const __m256i b = Bit(_mm256_srli_epi16(Load32(quad + 64), top + 2), 1);
    const __m256i c = Bit(_mm256_srli_epi16(Load32(quad + 128), top + 1), 2);
    return _mm256_shuffle_epi8(table, _mm256_or_si256(_mm256_or_si256(a, b), c));
  }

  // Four vectors of one 16-input step to four quads of inputs, lanes = 8 rows.
  static void StoreStep(const __m256i* v, uint8_t* tile) {
    const __m256i a = _mm256_unpacklo_epi32(v[0], v[1]);
    const __m256i b = _mm256_unpackhi_epi32(v[0], v[1]);
    const __m256i c = _mm256_unpacklo_epi32(v[2], v[3]);
    const __m256i d = _mm256_unpackhi_epi32(v[2], v[3]);
    Store32(tile, _mm256_unpacklo_epi64(a, c));
    Store32(tile + 64, _mm256_unpackhi_epi64(a, c));
    Store32(tile + 128, _mm256_unpacklo_epi64(b, d));
    Store32(tile + 192, _mm256_unpackhi_epi64(b, d));
  }

  template <int kQ>
  static void DecodeSteps(const LayoutView& w, const uint8_t* codes, const uint8_t* sets,
                          int64_t quad_bytes, int first, int last, uint8_t* tile) {
    for (int half = 0; half < 2; ++half) {
      const __m256i tables[4] = {Tables(w, sets, 0, half), Tables(w, sets, 1, half),
                                 Tables(w, sets, 2, half), Tables(w, sets, 3, half)};
      for (int step = first; step < last; ++step) {
        __m256i v[4];
        for (int e = 0; e < 4; ++e) {
          v[e] = Values<kQ>(codes + e * quad_bytes + 32 * half, step, tables[e]);
        }
        StoreStep(v, tile + step * 256 + 32 * half);
      }
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

  static void DecodePlane(const uint8_t* words, int quads, uint8_t* tile) {
    const __m256i spread = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2,
                                            2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
    const __m256i bit = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201ull));
    for (int i = 0; i < 2 * quads; ++i) {
      const __m256i v = Broadcast4(reinterpret_cast<const int8_t*>(words + 4 * i));
      const __m256i picked = _mm256_and_si256(_mm256_shuffle_epi8(v, spread), bit);
      Store32(tile + 32 * i, _mm256_and_si256(_mm256_cmpeq_epi8(picked, bit), _mm256_set1_epi8(1)));
    }
  }

  static const uint8_t* Int8Tile(const uint8_t* codes, int, uint8_t*) { return codes; }

  // --- Dots --------------------------------------------------------------------------------------

  // u8 x s8 pairs to 16 bits. Bytes up to 127 (|int8| up to 128) times digits up to 127 do not
  // saturate: 2 * 128 * 127 < 32768.
  template <bool kSigned>
  static __m256i Pairs(__m256i w, __m256i magnitude, __m256i x) {
    if constexpr (kSigned) return _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(x, w));
    return _mm256_maddubs_epi16(w, x);
  }
  static __m256i Widen(__m256i pairs) { return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)); }

  // kLot: how many pair sums of 16 bits may be added before widening.
  template <bool kSigned, int kRows, int kLot>
  static void DotLots(const uint8_t* tile, int first, int last, const int8_t* const* x, I* out) {
    I sum[kRows];
    for (int r = 0; r < kRows; ++r) sum[r] = Same(0);
    for (int quad = first; quad < last;) {
      const int end = quad + kLot < last ? quad + kLot : last;
      __m256i pa[kRows], pb[kRows];
      for (int r = 0; r < kRows; ++r) pa[r] = pb[r] = _mm256_setzero_si256();
      for (; quad < end; ++quad) {
        const __m256i wa = Load32(tile + quad * 64), wb = Load32(tile + quad * 64 + 32);
        const __m256i ma = kSigned ? _mm256_abs_epi8(wa) : wa;
        const __m256i mb = kSigned ? _mm256_abs_epi8(wb) : wb;
        for (int r = 0; r < kRows; ++r) {
          const __m256i v = Broadcast4(x[r] + quad * 4);
          pa[r] = _mm256_add_epi16(pa[r], Pairs<kSigned>(wa, ma, v));
          pb[r] = _mm256_add_epi16(pb[r], Pairs<kSigned>(wb, mb, v));
        }
      }
      for (int r = 0; r < kRows; ++r) {
        sum[r].a = _mm256_add_epi32(sum[r].a, Widen(pa[r]));
        sum[r].b = _mm256_add_epi32(sum[r].b, Widen(pb[r]));
      }
    }
    for (int r = 0; r < kRows; ++r) out[r] = sum[r];
  }

  template <bool kSigned, int kRows>
  static void Dot(const uint8_t* tile, int first, int last, int max_value, const int8_t* const* x,
                  I* out) {
    if constexpr (kSigned) return DotLots<true, kRows, 1>(tile, first, last, x, out);
    // max_value * 2 * 127 * kLot < 32768.
    if (max_value <= 16) return DotLots<false, kRows, 8>(tile, first, last, x, out);
    if (max_value <= 32) return DotLots<false, kRows, 4>(tile, first, last, x, out);
    return DotLots<false, kRows, 1>(tile, first, last, x, out);
  }

  // --- One token, weights straight from memory ---------------------------------------------------

  static void Prefetch(const uint8_t* p, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64) {
      _mm_prefetch(reinterpret_cast<const char*>(p + kAhead + i), _MM_HINT_T0);
    }
  }

  static __m256i ReduceQuads(const __m256i* v) {
    const __m256i a =
        _mm256_add_epi32(_mm256_unpacklo_epi32(v[0], v[1]), _mm256_unpackhi_epi32(v[0], v[1]));
    const __m256i b =
        _mm256_add_epi32(_mm256_unpacklo_epi32(v[2], v[3]), _mm256_unpackhi_epi32(v[2], v[3]));
    return _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
  }

  // Steps first..last of 8 rows; kLot (1, 4 or 8) divides a full block's 8 steps.
  template <int kQ, bool kTwoDigits, int kLot>
  static void CodeHalf(const LayoutView& w, const uint8_t* codes, int64_t quad_bytes,
                       const uint8_t* sets, int half, int first, int last, const int8_t* high,
                       const int8_t* low, __m256i* dots) {
    __m256i sum_high[4], sum_low[4];
    for (int e = 0; e < 4; ++e) {
      const __m256i table = Tables(w, sets, e, half);
      const uint8_t* quad = codes + e * quad_bytes + 32 * half;
      sum_high[e] = sum_low[e] = _mm256_setzero_si256();
      __m256i pairs, pairs_low;
      const auto add = [&](int step) __attribute__((always_inline)) {
        const __m256i v = Values<kQ>(quad, step, table);
        const __m256i x = _mm256_broadcastsi128_si256(Load16(high + step * 16));
        pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(v, x));
        if constexpr (kTwoDigits) {
          const __m256i xl = _mm256_broadcastsi128_si256(Load16(low + step * 16));
          pairs_low = _mm256_add_epi16(pairs_low, _mm256_maddubs_epi16(v, xl));
        }
      };
      const auto widen = [&]() __attribute__((always_inline)) {
        sum_high[e] = _mm256_add_epi32(sum_high[e], Widen(pairs));
        if constexpr (kTwoDigits) sum_low[e] = _mm256_add_epi32(sum_low[e], Widen(pairs_low));
      };
      if (last - first == 8) {  // then first is 0: unrolled, shifts are constants
#pragma GCC unroll 8
        for (int step = 0; step < 8; ++step) {
          if (step % kLot == 0) pairs = pairs_low = _mm256_setzero_si256();
          add(step);
          if (step % kLot == kLot - 1) widen();
        }
      } else {
        for (int step = first; step < last; ++step) {
          pairs = pairs_low = _mm256_setzero_si256();
          add(step);
          widen();
        }
      }
    }
    dots[0] = ReduceQuads(sum_high);
    if constexpr (kTwoDigits) dots[1] = ReduceQuads(sum_low);
  }

  template <int kQ, bool kTwoDigits, int kLot>
  static void CodeVector(const LayoutView& w, const ActivationsView& a, int64_t tile, int64_t token,
                         float* out) {
    const uint8_t* codes = w.codes + tile * w.tile_bytes;
    F acc = Broadcast(0.0f);
    for (int64_t block = 0; block < w.blocks; ++block, codes += w.block_bytes) {
      const int64_t at = token * a.stride + block * kBlockInputs;
      const int64_t quad_bytes = BlockBytes(Form::kCode, kQ, StepsOf(w, block)) / 4;
      Prefetch(codes, 4 * quad_bytes);
      for (int64_t c = w.first_chunk[block]; c < w.first_chunk[block + 1]; ++c) {
        const int first = w.chunks[c].begin / kStepInputs;
        const int last = (w.chunks[c].end + kStepInputs - 1) / kStepInputs;
        const uint8_t* record = RecordOf<Avx2>(w, tile, c);
        const uint8_t* sets = record + 32;
        const int8_t* low = kTwoDigits ? a.low + at : nullptr;
        __m256i half[2][2];
        CodeHalf<kQ, kTwoDigits, kLot>(w, codes, quad_bytes, sets, 0, first, last, a.high + at, low,
                                       half[0]);
        CodeHalf<kQ, kTwoDigits, kLot>(w, codes, quad_bytes, sets, 1, first, last, a.high + at, low,
                                       half[1]);
        I dot = {half[0][0], half[1][0]};
        if constexpr (kTwoDigits) dot = JoinDigits<Avx2>(dot, I{half[0][1], half[1][1]});
        const int64_t x = token * a.chunks + c;
        dot = Sub(Add(dot, dot), Times(LookUp(w.totals, sets), a.digit_sum[x]));
        const F scale = Mul(LoadHalves(record), LookUpPower(w.exponents, sets));
        acc = AddScaled<Avx2>(acc, scale, a.scale[x], dot);
        if (w.zeta) acc = Add(acc, Mul(LoadHalves(record + 48), Broadcast(a.sum[x])));
      }
    }
    Store(out, acc);
  }

  template <int kQ, bool kTwoDigits>
  static void AnyLot(const LayoutView& w, const ActivationsView& a, int64_t tile, int64_t token,
                     float* out) {
    if (w.max_value <= 16) return CodeVector<kQ, kTwoDigits, 8>(w, a, tile, token, out);
    if (w.max_value <= 32) return CodeVector<kQ, kTwoDigits, 4>(w, a, tile, token, out);
    return CodeVector<kQ, kTwoDigits, 1>(w, a, tile, token, out);
  }

  template <bool kTwoDigits>
  static void AnyCode(const LayoutView& w, const ActivationsView& a, int64_t tile, int64_t token,
                      float* out) {
    if (w.q == 2) return AnyLot<2, kTwoDigits>(w, a, tile, token, out);
    if (w.q == 3) return AnyLot<3, kTwoDigits>(w, a, tile, token, out);
    return AnyLot<4, kTwoDigits>(w, a, tile, token, out);
  }

  // --- One token, planes of some tiles: table look-up
  // ---------------------------------------------
  //
  // The four plane bits of a row and a quad of inputs choose among the 16 sums that the quad's four
  // digits can have. Sums have 16 bits, in a table of low and one of high bytes. A chunk's sum,
  // at most 128 * 127, fits 16 bits too.

  static constexpr int kTableTiles = 8;  // that share the making of tables

  // Of the 32 quads of a block, a pair of quads in the two lanes of a vector.
  struct alignas(32) SumTables {
    uint8_t low[kBlockInputs / 4][16];
    uint8_t high[kBlockInputs / 4][16];
  };

  static void MakeTables(const int8_t* x, int quads, SumTables* t) {
    // Bit j of the number of each 16-bit lane, as a mask.
    const __m256i number = _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __m256i mask[4];
    for (int j = 0; j < 4; ++j) {
      const __m256i bit = _mm256_set1_epi16(static_cast<int16_t>(1 << j));
      mask[j] = _mm256_cmpeq_epi16(_mm256_and_si256(number, bit), bit);
    }
    for (int quad = 0; quad < quads; ++quad) {
      __m256i sum = _mm256_setzero_si256();
      for (int j = 0; j < 4; ++j) {
        sum = _mm256_add_epi16(sum, _mm256_and_si256(mask[j], _mm256_set1_epi16(x[quad * 4 + j])));
      }
      const __m128i a = _mm256_castsi256_si128(sum), b = _mm256_extracti128_si256(sum, 1);
      const __m128i byte = _mm_set1_epi16(255);
      _mm_store_si128(reinterpret_cast<__m128i*>(t->low[quad]),
                      _mm_packus_epi16(_mm_and_si128(a, byte), _mm_and_si128(b, byte)));
      _mm_store_si128(reinterpret_cast<__m128i*>(t->high[quad]),
                      _mm_packs_epi16(_mm_srai_epi16(a, 8), _mm_srai_epi16(b, 8)));
    }
  }

  // Sums of one plane, quads first..last.
  static I TableDots(const uint8_t* words, const SumTables& t, int first, int last) {
    const __m256i nibble = _mm256_set1_epi8(15);
    __m256i sum_a = _mm256_setzero_si256(), sum_b = _mm256_setzero_si256();
    // `v` has a quad's word in the low half of either lane: 16 rows, 4 bits each.
    const auto add = [&](__m256i v, __m256i low, __m256i high) __attribute__((always_inline)) {
      const __m256i rows = _mm256_unpacklo_epi8(_mm256_and_si256(v, nibble),
                                                _mm256_and_si256(_mm256_srli_epi16(v, 4), nibble));
      low = _mm256_shuffle_epi8(low, rows);
      high = _mm256_shuffle_epi8(high, rows);
      sum_a = _mm256_add_epi16(sum_a, _mm256_unpacklo_epi8(low, high));
      sum_b = _mm256_add_epi16(sum_b, _mm256_unpackhi_epi8(low, high));
    };
    // A quad without a neighbour: the other lane finds zeros.
    const auto add_one = [&](int quad) {
      const __m128i word = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(words + quad * 8));
      add(_mm256_zextsi128_si256(word), _mm256_zextsi128_si256(Load16(t.low[quad])),
          _mm256_zextsi128_si256(Load16(t.high[quad])));
    };
    int quad = first;
    for (; quad + 2 <= last; quad += 2) {
      const __m256i two = _mm256_castsi128_si256(Load16(words + quad * 8));
      add(_mm256_permute4x64_epi64(two, 0x50), Load32(t.low[quad]), Load32(t.high[quad]));
    }
    if (quad < last) add_one(quad);
    const auto join = [](__m256i v) {
      return _mm256_cvtepi16_epi32(
          _mm_add_epi16(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1)));
    };
    return {join(sum_a), join(sum_b)};
  }

  // One block of one tile; see PlanesBlock for the order of the sums.
  template <bool kTwoDigits>
  static F TableBlock(const LayoutView& w, const ActivationsView& a, int64_t tile, int64_t block,
                      int64_t token, const SumTables* tables, F acc) {
    const uint8_t* codes = w.codes + tile * w.tile_bytes + block * w.block_bytes;
    const int64_t first = w.first_chunk[block], last = w.first_chunk[block + 1];
    const int64_t plane_bytes = int64_t{32} * StepsOf(w, block);
    Prefetch(codes, plane_bytes * w.q);
    for (int plane = 0; plane < w.q; ++plane) {
      const uint8_t* words = codes + plane * plane_bytes;
      for (int64_t c = first; c < last; ++c) {
        const uint8_t* record = RecordOf<Avx2>(w, tile, c);
        const int begin = w.chunks[c].begin / 4, end = (w.chunks[c].end + 3) / 4;
        I dot = TableDots(words, tables[0], begin, end);
        if constexpr (kTwoDigits) {
          dot = JoinDigits<Avx2>(dot, TableDots(words, tables[1], begin, end));
        }
        acc = AddPlane<Avx2>(w, a, record, plane, c, token, dot, acc);
      }
    }
    acc = AddOffsetsOfOne<Avx2>(w, a, tile, first, last, token, acc);
    return acc;
  }

  template <bool kTwoDigits>
  static void TableTiles(const LayoutView& w, const ActivationsView& a, int64_t tile, int tiles,
                         int64_t token, float* out) {
    SumTables tables[kTwoDigits ? 2 : 1];
    for (int t = 0; t < tiles; ++t) Store(out + t * kTileRows, Broadcast(0.0f));
    for (int64_t block = 0; block < w.blocks; ++block) {
      const int quads = 4 * StepsOf(w, block);
      const int64_t at = token * a.stride + block * kBlockInputs;
      MakeTables(a.high + at, quads, &tables[0]);
      if constexpr (kTwoDigits) MakeTables(a.low + at, quads, &tables[1]);
      for (int t = 0; t < tiles; ++t) {
        float* acc = out + t * kTileRows;
        Store(acc, TableBlock<kTwoDigits>(w, a, tile + t, block, token, tables, Load(acc)));
      }
    }
  }

  static bool HasTableProduct(const LayoutView& w) { return w.form == Form::kPlanes; }
  static void TableProduct(const LayoutView& w, const ActivationsView& a, int64_t tile, int tiles,
                           int64_t token, float* out) {
    if (a.low != nullptr) return TableTiles<true>(w, a, tile, tiles, token, out);
    return TableTiles<false>(w, a, tile, tiles, token, out);
  }

  static bool HasVectorProduct(const LayoutView& w) { return w.form == Form::kCode; }
  static void VectorProduct(const LayoutView& w, const ActivationsView& a, int64_t tile,
                            int64_t token, float* out) {
    if (a.low != nullptr) return AnyCode<true>(w, a, tile, token, out);
    return AnyCode<false>(w, a, tile, token, out);
  }
};

}  // namespace

Kernels Avx2Kernels() { return {&Multiply<Avx2>, &PrepareToken}; }

}  // namespace shiftadd::kernels::cpu

#else

namespace shiftadd::kernels::cpu {
Kernels Avx2Kernels() { return PortableKernels(); }
}  // namespace shiftadd::kernels::cpu

#endif
