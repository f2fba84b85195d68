// How a warp shares the work on rows of one group: eight lanes a row, two rows a lane. Lane l of a
// row's eight holds its columns l, l + 8, l + 16, …: in a loop over the columns every lane has the
// same work left at any time. What depends on the row alone is computed by all eight.
#ifndef SHIFTADD_KERNELS_CUDA_QUANTIZE_ROW_LANES_H_
#define SHIFTADD_KERNELS_CUDA_QUANTIZE_ROW_LANES_H_

#include <cstdint>

#include "kernels/cuda/quantize/platform.h"

namespace shiftadd::kernels::quantize {

inline constexpr int kRowLanes = 8;
inline constexpr int kRows = 2;                           // a lane
inline constexpr int kWarpRows = 32 / kRowLanes * kRows;  // a warp
inline constexpr unsigned kAllLanes = 0xffffffffu;
inline constexpr float kInfinity = __builtin_huge_valf();

// Constants of a kernel for q = Q planes (0: any q up to 8, known at run time only).
template <int Q>
struct Width {
  static constexpr int kPlanes = Q == 0 ? 8 : Q;
  static constexpr int kLevels = 1 << kPlanes;
  static constexpr int kCodeBits = Q == 0 ? 8 : 4;
  static constexpr int kCodeMask = (1 << kCodeBits) - 1;
};

// Tuned kernels (q = 2, 3, 4) and the one for any q differ in what a block has room for.
template <bool kTuned>
struct BlockShape {
  static constexpr int kWarps = kTuned ? 12 : 4;
  static constexpr int kLevels = kTuned ? 16 : 256;
  static constexpr int kLevelStride = kLevels + 4;  // floats; off the banks of the next row
};

// Where column c of a row of U, R or H lies in shared memory: a lane's columns in runs of four.
__device__ __forceinline__ int ColumnAt(int c) {
  const int lane = c % kRowLanes, m = c / kRowLanes;
  return m / 4 * 32 + lane * 4 + m % 4;
}

// This lane's place.
struct LanePlace {
  int lane8 = 0;  // among the row's eight
  int slot = 0;   // 0..3: rows slot and slot + 4 of the warp's eight
  int warp = 0;

  __device__ int row(int r) const { return r * 4 + slot; }
};
__device__ __forceinline__ LanePlace MyPlace() {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  LanePlace place;
  place.lane8 = lane % kRowLanes;
  place.slot = lane / kRowLanes;
  place.warp = static_cast<int>(threadIdx.x) / 32;
  return place;
}

// The sum over a row's eight lanes, the same bits in each.
__device__ __forceinline__ float RowSum(float x) {
#pragma unroll
  for (int mask = 1; mask < kRowLanes; mask *= 2) x += __shfl_xor_sync(kAllLanes, x, mask);
  return x;
}
__device__ __forceinline__ float RowMax(float x) {
#pragma unroll
  for (int mask = 1; mask < kRowLanes; mask *= 2) {
    x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, mask));
  }
  return x;
}

// x[i] of four registers.
__device__ __forceinline__ float PickOf4(const float* x, int i) {
  const float low = i == 0 ? x[0] : x[1], high = i == 2 ? x[2] : x[3];
  return i < 2 ? low : high;
}

// A lane's C codes of one row.
template <int Q, int C>
struct CodeWords {
  static constexpr int kBits = Width<Q>::kCodeBits;
  uint32_t words[C * kBits / 32] = {};

  __device__ __forceinline__ int Get(int m) const {
    return static_cast<int>(words[m * kBits / 32] >> (m * kBits % 32)) & Width<Q>::kCodeMask;
  }
  // Column quad * 4 + i, with a quad known when compiled and an i that is not.
  __device__ __forceinline__ void PutInQuad(int quad, int i, int code) {
    words[quad * 4 * kBits / 32] |= static_cast<uint32_t>(code)
                                    << (quad * 4 * kBits % 32 + i * kBits);
  }
  // The place must be 0 before, as for PutInQuad.
  __device__ __forceinline__ void Put(int m, int code) {
    words[m * kBits / 32] |= static_cast<uint32_t>(code) << (m * kBits % 32);
  }
};

// Scales of one row's group: shift has alpha[0] = s and an exponent set, free one alpha a plane.
template <int Q, bool kShift>
struct RowScales {
  static constexpr int kCount = kShift ? 1 : Width<Q>::kPlanes;
  float alpha[kCount] = {};
  float z = 0.0f;
  int set = 0;
};

// The exponent sets of one q as the kernels want them. In steps of a set's smallest power of two
// all its sums have one parity, so the midpoints between them are whole numbers, and the sum
// nearest to a positive number depends on the number's whole part alone.
struct ShiftGrid {
  static constexpr int kSets = 8;
  int count = 0;
  float start = 0.0f;             // s_0 = start rms / total
  float plane[kSets][4] = {};     // 2^e_i
  float total[kSets] = {};        // their sum
  float per_step[kSets] = {};     // 1 / the smallest
  float nearest[kSets][32] = {};  // by whole part, in units of s
};
struct ShiftGrids {
  ShiftGrid q[3];  // 2, 3, 4
};

