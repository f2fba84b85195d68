// The shared memory of kernels that walk along up to 128 inputs of a group with their levels given:
// a square of U or H, and the level tables of every warp's rows.
#ifndef SHIFTADD_KERNELS_CUDA_QUANTIZE_PIECE_SHARED_H_
#define SHIFTADD_KERNELS_CUDA_QUANTIZE_PIECE_SHARED_H_

#include "kernels/cuda/quantize/row_lanes.h"

namespace shiftadd::kernels::quantize {

template <int C, bool kTuned>
struct PieceShared {
  static constexpr int kColumns = C * kRowLanes;
  static constexpr int Bytes(int warps) {
    return 4 * (kColumns * kColumns + kColumns) + warps * LevelTables<kTuned>::kBytes;
  }

  float *square, *inverse;  // inverse: of the diagonal
  LevelTables<kTuned> tables;

  __device__ explicit PieceShared(int warp) {
    square = reinterpret_cast<float*>(DynamicShared());
    inverse = square + kColumns * kColumns;
    tables.base = reinterpret_cast<char*>(inverse + kColumns) + warp * LevelTables<kTuned>::kBytes;
  }

  __device__ void Load(const float* from, int64_t ld, int size) {
    LoadBlock<kColumns>(from, ld, size, square);
    __syncthreads();
    for (int j = static_cast<int>(threadIdx.x); j < kColumns; j += static_cast<int>(blockDim.x)) {
      inverse[j] = j < size ? 1.0f / square[j * kColumns + ColumnAt(j)] : 0.0f;
    }
    __syncthreads();
  }
};

}  // namespace shiftadd::kernels::quantize

#endif  // SHIFTADD_KERNELS_CUDA_QUANTIZE_PIECE_SHARED_H_
