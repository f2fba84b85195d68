// The canonical packed form of a weight matrix: what packages store and every kernel reads.
//
// A weight matrix W has N rows (outputs) and K columns (inputs). Row n's inputs fall into G =
// ceil(K/g) groups of g consecutive inputs (the last may be shorter). With p in {0,1} the stored
// planes:
//   bcq/shift   w = s_{n,G} * sum_i 2^{e_i} (2 p_i - 1)                       (no zeta)
//               w = s_{n,G} * sum_i 2^{e_i} 2 p_i + zeta_{n,G}                (zeta)
//   bcq/free    the same with alpha_{n,G,i} in place of s 2^{e_i}
//   bcq/block8  alpha is shared by 8 consecutive inputs x R consecutive rows; no zeta
//   int8/group  w = scale_{n,G} * code
// Weights live in rotated space when rotation is kWht128: W~ = W D^T, D = blocks of normalized
// Sylvester-Hadamard times signs (see rotation.h).
//
// Little-endian. fp16 values are carried as their bit patterns in uint16_t. Nothing here owns
// memory.
#ifndef SHIFTADD_KERNELS_PACKED_MATRIX_H_
#define SHIFTADD_KERNELS_PACKED_MATRIX_H_

#include <cstdint>
#include <string>

namespace shiftadd::kernels {

enum class Encoding { kBcqShift, kBcqFree, kBcqBlock8, kInt8Group };
enum class Rotation { kNone, kWht128 };

inline constexpr int kMaxPlanes = 8;
inline constexpr int kMaxExponentSets = 16;

// Sets of exponents for the shift encoding with q planes: row-major [count][q], each set
// descending.
struct ExponentTable {
  int q = 0;
  int count = 0;  // 1..16
  int8_t exponents[kMaxExponentSets][kMaxPlanes] = {};
};

// The table that recipes use: q = 2, 3, 4 have several sets; any other q of 1..8 has
// {0,-1,…,-(q-1)} alone. q outside 1..8 gives count 0.
ExponentTable DefaultExponentTable(int q);

// A view of a packed matrix; pointers may be unaligned only to their element size.
struct PackedMatrix {
  Encoding encoding = Encoding::kBcqShift;
  Rotation rotation = Rotation::kNone;
  int64_t n = 0;           // rows, >= 1
  int64_t k = 0;           // columns, >= 1
  int64_t group = 0;       // inputs a group: a positive multiple of 32, or >= k (the whole row)
  int q = 0;               // planes, 1..8; 0 for int8/group
  int64_t block_rows = 0;  // R, block8 only

  const uint32_t* planes = nullptr;  // [q, N, ceil(K/32)], bit k%32, LSB first, pad bits 0
  const uint16_t* scale = nullptr;   // F16 [N, G]: shift, int8
  const uint8_t* exponents =
      nullptr;                      // [N, ceil(G/2)]: shift; index into `table`, low nibble first
  const uint16_t* alpha = nullptr;  // F16 [N, G, q]: free; [ceil(K/8), ceil(N/R), q]: block8
  const uint16_t* zeta = nullptr;   // F16 [N, G], or null
  const int8_t* codes = nullptr;    // [N, K]: int8
  ExponentTable table;              // shift
  const uint32_t* signs = nullptr;  // [ceil(K/32)], kWht128 only; bit 1 means +1

  int64_t groups() const { return group > 0 ? (k + group - 1) / group : 0; }
  int64_t plane_words() const { return (k + 31) / 32; }
};

// Empty if `m` is consistent, otherwise what is wrong (field, found, expected). Checks shapes,
// non-null pointers, exponent indices, pad bits are not inspected.
std::string Validate(const PackedMatrix& m);

// Stored bytes of the tensors of `m` (planes, scales, exponents, offsets; not the signs).
uint64_t StoredBytes(const PackedMatrix& m);

// Rows [row_begin, row_end) as numbers, row-major [rows, K], still in rotated space. The reference
// that every kernel is tested against: float64, in the order of the definition.
void DequantizeRows(const PackedMatrix& m, int64_t row_begin, int64_t row_end, double* out);
// The same, rounded to float once, and taken back to unrotated space (W = W~ D) if m.rotation says
// so.
void DequantizeUnrotated(const PackedMatrix& m, int64_t row_begin, int64_t row_end, float* out);

// IEEE binary16, round to nearest even; overflow gives infinity. Exact both ways for finite halves.
uint16_t FloatToHalf(float x);
float HalfToFloat(uint16_t h);

}  // namespace shiftadd::kernels

#endif  // SHIFTADD_KERNELS_PACKED_MATRIX_H_