// 2^e_i of a plane: from the grid, or 2^-i where there is the one set {0, -1, …}.
template <int Q>
__device__ __forceinline__ float PlaneUnit(const ShiftGrids& grids, int set, int i) {
  if constexpr (Q == 0) {
    return __uint_as_float(static_cast<unsigned>(127 - i) << 23);
  } else {
    return grids.q[Q - 2].plane[set][i];
  }
}

// The 2^q levels of a warp's rows, ascending, in shared memory; `unit` is a level in units of s.
template <bool kTuned>
struct LevelTables {
  using Shape = BlockShape<kTuned>;
  static constexpr int kFloats = kWarpRows * Shape::kLevelStride;
  static constexpr int kBytes = 4 * (3 * kFloats) + kWarpRows * Shape::kLevels;

  char* base = nullptr;

  __device__ float* level(int row) const {
    return reinterpret_cast<float*>(base) + row * Shape::kLevelStride;
  }
  // A value at or above threshold p is nearer to level p + 1 than to level p. The last is infinite.
  __device__ float* threshold(int row) const { return level(row) + kFloats; }
  __device__ float* unit(int row) const { return level(row) + 2 * kFloats; }
  __device__ uint8_t* code(int row) const {
    return reinterpret_cast<uint8_t*>(base) + 4 * (3 * kFloats) + row * Shape::kLevels;
  }
};

// A level as the CPU sums it: plane by plane, multiplied and added without contraction.
template <int Q, bool kShift>
__device__ __forceinline__ float LevelOf(int code, int q, const RowScales<Q, kShift>& scales,
                                         const ShiftGrids& grids, float* unit) {
  float sum = 0.0f;
  for (int i = 0; i < q; ++i) {
    float plane;
    if constexpr (kShift) {
      plane = PlaneUnit<Q>(grids, scales.set, i);
    } else {
      plane = scales.alpha[i];
    }
    sum += ((code >> i) & 1) != 0 ? plane : -plane;
  }
  *unit = sum;
  if constexpr (kShift) {
    const float level = scales.alpha[0] * sum;
    return level + scales.z;
  } else {
    return sum + scales.z;
  }
}

// Fills the table of this lane's row r. kLowestOnTie: a value halfway between two levels takes the
// lower code, otherwise the higher level; of equal levels the lowest code is taken.
template <int Q, bool kShift, bool kTuned, bool kLowestOnTie>
__device__ void BuildLevels(const LanePlace& place, int r, int q,
                            const RowScales<Q, kShift>& scales, const ShiftGrids& grids,
                            const LevelTables<kTuned>& tables) {
  const int row = place.row(r), count = 1 << q;
  float* by_code = tables.threshold(row);  // free until the end
  float* level = tables.level(row);
  uint8_t* code_of = tables.code(row);
  __syncwarp();
  for (int c = place.lane8; c < count; c += kRowLanes) {
    float unit;
    by_code[c] = LevelOf<Q, kShift>(c, q, scales, grids, &unit);
  }
  __syncwarp();
  for (int c = place.lane8; c < count; c += kRowLanes) {
    const float mine = by_code[c];
    int rank = 0, lowest = c;
    for (int o = 0; o < count; ++o) {
      const float other = by_code[o];
      const bool equal = other == mine;
      rank += other < mine || (equal && o < c) ? 1 : 0;
      lowest = equal && o < lowest ? o : lowest;
    }
    level[rank] = mine;
    code_of[rank] = static_cast<uint8_t>(lowest);
    float unit;
    LevelOf<Q, kShift>(c, q, scales, grids, &unit);
    tables.unit(row)[rank] = unit;
  }
  __syncwarp();
  for (int p = place.lane8; p < count; p += kRowLanes) {
    float middle = kInfinity;
    if (p + 1 < count) {
      middle = 0.5f * (level[p] + level[p + 1]);
      if (kLowestOnTie && code_of[p] < code_of[p + 1]) {
        // The next float above: equality goes down.
        const unsigned bits = __float_as_uint(middle);
        middle = middle == 0.0f ? __uint_as_float(1u)
                                : __uint_as_float(middle > 0.0f ? bits + 1 : bits - 1);
      }
    }
    by_code[p] = middle;
  }
  __syncwarp();
}

