// Products with H and U, in fp32 precision on the fp16 tensor cores: hi hi + hi lo + lo hi. Every
// 32 inner the sums leave the tensor core for fp32 registers, where a row's factor is applied.
#include <algorithm>

#include "kernels/cuda/quantize/launches.h"
#include "kernels/cuda/quantize/split_gemm.h"

namespace shiftadd::kernels::quantize {
namespace {

constexpr int kStages = 4;
constexpr int kStageBytes = 4 * kPanelBytes;  // A hi, A lo, B hi, B lo

struct ProductBatch {
  SplitProduct products[kProductsPerLaunch];
};

__device__ __forceinline__ void CopyStage(const SplitProduct& p, int64_t row, int64_t column,
                                          int64_t at, char* stage) {
  CopyPanel(p.a.hi, p.a.ld, row, p.n, at, stage);
  CopyPanel(p.a.lo, p.a.ld, row, p.n, at, stage + kPanelBytes);
  CopyPanel(p.b.hi, p.b.ld, column, p.columns, at, stage + 2 * kPanelBytes);
  CopyPanel(p.b.lo, p.b.ld, column, p.columns, at, stage + 3 * kPanelBytes);
}

__device__ __forceinline__ void MultiplyStage(const WarpPlace& place, const char* stage,
                                              float (&c)[4][4][4]) {
#pragma unroll
  for (int step = 0; step < 2; ++step) {
    uint32_t a[4][4], b[4][2], b_low[4][2];
    LoadA(stage, place.row, step, a);
    LoadB(stage + 2 * kPanelBytes, place.column, step, b);
    LoadB(stage + 3 * kPanelBytes, place.column, step, b_low);
    MultiplyFragments(a, b, c);
    MultiplyFragments(a, b_low, c);
    LoadA(stage + kPanelBytes, place.row, step, a);
    MultiplyFragments(a, b, c);
  }
}

__global__ void __launch_bounds__(kTileThreads, 1)
    ProductKernel(const __grid_constant__ ProductBatch batch) {
  const SplitProduct& p = batch.products[blockIdx.z];
  const int64_t row = static_cast<int64_t>(blockIdx.y) * kTile;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kTile;
  if (row >= p.n || column >= p.columns) return;
  char* shared = DynamicShared();
  const int steps = static_cast<int>((p.inner + kTileInner - 1) / kTileInner);
  const WarpPlace place;
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int s = 0; s < kStages - 1; ++s) {
    if (s < steps) CopyStage(p, row, column, s * kTileInner, shared + s * kStageBytes);
    CopyCommit();
  }
  float sum[4][4][4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) sum[i][j][e] = 0.0f;
    }
  }
  const float* factors = p.a_factor + (row + place.row + lane / 4) * p.ld_factor;
  for (int step = 0; step < steps; ++step) {
    CopyWait<kStages - 2>();
    __syncthreads();
    const int next = step + kStages - 1;
    if (next < steps) {
      CopyStage(p, row, column, next * kTileInner, shared + next % kStages * kStageBytes);
    }
    CopyCommit();
    float factor[4][2];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int offset = i * 16 + half * 8;
        const bool inside = row + place.row + lane / 4 + offset < p.n;
        factor[i][half] = inside ? factors[offset * p.ld_factor + step] : 0.0f;
      }
    }
    float part[4][4][4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) part[i][j][e] = 0.0f;
      }
    }
    MultiplyStage(place, shared + step % kStages * kStageBytes, part);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) sum[i][j][e] += factor[i][e / 2] * part[i][j][e];
      }
    }
  }
  const float scale = p.sign * *p.b_factor;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int64_t r = row + place.row + i * 16 + lane / 4 + e / 2 * 8;
        const int64_t c = column + place.column + j * 8 + lane % 4 * 2 + e % 2;
        if (r >= p.n || c >= p.columns) continue;
        const float before = p.in != nullptr ? p.in[r * p.ld_in + c] : 0.0f;
        p.out[r * p.ld_out + c] = before + scale * sum[i][j][e];
      }
    }
  }
}

}  // namespace

cudaError_t LaunchProducts(const SplitProduct* products, int count, cudaStream_t stream) {
  ProductBatch batch;
  int64_t rows = 0, columns = 0;
  for (int i = 0; i < count; ++i) {
    batch.products[i] = products[i];
    rows = std::max(rows, products[i].n);
    columns = std::max(columns, products[i].columns);
  }
  if (count == 0 || rows == 0 || columns == 0) return cudaSuccess;
  const dim3 grid(static_cast<unsigned>((columns + kTile - 1) / kTile),
                  static_cast<unsigned>((rows + kTile - 1) / kTile), static_cast<unsigned>(count));
  return Launch(ProductKernel, grid, kTileThreads, kStages * kStageBytes, stream, batch);
}

}  // namespace shiftadd::kernels::quantize
