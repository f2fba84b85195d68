// The tensor-core tile that products with H and U share: 128 rows of A times 128 rows of B (both
// with the inner dimension contiguous), 32 inner at a time through a ring of asynchronous copies.
// A number is the sum of two fp16 (hi + lo); lo * lo is left out, so a product keeps 22 bits.
#ifndef SHIFTADD_KERNELS_CUDA_QUANTIZE_SPLIT_GEMM_H_
#define SHIFTADD_KERNELS_CUDA_QUANTIZE_SPLIT_GEMM_H_

#include <cstdint>

#include "kernels/cuda/quantize/platform.h"

namespace shiftadd::kernels::quantize {

inline constexpr int kTile = 128;         // rows of A, rows of B
inline constexpr int kTileInner = 32;     // fp16 of a row a stage: 64 bytes, four 16-byte pieces
inline constexpr int kTileThreads = 256;  // 8 warps: 2 x 4 of 64 x 32
inline constexpr int kPanelBytes = kTile * kTileInner * 2;

// Where 16-byte piece `piece` of row `row` lies in a panel: eight consecutive rows' equal pieces,
// and a row's four, fall on different banks.
__device__ __forceinline__ int PanelAt(int row, int piece) {
  return row * 64 + ((piece ^ ((row >> 1) & 3)) << 4);
}

// Copies rows [first, first + 128) x inner [at, at + 32) of `from` into a panel; rows beyond `rows`
// become 0. The memory of a row must reach to a multiple of 32 inner.
__device__ __forceinline__ void CopyPanel(const __half* from, int64_t ld, int64_t first,
                                          int64_t rows, int64_t at, char* panel) {
#pragma unroll
  for (int i = 0; i < kTile * 4 / kTileThreads; ++i) {
    const int index = static_cast<int>(threadIdx.x) + i * kTileThreads;
    const int row = index / 4, piece = index % 4;
    const bool inside = first + row < rows;
    CopyAsync16(panel + PanelAt(row, piece),
                from + (inside ? first + row : 0) * ld + at + piece * 8, inside);
  }
}

struct WarpPlace {
  int row, column;  // of the warp's 64 x 32 in the tile
  __device__ WarpPlace() {
    const int warp = static_cast<int>(threadIdx.x) / 32;
    row = warp % 2 * 64;
    column = warp / 2 * 32;
  }
};

// Fragments of a 64 x 16 piece of A and a 32 x 16 piece of B (as rows), inner 16 * step of a panel.
__device__ __forceinline__ void LoadA(const char* panel, int row, int step, uint32_t (&a)[4][4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    LoadMatrix4(a[i], panel + PanelAt(row + i * 16 + lane % 16, step * 2 + lane / 16));
  }
}
__device__ __forceinline__ void LoadB(const char* panel, int row, int step, uint32_t (&b)[4][2]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int i = 0; i < 2; ++i) {  // 16 rows of B: two fragments
    uint32_t out[4];
    LoadMatrix4(out,
                panel + PanelAt(row + i * 16 + lane % 8 + lane / 16 * 8, step * 2 + lane / 8 % 2));
    b[i * 2][0] = out[0];
    b[i * 2][1] = out[1];
    b[i * 2 + 1][0] = out[2];
    b[i * 2 + 1][1] = out[3];
  }
}

__device__ __forceinline__ void MultiplyFragments(const uint32_t (&a)[4][4],
                                                  const uint32_t (&b)[4][2], float (&c)[4][4][4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) MmaF16(c[i][j], a[i], b[j]);
  }
}

}  // namespace shiftadd::kernels::quantize

#endif  // SHIFTADD_KERNELS_CUDA_QUANTIZE_SPLIT_GEMM_H_