// Looks up the nearest level of one value a row, by all eight lanes together: each compares with
// the thresholds that it holds.
template <int Q, bool kTuned>
class LevelSearch {
 public:
  __device__ LevelSearch(const LanePlace& place, int q, const LevelTables<kTuned>& tables)
      : place_(place), q_(q), tables_(tables) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int i = 0; i < kHeld; ++i) {
        const int p = place.lane8 + i * kRowLanes;
        held_[r][i] =
            Q != 0 && p < Width<Q>::kLevels ? tables.threshold(place.row(r))[p] : kInfinity;
      }
    }
  }

  // The place of the nearest level of `value`, which all eight lanes of row r bring.
  __device__ __forceinline__ int Find(int r, float value) const {
    if constexpr (Q == 0) {
      const float* threshold = tables_.threshold(place_.row(r));
      int at = 0;
      for (int step = 1 << q_ >> 1; step > 0; step >>= 1) {
        if (value >= threshold[at + step - 1]) at += step;
      }
      return at;
    } else {
      int at = 0;
#pragma unroll
      for (int i = 0; i < kHeld; ++i) {
        const unsigned votes = __ballot_sync(kAllLanes, value >= held_[r][i]);
        at += __popc((votes >> (place_.slot * kRowLanes)) & 0xffu);
      }
      return at;
    }
  }

 private:
  static constexpr int kHeld = Q == 4 ? 2 : 1;
  const LanePlace& place_;
  const int q_;
  const LevelTables<kTuned>& tables_;
  float held_[kRows][kHeld];
};

// x b = rhs for a symmetric positive definite a [r][r] (lower triangle), in place. False, and
// zeros, if it is not or x is not finite.
template <int kMax>
__device__ bool SolveSmall(int r, double (&a)[kMax][kMax], double (&x)[kMax]) {
  [[maybe_unused]] constexpr int kUnroll = kMax > 5 ? 1 : kMax;  // small ones live in registers
  bool good = true;
#pragma unroll kUnroll
  for (int i = 0; i < kMax; ++i) {
    if (i >= r) continue;
#pragma unroll kUnroll
    for (int j = 0; j < i; ++j) {
      double sum = a[i][j];
#pragma unroll kUnroll
      for (int k = 0; k < j; ++k) sum -= a[i][k] * a[j][k];
      a[i][j] = sum / a[j][j];
    }
    double pivot = a[i][i];
#pragma unroll kUnroll
    for (int k = 0; k < i; ++k) pivot -= a[i][k] * a[i][k];
    good = good && pivot > 0.0 && pivot < 1e300;
    a[i][i] = sqrt(good ? pivot : 1.0);
  }
#pragma unroll kUnroll
  for (int i = 0; i < kMax; ++i) {
    if (i >= r) continue;
#pragma unroll kUnroll
    for (int k = 0; k < i; ++k) x[i] -= a[i][k] * x[k];
    x[i] /= a[i][i];
  }
#pragma unroll kUnroll
  for (int i = kMax - 1; i >= 0; --i) {
    if (i >= r) continue;
#pragma unroll kUnroll
    for (int k = i + 1; k < kMax; ++k) {
      if (k < r) x[i] -= a[k][i] * x[k];
    }
    x[i] /= a[i][i];
    good = good && fabs(x[i]) < 1e300;
  }
#pragma unroll kUnroll
  for (int i = 0; i < kMax; ++i) {
    if (!good) x[i] = 0.0;
  }
  return good;
}

// Copies a [size][size] block of a matrix to shared memory, columns as ColumnAt says, padded with
// zeros to kColumns.
template <int kColumns>
__device__ void LoadBlock(const float* from, int64_t ld, int size, float* to) {
  for (int i = static_cast<int>(threadIdx.x); i < kColumns * kColumns;
       i += static_cast<int>(blockDim.x)) {
    const int row = i / kColumns, column = i % kColumns;
    const bool inside = row < size && column < size;
    to[row * kColumns + ColumnAt(column)] = inside ? from[row * ld + column] : 0.0f;
  }
}

// Writes x = (hi + lo) * factor as two fp16, with one power of two for a row's C values a lane.
template <int C>
__device__ __forceinline__ void StoreSplit(const LanePlace& place, const float (&x)[C], int size,
                                           __half* hi, __half* lo, float* factor) {
  float largest = 0.0f;
#pragma unroll
  for (int m = 0; m < C; ++m) largest = fmaxf(largest, fabsf(x[m]));
  largest = RowMax(largest);
  // largest * up lies in [2^14, 2^15).
  int exponent = static_cast<int>(__float_as_uint(largest) >> 23) - 127;
  exponent = exponent < -100 ? -100 : exponent;
  const float up = __uint_as_float(static_cast<unsigned>(127 + 14 - exponent) << 23);
  const float down = __uint_as_float(static_cast<unsigned>(127 - 14 + exponent) << 23);
#pragma unroll
  for (int m = 0; m < C; ++m) {
    const int c = m * kRowLanes + place.lane8;
    if (c >= size) continue;
    const float scaled = x[m] * up;
    const __half high = __float2half_rn(scaled);
    hi[c] = high;
    lo[c] = __float2half_rn(scaled - __half2float(high));
  }
  for (int chunk = place.lane8; chunk * 32 < size; chunk += kRowLanes) factor[chunk] = down;
}

}  // namespace shiftadd::kernels::quantize

#endif  // SHIFTADD_KERNELS_CUDA_QUANTIZE_ROW_LANES_H_
