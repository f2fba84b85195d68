// The resident forms of a matrix and of activations on the device.
//
// Tiled matrices: rows go in tiles of 16, inputs in units of 256 = two halves of 128. A (tile,
// unit) is one block of bytes, the blocks of a tile follow each other, so a tile is one sequential
// read. Rows and inputs are padded with zeros. Lane = 4g + t is a lane of a warp, as in the
// fragments of mma.m16n8: it holds rows g and g+8 of the tile, inputs 32t..32t+31 of a half.
//   planes   word (h*q + i)*2 + r of a lane (h: half, i: plane, r: row g or g+8) at word/4 * 512 +
//            lane * 16 + word%4 * 4: the 32 inputs of plane i as they are packed
//   codes    (int8) 16 bytes a lane for h and j = 0..3 at (h*4 + j) * 512 + lane * 16: rows g, g+8
//            and their inputs j + 4b (b = 0..3), then the same rows' inputs j + 16 + 4b
// and then scales. A half has S = 1, 2 or 4 slots of 128/S inputs that share a scale; slot c of a
// unit is h*S + slot. F16 pairs (row g, row g+8) are [g 8][c 2S]:
//   free     alpha_0 … alpha_{q-1}, then zeta if there is one
//   shift    s; bytes [g 8][c 2S]: set of row g | set of row g+8 << 4; zeta if there is one
//   int8     scale
// Anything else stays as packed (Form::kPlain).
//
// Activations: digits of token m are "columns" m*D + d, D = 1 (A8) or 2 (A16: high, low). Strides
// are of a few kinds, so that kernels know them when they are compiled; what pads them is never
// used.
//   bits     [half][bit_stride][32] words: word n*4 + t is bit n of inputs 32t..32t+31
//   bytes    [half][groups8][2][lane][16]: B fragments of mma.m16n8k32 of 8 columns, g = column%8;
//            the 32 bytes of a lane: byte 4*(2j + i) + b is input 32t + j + 16i + 4b
//   scales   [half][S][8 groups8]
#ifndef SHIFTADD_KERNELS_CUDA_LAYOUT_H_
#define SHIFTADD_KERNELS_CUDA_LAYOUT_H_

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda_linear.h"
#include "kernels/packed_matrix.h"

namespace shiftadd::kernels::cuda {

inline constexpr int kTileRows = 16;
inline constexpr int kUnitInputs = 256;
inline constexpr int kHalfInputs = 128;

enum class Form : int { kShift, kFree, kInt8, kPlain };

// Scale slots of a half for weight groups of `group` inputs.
constexpr int SlotsOf(int64_t group, int64_t k) {
  if (group >= k || group % 128 == 0) return 1;
  return group % 64 == 0 ? 2 : 4;
}

__host__ __device__ constexpr int PlaneBytes(Form form, int q) {
  return form == Form::kInt8 ? 4096 : 512 * q;
}
__host__ __device__ constexpr int BlockBytes(Form form, int q, bool zeta, int slots) {
  const int pairs = form == Form::kFree ? q + (zeta ? 1 : 0) : 1 + (zeta ? 1 : 0);
  return PlaneBytes(form, q) + 64 * slots * pairs + (form == Form::kShift ? 16 * slots : 0);
}
// Where zeta lies in a block.
__host__ __device__ constexpr int ZetaOffset(Form form, int q, int slots) {
  return PlaneBytes(form, q) + (form == Form::kFree ? 64 * slots * q : 80 * slots);
}

// What kernels know of a matrix. Pointers are to the device.
struct DeviceMatrix {
  Form form = Form::kPlain;
  Encoding encoding = Encoding::kBcqShift;
  int q = 0;
  bool zeta = false;
  int slots = 1;
  int64_t n = 0, k = 0, group = 0, block_rows = 0;
  int64_t units = 0;                // of 256 inputs
  const uint8_t* blocks = nullptr;  // tiled
  // kPlain, and what the tiled forms are made from: as in PackedMatrix.
  const uint32_t* planes = nullptr;
  const uint16_t* scale = nullptr;
  const uint8_t* exponents = nullptr;
  const uint16_t* alpha = nullptr;
  const uint16_t* zetas = nullptr;
  const int8_t* codes = nullptr;
  const uint32_t* signs = nullptr;  // null without rotation
  ExponentTable table;

