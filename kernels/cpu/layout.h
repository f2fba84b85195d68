// The resident form of a matrix on the CPU: the bits of the packed form, reordered for vectors.
//
// Rows go in tiles of 16, inputs in blocks of 128 (the last one shorter, in steps of 16). One tile
// of one block is one run of bytes, blocks of a tile follow each other, so a product of a tile is
// one sequential read. Scales lie in a second stream, one record a tile and chunk. Forms of a tile:
//
// - kCode (shift, q = 2..4): the q bits of a weight as one field; a table of 16 entries a row turns
//   it into a small integer. For e = 0..3 vectors of 64 bytes hold rows 4L+e, L = 0..3, 16 inputs
//   each: byte 16L + k%16. Steps k/16 of the block are fields of vectors: q = 2: four a vector;
//   q = 4: two; q = 3: two, in bits 0-2 and 4-6 of three vectors, and bit i of steps 6 and 7 in
//   bits 3 and 7 of vector i, so that six steps of eight cost no more than nibbles.
// - kPlanes (free, other shift): plane by plane; for every 4 inputs one 64-bit word, bit
//   4*row + k%4.
// - kBlock8: planes likewise; scales are shared by rows and lie in `block_alpha`.
// - kInt8: for every 4 inputs 64 bytes, byte 4*row + k%4.
#ifndef SHIFTADD_KERNELS_CPU_LAYOUT_H_
#define SHIFTADD_KERNELS_CPU_LAYOUT_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/cpu_linear.h"
#include "kernels/packed_matrix.h"

namespace shiftadd::kernels::cpu {

inline constexpr int kTileRows = 16;
inline constexpr int kBlockInputs = 128;
inline constexpr int kStepInputs = 16;

// The chunk of inputs that one activation scale covers: the intersection of a weight group and a
// block of 128 inputs. Boundaries are inside one block, in inputs from its begin.
struct Chunk {
  int32_t begin = 0;
  int32_t end = 0;
  int64_t group = 0;  // of the matrix
};

// The chunks of an input of width k, in order; first[b] is block b's first chunk, first.back() the
// count.
struct Chunks {
  std::vector<Chunk> all;
  std::vector<int64_t> first;
};
Chunks ChunksOf(int64_t k, int64_t group);
int64_t ChunkCount(int64_t k, int64_t group);

enum class Form { kCode, kPlanes, kBlock8, kInt8 };

// What kernels read: plain data, since units compiled for one instruction set must instantiate
// nothing that a unit for another could share. Pointers are into the Layout that owns this.
struct LayoutView {
  Form form = Form::kCode;
  int64_t n = 0, k = 0, tiles = 0, blocks = 0, chunk_count = 0;
  int q = 0;           // planes; kInt8: 1
  bool zeta = false;   // records carry an offset
  bool shift = false;  // records carry 16 set numbers

  const uint8_t* codes = nullptr;  // 64-byte aligned
  int64_t tile_bytes = 0;          // of codes
  int64_t block_bytes = 0;         // of a full block of a tile
  // Records: F16 [scales][16], then shift: U8 [16], then zeta: F16 [16].
  const uint8_t* records = nullptr;
  int64_t record_bytes = 0;
  int scales = 0;
  const Chunk* chunks = nullptr;
  const int64_t* first_chunk = nullptr;  // [blocks + 1]

  // shift: the integer of each code (repeated over unused high index bits), the sum of a set's
  // integers (0 with zeta), and 127 + the exponent that scales them, each set.
  alignas(16) uint8_t values[kMaxExponentSets][16] = {};
  alignas(16) uint8_t totals[16] = {};
  alignas(16) uint8_t exponents[16] = {};
  // kPlanes with shift: 127 + exponent, by plane and set.
  alignas(16) uint8_t plane_exponents[kMaxPlanes][16] = {};
  int max_value = 0;  // the largest of `values`, at most 127

  const uint16_t* block_alpha = nullptr;  // kBlock8: F16 [ceil(n/R)][ceil(k/8)][q]
  int64_t block_rows = 0;
};

// Steps of 16 inputs in a block. (This and the next are static: a copy for each instruction set.)
static inline int StepsOf(const LayoutView& w, int64_t block) {
  const int64_t left = w.k - block * kBlockInputs;
  const int64_t inputs = left < kBlockInputs ? left : kBlockInputs;
  return static_cast<int>((inputs + kStepInputs - 1) / kStepInputs);
}

// Bytes of one block of one tile.
static inline int64_t BlockBytes(Form form, int q, int steps) {
  if (form == Form::kInt8) return int64_t{64} * 4 * steps;
  if (form != Form::kCode) return int64_t{8} * 4 * steps * q;
  const int pairs = (steps + 1) / 2;
  const int vectors = q == 2 ? (steps + 3) / 4 : q == 3 && pairs > 3 ? 3 : pairs;
  return int64_t{4} * 64 * vectors;
}

struct FreeDeleter {
  void operator()(uint8_t* p) const;
};

// Owns a LayoutView's data.
class Layout {
 public:
  // `m` must be valid. On no memory the view's `codes` stays null.
  explicit Layout(const PackedMatrix& m);
  Layout(const Layout&) = delete;
  Layout& operator=(const Layout&) = delete;

  const LayoutView& view() const { return view_; }
  uint64_t bytes() const;
  // Row `row` as numbers [k], in the matrix's own (rotated) space; exact.
  void Row(int64_t row, double* out) const;

 private:
  void ChooseForm(const PackedMatrix& m);
  bool Allocate();
  void PackRecords(const PackedMatrix& m);
  void PackCodes(const PackedMatrix& m);
  void PackRowCodes(int64_t row, const uint8_t* codes);
  void PackRowInt8(int64_t row, const int8_t* codes);
  void CopyBlockAlpha(const PackedMatrix& m);
  int CodeAt(int64_t row, int64_t col) const;

  LayoutView view_;
  Chunks chunks_;
  std::unique_ptr<uint8_t, FreeDeleter> codes_;
  std::unique_ptr<uint8_t, FreeDeleter> records_;
  std::vector<uint16_t> block_alpha_;
};

}  // namespace shiftadd::kernels::cpu

#endif  // SHIFTADD_KERNELS_CPU_LAYOUT_H_
