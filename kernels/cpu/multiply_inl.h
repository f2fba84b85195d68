// The product, compiled once an instruction set: include it in that unit only (see prepare_inl.h
// for why everything is in an unnamed namespace).
//
// V has the vectors of 16 rows: V::F (float), V::I (int32), their few operations, decoding of
// weights into a tile of bytes [quad of inputs][row][4], and V::Dot on such a tile. Integer sums
// are exact and the order of float operations below is the same for every V, so results agree bit
// for bit:
//   for each block, plane, chunk:  acc = acc + (scale_w * scale_x) * float(integer)
//   and after a block's planes, with an offset:  acc = acc + zeta * sum_x
#include <cstdint>

#include "kernels/cpu/kernels.h"

namespace shiftadd::kernels::cpu {
namespace {

constexpr int kTokenBatch = 64;  // tokens that share a decoded tile

struct alignas(64) TileBuffer {
  uint8_t bytes[kBlockInputs * kTileRows];
};

struct alignas(64) Accumulators {
  float values[kTokenBatch][kTileRows];
};

// One plane (or code, or int8) of one chunk of a decoded tile.
template <class V>
struct Term {
  const uint8_t* tile;
  int64_t block;
  int64_t chunk;
  int first_quad;
  int last_quad;
  typename V::F scale;
  typename V::I total;  // integer = factor * dot - total * digit_sum
  bool twice;
  int max_value;  // no byte of an unsigned tile is larger
};

template <class V>
inline typename V::I JoinDigits(typename V::I high, typename V::I low) {
  return V::Add(V::Sub(V::template ShiftLeft<8>(high), high), low);
}

template <class V>
inline typename V::F AddScaled(typename V::F acc, typename V::F scale, float x_scale,
                               typename V::I integer) {
  return V::Add(acc, V::Mul(V::Mul(scale, V::Broadcast(x_scale)), V::ToFloat(integer)));
}

template <class V, bool kSigned, int kTokens, bool kTwoDigits>
inline void AddTokens(const Term<V>& t, const ActivationsView& a, int64_t token, float* acc) {
  constexpr int kRows = kTokens * (kTwoDigits ? 2 : 1);
  const int8_t* x[kRows];
  for (int i = 0; i < kTokens; ++i) {
    const int64_t at = (token + i) * a.stride + t.block * kBlockInputs;
    x[i] = a.high + at;
    if constexpr (kTwoDigits) x[kTokens + i] = a.low + at;
  }
  typename V::I dots[kRows];
  V::template Dot<kSigned, kRows>(t.tile, t.first_quad, t.last_quad, t.max_value, x, dots);
  // Copies: the stores below may alias anything behind a reference.
  const typename V::F scale = t.scale;
  const typename V::I total = t.total;
  const bool twice = t.twice;
  const int64_t stride = a.chunks;
  const float* x_scale = a.scale + token * stride + t.chunk;
  const int32_t* digit_sum = a.digit_sum + token * stride + t.chunk;
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC unroll 8
#endif
  for (int i = 0; i < kTokens; ++i) {
    typename V::I v = dots[i];
    if constexpr (kTwoDigits) v = JoinDigits<V>(v, dots[kTokens + i]);
    if (twice) v = V::Add(v, v);
    v = V::Sub(v, V::Times(total, digit_sum[i * stride]));
    float* out = acc + i * kTileRows;
    V::Store(out, AddScaled<V>(V::Load(out), scale, x_scale[i * stride], v));
  }
}

// Tokens [*i, count) in lots of kTokens while there are as many.
template <class V, bool kSigned, int kTokens, bool kTwoDigits>
inline void AddLots(const Term<V>& t, const ActivationsView& a, int64_t token, int count,
                    float* acc, int* i) {
  for (; *i + kTokens <= count; *i += kTokens) {
    AddTokens<V, kSigned, kTokens, kTwoDigits>(t, a, token + *i, acc + *i * kTileRows);
  }
}

template <class V, bool kSigned>
inline void AddTerm(const Term<V>& t, const ActivationsView& a, int64_t token, int count,
                    float* acc) {
  int i = 0;
  if (a.low != nullptr) {
    AddLots<V, kSigned, V::kDotRows / 2, true>(t, a, token, count, acc, &i);
    AddLots<V, kSigned, 1, true>(t, a, token, count, acc, &i);
  } else {
    AddLots<V, kSigned, V::kDotRows, false>(t, a, token, count, acc, &i);
    AddLots<V, kSigned, V::kDotRows / 2, false>(t, a, token, count, acc, &i);
    AddLots<V, kSigned, 1, false>(t, a, token, count, acc, &i);
  }
}

template <class V>
inline void AddOffsets(const uint8_t* record, int64_t chunk, const LayoutView& w,
                       const ActivationsView& a, int64_t token, int count, float* acc) {
  const typename V::F zeta = V::LoadHalves(record + 32 * w.scales + (w.shift ? 16 : 0));
  for (int i = 0; i < count; ++i, acc += kTileRows) {
    const float sum = a.sum[(token + i) * a.chunks + chunk];
    V::Store(acc, V::Add(V::Load(acc), V::Mul(zeta, V::Broadcast(sum))));
  }
}

// The blocks of rows that a tile's rows lie in; rows beyond the matrix take the last row's.
struct TileRowBlocks {
  int64_t of[kTileRows];
  bool same;
};

inline TileRowBlocks RowBlocksOf(const LayoutView& w, int64_t tile) {
  TileRowBlocks blocks;
  int64_t row = tile * kTileRows;
  int64_t block = row / w.block_rows;
  for (int lane = 0; lane < kTileRows; ++lane, ++row) {
    if (row < w.n && row >= (block + 1) * w.block_rows) ++block;
    blocks.of[lane] = block;
  }
  blocks.same = blocks.of[0] == block;
  return blocks;
}

// alpha of 8 inputs and a tile's rows, one plane.
template <class V>
inline typename V::F BlockAlpha(const LayoutView& w, const TileRowBlocks& rows, int64_t eight,
                                int plane) {
  const int64_t stride = (w.k + 7) / 8 * w.q;
  const uint16_t* alpha = w.block_alpha + eight * w.q + plane;
  alignas(32) uint16_t halves[kTileRows];
  const uint16_t first = alpha[rows.of[0] * stride];
  for (int lane = 0; lane < kTileRows; ++lane) halves[lane] = first;
  for (int lane = 1; !rows.same && lane < kTileRows; ++lane) {
    halves[lane] = alpha[rows.of[lane] * stride];
  }
  return V::LoadHalves(reinterpret_cast<const uint8_t*>(halves));
}

template <class V>
inline void AddBlock8(const LayoutView& w, const ActivationsView& a, int64_t tile, int64_t block,
                      int64_t chunk, int plane, const uint8_t* bytes, int64_t token, int count,
                      float* acc) {
  const Chunk& c = w.chunks[chunk];
  const TileRowBlocks rows = RowBlocksOf(w, tile);
  for (int in = c.begin; in < c.end; in += 8) {
    const typename V::F alpha = BlockAlpha<V>(w, rows, (block * kBlockInputs + in) / 8, plane);
    for (int i = 0; i < count; ++i) {
      const int64_t at = (token + i) * a.stride + block * kBlockInputs;
      const int8_t* x[1] = {a.high + at};
      typename V::I v[1];
      V::template Dot<false, 1>(bytes, in / 4, in / 4 + 2, 1, x, v);
      int32_t sum = 0;
      for (int j = in; j < in + 8; ++j) sum += x[0][j];
      if (a.low != nullptr) {
        const int8_t* x_low[1] = {a.low + at};
        typename V::I low[1];
        V::template Dot<false, 1>(bytes, in / 4, in / 4 + 2, 1, x_low, low);
        v[0] = JoinDigits<V>(v[0], low[0]);
        sum *= 255;
        for (int j = in; j < in + 8; ++j) sum += x_low[0][j];
      }
      v[0] = V::Sub(V::Add(v[0], v[0]), V::Same(sum));
      float* out = acc + i * kTileRows;
      const float x_scale = a.scale[(token + i) * a.chunks + chunk];
      V::Store(out, AddScaled<V>(V::Load(out), alpha, x_scale, v[0]));
    }
  }
}

template <class V>
inline const uint8_t* RecordOf(const LayoutView& w, int64_t tile, int64_t chunk) {
  return w.records + (tile * w.chunk_count + chunk) * w.record_bytes;
}

template <class V>
inline typename V::F PlaneScale(const LayoutView& w, const uint8_t* record, int plane) {
  return w.shift
             ? V::Mul(V::LoadHalves(record), V::LookUpPower(w.plane_exponents[plane], record + 32))
             : V::LoadHalves(record + 32 * plane);
}

// acc plus one plane of one chunk for one token: `dot` is the digits' sum over the plane's set
// bits.
template <class V>
inline typename V::F AddPlane(const LayoutView& w, const ActivationsView& a, const uint8_t* record,
                              int plane, int64_t chunk, int64_t token, typename V::I dot,
                              typename V::F acc) {
  const int64_t x = token * a.chunks + chunk;
  dot = V::Add(dot, dot);
  if (!w.zeta) dot = V::Sub(dot, V::Same(a.digit_sum[x]));
  return AddScaled<V>(acc, PlaneScale<V>(w, record, plane), a.scale[x], dot);
}

// acc plus the offsets of chunks [first, last) for one token.
template <class V>
inline typename V::F AddOffsetsOfOne(const LayoutView& w, const ActivationsView& a, int64_t tile,
                                     int64_t first, int64_t last, int64_t token,
                                     typename V::F acc) {
  for (int64_t c = first; w.zeta && c < last; ++c) {
    const uint8_t* zeta = RecordOf<V>(w, tile, c) + 32 * w.scales + (w.shift ? 16 : 0);
    acc = V::Add(acc, V::Mul(V::LoadHalves(zeta), V::Broadcast(a.sum[token * a.chunks + c])));
  }
  return acc;
}

template <class V>
inline Term<V> TermOf(const LayoutView& w, const uint8_t* tile, int64_t block, int64_t chunk) {
  const Chunk& c = w.chunks[chunk];
  Term<V> t;
  t.tile = tile;
  t.block = block;
  t.chunk = chunk;
  t.first_quad = c.begin / 4;
  t.last_quad = (c.end + 3) / 4;
  t.scale = V::Broadcast(1.0f);
  t.total = V::Same(0);
  t.twice = true;
  t.max_value = w.form == Form::kCode ? w.max_value : 1;
  return t;
}

template <class V>
inline void CodeBlock(const LayoutView& w, const ActivationsView& a, int64_t tile, int64_t block,
                      const uint8_t* codes, int64_t token, int count, float* acc) {
  TileBuffer buffer;
  for (int64_t c = w.first_chunk[block]; c < w.first_chunk[block + 1]; ++c) {
    const uint8_t* record = RecordOf<V>(w, tile, c);
    const uint8_t* sets = record + 32;
    const Chunk& chunk = w.chunks[c];
    V::DecodeCodes(w, codes, sets, StepsOf(w, block), chunk.begin / kStepInputs,
                   (chunk.end + kStepInputs - 1) / kStepInputs, buffer.bytes);
    Term<V> t = TermOf<V>(w, buffer.bytes, block, c);
    t.scale = V::Mul(V::LoadHalves(record), V::LookUpPower(w.exponents, sets));
    t.total = V::LookUp(w.totals, sets);
    AddTerm<V, false>(t, a, token, count, acc);
    if (w.zeta) AddOffsets<V>(record, c, w, a, token, count, acc);
  }
}

template <class V>
inline void PlanesBlock(const LayoutView& w, const ActivationsView& a, int64_t tile, int64_t block,
                        const uint8_t* codes, int64_t token, int count, float* acc) {
  TileBuffer buffer;
  const int quads = 4 * StepsOf(w, block);
  const int64_t first = w.first_chunk[block];
  const int64_t last = w.first_chunk[block + 1];
  for (int plane = 0; plane < w.q; ++plane) {
    V::DecodePlane(codes + int64_t{8} * quads * plane, quads, buffer.bytes);
    for (int64_t c = first; c < last; ++c) {
      if (w.form == Form::kBlock8) {
        AddBlock8<V>(w, a, tile, block, c, plane, buffer.bytes, token, count, acc);
        continue;
      }
      const uint8_t* record = RecordOf<V>(w, tile, c);
      Term<V> t = TermOf<V>(w, buffer.bytes, block, c);
      t.scale = PlaneScale<V>(w, record, plane);
      if (!w.zeta) t.total = V::Same(1);
      AddTerm<V, false>(t, a, token, count, acc);
    }
  }
  for (int64_t c = first; w.zeta && c < last; ++c) {
    AddOffsets<V>(RecordOf<V>(w, tile, c), c, w, a, token, count, acc);
  }
}

template <class V>
inline void Int8Block(const LayoutView& w, const ActivationsView& a, int64_t tile, int64_t block,
                      const uint8_t* codes, int64_t token, int count, float* acc) {
  TileBuffer buffer;
  const uint8_t* bytes = V::Int8Tile(codes, 4 * StepsOf(w, block), buffer.bytes);
  for (int64_t c = w.first_chunk[block]; c < w.first_chunk[block + 1]; ++c) {
    Term<V> t = TermOf<V>(w, bytes, block, c);
    t.scale = V::LoadHalves(RecordOf<V>(w, tile, c));
    t.total = V::Same(V::kInt8Bias);
    t.twice = false;
    AddTerm<V, true>(t, a, token, count, acc);
  }
}

template <class V>
inline void MultiplyTile(const LayoutView& w, const ActivationsView& a, int64_t tile, int64_t token,
                         int count, float* acc) {
  for (int i = 0; i < count; ++i) V::Store(acc + i * kTileRows, V::Broadcast(0.0f));
  const uint8_t* codes = w.codes + tile * w.tile_bytes;
  for (int64_t block = 0; block < w.blocks; ++block, codes += w.block_bytes) {
    V::Prefetch(codes, w.block_bytes);
    if (w.form == Form::kCode) {
      CodeBlock<V>(w, a, tile, block, codes, token, count, acc);
    } else if (w.form == Form::kInt8) {
      Int8Block<V>(w, a, tile, block, codes, token, count, acc);
    } else {
      PlanesBlock<V>(w, a, tile, block, codes, token, count, acc);
    }
  }
}

// Rows [begin, end) of y from the values of one tile.
inline void WriteRows(const float* values, int64_t tile, int64_t begin, int64_t end, float* y) {
  const int64_t first = tile * kTileRows;
  if (begin <= first && first + kTileRows <= end) {  // a whole tile: no call for 64 bytes
    __builtin_memcpy(y + first, values, sizeof(float) * kTileRows);
    return;
  }
  if (begin < first) begin = first;
  if (end > first + kTileRows) end = first + kTileRows;
  for (int64_t row = begin; row < end; ++row) y[row] = values[row - first];
}

template <class V>
void Multiply(const LayoutView& w, const ActivationsView& a, int64_t row_begin, int64_t row_end,
              float* y, int64_t ldy) {
  Accumulators acc;
  const int64_t tile_end = (row_end + kTileRows - 1) / kTileRows;
  for (int64_t token = 0; token < a.m; token += kTokenBatch) {
    const int count = static_cast<int>(a.m - token < kTokenBatch ? a.m - token : kTokenBatch);
    // Few tokens: the tile's bytes stay in the nearest cache, decoding again is cheaper than a
    // detour.
    const bool few = count <= V::kVectorTokens;
    const bool tables = few && V::HasTableProduct(w);
    int tiles = 1;
    for (int64_t tile = row_begin / kTileRows; tile < tile_end; tile += tiles) {
      if (tables) {
        const int64_t left = tile_end - tile;
        tiles = static_cast<int>(left < V::kTableTiles ? left : V::kTableTiles);
        for (int i = 0; i < count; ++i) {
          V::TableProduct(w, a, tile, tiles, token + i, acc.values[i * tiles]);
        }
      } else if (few && V::HasVectorProduct(w)) {
        for (int i = 0; i < count; ++i) {
          V::VectorProduct(w, a, tile, token + i, acc.values[i]);
        }
      } else {
        MultiplyTile<V>(w, a, tile, token, count, acc.values[0]);
      }
      for (int i = 0; i < count; ++i) {
        for (int t = 0; t < tiles; ++t) {
          WriteRows(acc.values[i * tiles + t], tile + t, row_begin, row_end, y + (token + i) * ldy);
        }
      }
    }
  }
}

}  // namespace
}  // namespace shiftadd::kernels::cpu
