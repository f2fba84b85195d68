#include "kernels/cpu/layout.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "kernels/packing.h"

namespace shiftadd::kernels::cpu {
namespace {

// Above this, the 8 bits of a table entry and the 16-bit pair sums of AVX2 would overflow.
constexpr int kMaxValue = 127;

int Exponent(const PackedMatrix& m, int set, int plane) { return m.table.exponents[set][plane]; }
int Spread(const PackedMatrix& m, int set) {
  return Exponent(m, set, 0) - Exponent(m, set, m.q - 1);
}

// Sum of the integers of a set when its smallest exponent counts as 1; huge if it cannot be a byte.
int SetTotal(const PackedMatrix& m, int set) {
  if (Spread(m, set) > 7) return 1 << 20;
  int total = 0;
  for (int i = 0; i < m.q; ++i) total += 1 << (Exponent(m, set, i) - Exponent(m, set, m.q - 1));
  return total;
}

bool FitsCode(const PackedMatrix& m) {
  if (m.encoding != Encoding::kBcqShift || m.q < 2 || m.q > 4) return false;
  for (int s = 0; s < m.table.count; ++s) {
    if (SetTotal(m, s) > kMaxValue) return false;
  }
  return true;
}

uint8_t* AlignedBytes(int64_t bytes) {
  // Whole cache lines, and a readable tail: vectors may read past the last record.
  const size_t size = (static_cast<size_t>(bytes) + 64 + 63) / 64 * 64;
  auto* p = static_cast<uint8_t*>(std::aligned_alloc(64, size));
  if (p != nullptr) std::memset(p, 0, size);
  return p;
}

int64_t SetIndex(const PackedMatrix& m, int64_t row, int64_t group) {
  const int64_t stride = (m.groups() + 1) / 2;
  return (m.exponents[row * stride + group / 2] >> (4 * (group % 2))) & 15;
}

uint16_t LoadHalf(const uint8_t* p) {
  uint16_t h;
  std::memcpy(&h, p, 2);
  return h;
}

}  // namespace

void FreeDeleter::operator()(uint8_t* p) const { std::free(p); }

Chunks ChunksOf(int64_t k, int64_t group) {
  Chunks out;
  const int64_t blocks = (k + kBlockInputs - 1) / kBlockInputs;
  for (int64_t b = 0; b < blocks; ++b) {
    out.first.push_back(static_cast<int64_t>(out.all.size()));
    const int64_t block_begin = b * kBlockInputs;
    const int64_t block_end = std::min(k, block_begin + kBlockInputs);
    for (int64_t at = block_begin; at < block_end;) {
      const int64_t g = at / group;
      const int64_t end = std::min(block_end, (g + 1) * group);
      out.all.push_back(
          {static_cast<int32_t>(at - block_begin), static_cast<int32_t>(end - block_begin), g});
      at = end;
    }
  }
  out.first.push_back(static_cast<int64_t>(out.all.size()));
  return out;
}

int64_t ChunkCount(int64_t k, int64_t group) {
  if (group >= k || group % kBlockInputs == 0) return (k + kBlockInputs - 1) / kBlockInputs;
  return static_cast<int64_t>(ChunksOf(k, group).all.size());
}

Layout::Layout(const PackedMatrix& m) : chunks_(ChunksOf(m.k, m.group)) {
  view_.n = m.n;
  view_.k = m.k;
  view_.tiles = (m.n + kTileRows - 1) / kTileRows;
  view_.blocks = (m.k + kBlockInputs - 1) / kBlockInputs;
  view_.chunk_count = static_cast<int64_t>(chunks_.all.size());
  view_.chunks = chunks_.all.data();
  view_.first_chunk = chunks_.first.data();
  ChooseForm(m);
  if (!Allocate()) return;
  PackRecords(m);
  PackCodes(m);
  if (view_.form == Form::kBlock8) CopyBlockAlpha(m);
  view_.codes = codes_.get();
  view_.records = records_.get();
}

void Layout::ChooseForm(const PackedMatrix& m) {
  view_.q = m.encoding == Encoding::kInt8Group ? 1 : m.q;
  view_.zeta = m.zeta != nullptr;
  view_.shift = m.encoding == Encoding::kBcqShift;
  view_.scales = 1;
  if (m.encoding == Encoding::kInt8Group) {
    view_.form = Form::kInt8;
  } else if (m.encoding == Encoding::kBcqBlock8) {
    view_.form = Form::kBlock8;
    view_.scales = 0;
  } else if (FitsCode(m)) {
    view_.form = Form::kCode;
  } else {
    view_.form = Form::kPlanes;
    if (!view_.shift) view_.scales = m.q;
  }
  view_.record_bytes = 32 * view_.scales + (view_.shift ? 16 : 0) + (view_.zeta ? 32 : 0);
  if (!view_.shift) return;
  for (int s = 0; s < m.table.count; ++s) {
    for (int i = 0; i < m.q; ++i) {
      view_.plane_exponents[i][s] = static_cast<uint8_t>(127 + Exponent(m, s, i));
    }
    if (view_.form != Form::kCode) continue;
    const int lowest = Exponent(m, s, m.q - 1);
    view_.exponents[s] = static_cast<uint8_t>(127 + lowest);
    view_.totals[s] = static_cast<uint8_t>(view_.zeta ? 0 : SetTotal(m, s));
    view_.max_value = std::max(view_.max_value, SetTotal(m, s));
    for (int c = 0; c < 16; ++c) {
      int value = 0;
      for (int i = 0; i < m.q; ++i) value += ((c >> i) & 1) << (Exponent(m, s, i) - lowest);
      view_.values[s][c] = static_cast<uint8_t>(value);
    }
  }
}

bool Layout::Allocate() {
  view_.block_bytes = BlockBytes(view_.form, view_.q, kBlockInputs / kStepInputs);
  view_.tile_bytes = (view_.blocks - 1) * view_.block_bytes +
                     BlockBytes(view_.form, view_.q, StepsOf(view_, view_.blocks - 1));
  codes_.reset(AlignedBytes(view_.tiles * view_.tile_bytes));
  records_.reset(AlignedBytes(view_.tiles * view_.chunk_count * view_.record_bytes));
  return codes_ != nullptr && records_ != nullptr;
}

void Layout::PackRecords(const PackedMatrix& m) {
  if (view_.form == Form::kBlock8) return;
  for (int64_t row = 0; row < m.n; ++row) {
    const int64_t lane = row % kTileRows;
    for (int64_t c = 0; c < view_.chunk_count; ++c) {
      const int64_t group = view_.chunks[c].group;
      const int64_t at = row * m.groups() + group;
      uint8_t* record =
          records_.get() + (row / kTileRows * view_.chunk_count + c) * view_.record_bytes;
      for (int i = 0; i < view_.scales; ++i) {
        const uint16_t scale = m.scale != nullptr ? m.scale[at] : m.alpha[at * m.q + i];
        std::memcpy(record + 32 * i + 2 * lane, &scale, 2);
      }
      record += 32 * view_.scales;
      if (view_.shift) {
        record[lane] = static_cast<uint8_t>(SetIndex(m, row, group));
        record += 16;
      }
      if (view_.zeta) std::memcpy(record + 2 * lane, &m.zeta[at], 2);
    }
  }
}

void Layout::PackCodes(const PackedMatrix& m) {
  if (view_.form == Form::kInt8) {
    for (int64_t row = 0; row < m.n; ++row) PackRowInt8(row, m.codes + row * m.k);
    return;
  }
  std::vector<uint32_t> planes(static_cast<size_t>(m.q * m.plane_words()));
  std::vector<uint8_t> codes(static_cast<size_t>(m.k));
  for (int64_t row = 0; row < m.n; ++row) {
    for (int i = 0; i < m.q; ++i) {
      std::copy_n(m.planes + (i * m.n + row) * m.plane_words(), m.plane_words(),
                  planes.begin() + i * m.plane_words());
    }
    UnpackPlanes(planes.data(), 1, m.k, m.q, codes.data());
    PackRowCodes(row, codes.data());
  }
}

void Layout::PackRowCodes(int64_t row, const uint8_t* codes) {
  uint8_t* tile = codes_.get() + row / kTileRows * view_.tile_bytes;
  const int lane = static_cast<int>(row % kTileRows);
  for (int64_t col = 0; col < view_.k; ++col) {
    const int64_t block = col / kBlockInputs;
    const int in = static_cast<int>(col % kBlockInputs);
    const int steps = StepsOf(view_, block);
    uint8_t* at = tile + block * view_.block_bytes;
    const unsigned code = codes[col];
    if (view_.form == Form::kCode) {
      const int64_t quad_bytes = BlockBytes(view_.form, view_.q, steps) / 4;
      const int step = in / kStepInputs;
      const int byte = lane / 4 * 16 + in % 16;
      at += lane % 4 * quad_bytes;
      if (view_.q == 2) {
        at[step / 4 * 64 + byte] |= static_cast<uint8_t>(code << (step % 4 * 2));
      } else if (view_.q == 3 && step >= 6) {
        for (int i = 0; i < 3; ++i) {
          at[i * 64 + byte] |= static_cast<uint8_t>(((code >> i) & 1) << (step == 6 ? 3 : 7));
        }
      } else {
        at[step / 2 * 64 + byte] |= static_cast<uint8_t>(code << (step % 2 * 4));
      }
    } else {
      for (int i = 0; i < view_.q; ++i) {
        const int bit = 4 * lane + in % 4;
        at[8 * (4 * steps * i + in / 4) + bit / 8] |=
            static_cast<uint8_t>(((code >> i) & 1) << (bit % 8));
      }
    }
  }
}

void Layout::PackRowInt8(int64_t row, const int8_t* codes) {
  uint8_t* tile = codes_.get() + row / kTileRows * view_.tile_bytes;
  for (int64_t col = 0; col < view_.k; ++col) {
    const int64_t quad =
        col / 4;  // blocks are whole quads of 64 bytes, so they need no bounds here
    tile[quad * 64 + row % kTileRows * 4 + col % 4] = static_cast<uint8_t>(codes[col]);
  }
}

void Layout::CopyBlockAlpha(const PackedMatrix& m) {
  view_.block_rows = m.block_rows;
  const int64_t row_blocks = (m.n + m.block_rows - 1) / m.block_rows;
  const int64_t eights = (m.k + 7) / 8;
  block_alpha_.resize(static_cast<size_t>(row_blocks * eights * m.q));
  for (int64_t r = 0; r < row_blocks; ++r) {
    for (int64_t e = 0; e < eights; ++e) {
      std::copy_n(m.alpha + (e * row_blocks + r) * m.q, m.q,
                  block_alpha_.begin() + (r * eights + e) * m.q);
    }
  }
  view_.block_alpha = block_alpha_.data();
}

uint64_t Layout::bytes() const {
  return static_cast<uint64_t>(view_.tiles * view_.tile_bytes +
                               view_.tiles * view_.chunk_count * view_.record_bytes) +
         2 * block_alpha_.size();
}

int Layout::CodeAt(int64_t row, int64_t col) const {
  const int64_t block = col / kBlockInputs;
  const int in = static_cast<int>(col % kBlockInputs);
  const int lane = static_cast<int>(row % kTileRows);
  const int steps = StepsOf(view_, block);
  const uint8_t* at = view_.codes + row / kTileRows * view_.tile_bytes + block * view_.block_bytes;
  if (view_.form == Form::kInt8) {
    return static_cast<int8_t>(at[in / 4 * 64 + lane * 4 + in % 4]);
  }
  if (view_.form != Form::kCode) {
    int code = 0;
    const int bit = 4 * lane + in % 4;
    for (int i = 0; i < view_.q; ++i) {
      code |= ((at[8 * (4 * steps * i + in / 4) + bit / 8] >> (bit % 8)) & 1) << i;
    }
    return code;
  }
  const int64_t quad_bytes = BlockBytes(view_.form, view_.q, steps) / 4;
  const int step = in / kStepInputs;
  const int byte = lane / 4 * 16 + in % 16;
  at += lane % 4 * quad_bytes;
  if (view_.q == 2) return (at[step / 4 * 64 + byte] >> (step % 4 * 2)) & 3;
  if (view_.q == 4 || step < 6) {
    return (at[step / 2 * 64 + byte] >> (step % 2 * 4)) & ((1 << view_.q) - 1);
  }
  int code = 0;
  for (int i = 0; i < 3; ++i) code |= ((at[i * 64 + byte] >> (step == 6 ? 3 : 7)) & 1) << i;
  return code;
}

void Layout::Row(int64_t row, double* out) const {
  const int64_t lane = row % kTileRows;
  const int64_t eights = (view_.k + 7) / 8;
  for (int64_t block = 0; block < view_.blocks; ++block) {
    for (int64_t c = view_.first_chunk[block]; c < view_.first_chunk[block + 1]; ++c) {
      const uint8_t* record =
          view_.records + (row / kTileRows * view_.chunk_count + c) * view_.record_bytes;
      const uint8_t* sets = record + 32 * view_.scales;
      const uint8_t* zeta = sets + (view_.shift ? 16 : 0);
      for (int in = view_.chunks[c].begin; in < view_.chunks[c].end; ++in) {
        const int64_t col = block * kBlockInputs + in;
        const int code = CodeAt(row, col);
        if (view_.form == Form::kInt8) {
          out[col] = static_cast<double>(HalfToFloat(LoadHalf(record + 2 * lane))) * code;
          continue;
        }
        // fp16 numbers times powers of two: every sum of these is exact in float64.
        double sum = 0;
        for (int i = 0; i < view_.q; ++i) {
          double alpha = 0;
          if (view_.form == Form::kBlock8) {
            alpha = HalfToFloat(
                view_.block_alpha[(row / view_.block_rows * eights + col / 8) * view_.q + i]);
          } else if (view_.shift) {
            alpha = std::ldexp(static_cast<double>(HalfToFloat(LoadHalf(record + 2 * lane))),
                               view_.plane_exponents[i][sets[lane]] - 127);
          } else {
            alpha = HalfToFloat(LoadHalf(record + 32 * i + 2 * lane));
          }
          const int p = (code >> i) & 1;
          sum += alpha * (view_.zeta ? 2 * p : 2 * p - 1);
        }
        out[col] = view_.zeta ? sum + HalfToFloat(LoadHalf(zeta + 2 * lane)) : sum;
      }
    }
  }
}

}  // namespace shiftadd::kernels::cpu