  __host__ __device__ int64_t groups() const { return (k + group - 1) / group; }
  __host__ __device__ int64_t plane_words() const { return (k + 31) / 32; }
  __host__ __device__ int64_t tiles() const { return (n + kTileRows - 1) / kTileRows; }
};

struct ColumnScale {
  float scale;
  int32_t sum;  // of the slot's digits
};

struct DeviceActivations {
  const uint32_t* bits = nullptr;
  const uint4* bytes = nullptr;
  const ColumnScale* scales = nullptr;
  int32_t m = 0;
  int32_t digits = 1;      // a token
  int32_t columns = 0;     // m * digits
  int32_t bit_stride = 0;  // columns, but 4 for 3
  int32_t groups8 = 0;     // of 8 columns: 1, 2, 4 or a multiple of 8
  int32_t halves = 0;      // even
  int32_t slots = 1;
};

constexpr int32_t BitStride(int32_t columns) { return columns == 3 ? 4 : columns; }
constexpr int32_t Groups8(int32_t columns) {
  return columns <= 8 ? 1 : columns <= 16 ? 2 : columns <= 32 ? 4 : (columns + 63) / 64 * 8;
}

// Shift scales whose sets are small integers times one power of two: bcq/shift's usual case.
// Integers 2^(e_i - e_min) of every set sum to at most kMaxShiftSum.
inline constexpr int kMaxShiftSum = 63;
// The exponent sets of bcq/shift as a kernel reads them.
// Binary path: bytes by set number, eight of each of the four planes, the doubled integer, then
// eight sums of a set's integers. Integer path: eight bytes a set, the weight of each code (q = 4:
// four bytes of planes 0 and 1, four of planes 2 and 3).
inline constexpr int kMaxTiledSets = 8;  // a selector of PRMT tells eight bytes apart
struct alignas(16) ShiftSets {
  uint32_t words[2 * kMaxTiledSets] = {};
};

// Which body of code multiplies a matrix.
__host__ __device__ constexpr int KindOf(Form form, bool zeta, int q) {
  return form == Form::kInt8 ? 12 : (form == Form::kFree ? 6 : 0) + (zeta ? 3 : 0) + q - 2;
}
inline constexpr int kMixedKinds = -1;
// Calls M(form, zeta, q) for every kind of planes.
#define SHIFTADD_FOR_EACH_PLANE_KIND(M) \
  M(Form::kShift, false, 2)             \
  M(Form::kShift, false, 3)             \
  M(Form::kShift, false, 4)             \
  M(Form::kShift, true, 2)              \
  M(Form::kShift, true, 3)              \
  M(Form::kShift, true, 4)              \
  M(Form::kFree, false, 2)              \
  M(Form::kFree, false, 3)              \
  M(Form::kFree, false, 4)              \
  M(Form::kFree, true, 2)               \
  M(Form::kFree, true, 3)               \
  M(Form::kFree, true, 4)

// What a matrix's scales are multiplied with before they are used.
struct Factors {
  float scale = 1;  // fp16 weights only: s of bcq/shift, alpha of bcq/free
  float zeta = 1;
};

struct PartOutput {
  float* y = nullptr;
  int64_t ldy = 0;
  int32_t n = 0;
  float unit = 1;  // what sums are multiplied with at the end
  Factors factors;
};

// The matrices of a launch. What a CTA needs before it can read weights comes first, in one line of
// the constant cache.
struct LaunchParams {
  uint32_t first_tile[kMaxCudaProducts];  // beyond the last matrix: UINT32_MAX
  const uint8_t* blocks[kMaxCudaProducts] = {};
  uint32_t tiles = 0;  // of all matrices
  int32_t units = 0;
  int8_t kind[kMaxCudaProducts] = {};
  // A thread block asks for the first `ahead_units` units of the matrix's tile that is `ahead`
  // further; 0: for none.
  uint32_t ahead = 0;
  DeviceActivations x;
  PartOutput out[kMaxCudaProducts];
  ShiftSets sets[kMaxCudaProducts];
  uint32_t ahead_units = 0;
};

struct LaunchConfig {
  int ahead_units = 0;     // LaunchParams::ahead_units
  bool share = false;      // tiles among thread blocks, where a kernel can
  uint32_t blocks = 0;     // that share them, 0: as many as run at the same time
  int kind = kMixedKinds;  // of all parts, if they are of one
  int warps = 8;
  bool programmatic = false;
  cudaStream_t stream = nullptr;
};

}  // namespace shiftadd::kernels::cuda

#endif  // SHIFTADD_KERNELS_CUDA_LAYOUT_H_
