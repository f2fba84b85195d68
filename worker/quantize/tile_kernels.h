// The inner loops of the quantizer. They work on tiles: sixteen independent rows (or groups of
// rows) side by side, an array x[n][16] holding n values of each, lane l being row l. No lane ever
// depends on another, and no operation is contracted or reordered, so results depend neither on the
// tiling nor on the instruction set.
#ifndef SHIFTADD_WORKER_QUANTIZE_TILE_KERNELS_H_
#define SHIFTADD_WORKER_QUANTIZE_TILE_KERNELS_H_

#include <cstdint>

#include "kernels/cpu_linear.h"
#include "kernels/packed_matrix.h"

namespace shiftadd::quantize {

inline constexpr int kLanes = 16;
inline constexpr int kMaxPlanes = kernels::kMaxPlanes;
inline constexpr int kMaxCodes = 1 << kMaxPlanes;

// What a weighted start (algorithm: alternating least squares) is asked for.
struct StartOptions {
  int q = 0;            // planes, 1..8
  bool offset = false;  // an offset z beside the planes
  int rounds = 15;      // T
  int apot_terms = 0;   // A; 0: scales stay free
};

// Scales of sixteen groups: alpha[i][lane], sorted descending at the start but not after refits.
struct FreeScales {
  float alpha[kMaxPlanes][kLanes];
  float z[kLanes];
};
// Scale s, offset z, and the index of the exponent set: alpha_i = s 2^e_i.
struct ShiftScales {
  float s[kLanes];
  float z[kLanes];
  int32_t set[kLanes];
};

// The 2^q levels of each lane: by code, as weights and (shift) in units of s. `unit` may be unused.
struct Levels {
  int q = 0;
  float level[kMaxCodes][kLanes];
  float unit[kMaxCodes][kLanes];
};

struct TileKernels {
  // Alternating fit of w [n][16]; `omega` [n] weighs the inputs (null: all 1). Greedy start, then T
  // rounds of least squares, |alpha| sorted descending, APoT, nearest level (ties upward).
  void (*start_free)(const float* w, const float* omega, int64_t n, const StartOptions& options,
                     FreeScales* out);
  // The same with alpha_i = s 2^e_i: every set of `table` is fitted, the one of least weighted
  // error is kept.
  void (*start_shift)(const float* w, const float* omega, int64_t n, const StartOptions& options,
                      const kernels::ExponentTable& table, ShiftScales* out);
  // OPTQ inside a group: rounds inputs 0..n-1 in turn to the nearest level (lowest code on a tie)
  // and lets the later ones of the group compensate. v [n][16] holds the weights and is destroyed;
  // u [n, n] is the upper factor's diagonal block, row stride ldu. Writes code [n][16], the level
  // taken to what [n][16], its unit to unit [n][16] unless null.
  void (*round_group)(float* v, int64_t n, const Levels& levels, const float* u, int64_t ldu,
                      uint8_t* code, float* what, float* unit);
  // Coordinate descent over n inputs that share levels. r [n][16]: their residuals (w - what) H;
  // what [n][16] and code [n][16]: where they are; h [n, n]: the block of H, row stride ldh. Each
  // input in turn takes the level nearest to what + r / h_jj (lowest code on a tie), and r follows;
  // `moved` [n][16] tells how far.
  void (*descend)(float* r, int64_t n, const Levels& levels, const float* h, int64_t ldh,
                  float* what, uint8_t* code, float* moved);
  // The nearest level of one column of sixteen rows; err = (w - level) / ujj.
  void (*round_column)(const float* w, const Levels& levels, float ujj, uint8_t* code, float* what,
                       float* err);
  // out[j] = sum_{k <= j} x[k] r[k * ldr + j], j < n: x times an upper triangular r, whose entries
  // left of the diagonal must be stored as 0.
  void (*tri_mul)(const float* x, int64_t n, const float* r, int64_t ldr, float* out);
  // out[0..15] = sum_j a[j] b[j].
  void (*dot)(const float* a, const float* b, int64_t n, float* out);
  // d[j] -= delta[lane] p[j].
  void (*axpy)(const float* delta, const float* p, int64_t n, float* d);
  // w[c * ldw] -= sum_{j < n} e[j * lde] u[j * ldu + c] for c < count: the feedback to later
  // inputs. Strides in floats.
  void (*trail)(const float* e, int64_t lde, int64_t n, const float* u, int64_t ldu, int64_t count,
                float* w, int64_t ldw);
};

// The kernels compiled for `isa`, or for the best lesser one that this CPU has.
const TileKernels& TileKernelsFor(kernels::Isa isa);
// The fastest for this CPU. (Which one it is changes no result, so no setting chooses it.)
const TileKernels& BestTileKernels();

// Each compiled for one instruction set.
const TileKernels& PortableTileKernels();
const TileKernels& Avx2TileKernels();
const TileKernels& Avx512TileKernels();

}  // namespace shiftadd::quantize

#endif  // SHIFTADD_WORKER_QUANTIZE_TILE_KERNELS_H_
