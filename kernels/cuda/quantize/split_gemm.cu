// Products with H and U, in fp32 precision on the fp16 tensor cores: hi hi + hi lo + lo hi. Every
// 32 inner the sums leave the tensor core for fp32 registers, where a row's factor is applied.
#include <algorithm>

#include "kernels/cuda/quantize/launches.h"
#include "kernels/cuda/quantize/split_gemm.h"
#include "kernels/cuda/quantize/wgmma.h"

namespace shiftadd::kernels::quantize {
namespace {

constexpr int kStages = 4;
constexpr int kStageBytes = 4 * kPanelBytes;  // A hi, A lo, B hi, B lo
constexpr int kWideStages = 3;
constexpr int kWideBytes = kWideStages * 4 * 128 * 128;

struct ProductBatch {
  SplitProduct products[kProductsPerLaunch];
};

template <bool kLow>
__device__ __forceinline__ void CopyStage(const SplitProduct& p, int64_t row, int64_t column,
                                          int64_t at, char* stage) {
  CopyPanel(p.a.hi, p.a.ld, row, p.n, at, stage);
  if (kLow) CopyPanel(p.a.lo, p.a.ld, row, p.n, at, stage + kPanelBytes);
  CopyPanel(p.b.hi, p.b.ld, column, p.columns, at, stage + 2 * kPanelBytes);
  CopyPanel(p.b.lo, p.b.ld, column, p.columns, at, stage + 3 * kPanelBytes);
}

template <bool kLow>
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
    if constexpr (kLow) {
      LoadA(stage + kPanelBytes, place.row, step, a);
      MultiplyFragments(a, b, c);
    }
  }
}

// What is there before the sum; all of a thread's are read before the first is written, since `in`
// may be `out`.
__device__ __forceinline__ float Before(const SplitProduct& p, int64_t r, int64_t c) {
  return p.in != nullptr && r < p.n && c < p.columns ? p.in[r * p.ld_in + c] : 0.0f;
}
__device__ __forceinline__ void Store(const SplitProduct& p, int64_t r, int64_t c, float x) {
  if (r < p.n && c < p.columns) p.out[r * p.ld_out + c] = x;
}

template <bool kLow>
[[maybe_unused]] __device__ __forceinline__ void MmaTile(const SplitProduct& p, int64_t row,
                                                         int64_t column) {
  char* shared = DynamicShared();
  const int steps = static_cast<int>((p.inner + kTileInner - 1) / kTileInner);
  const WarpPlace place;
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int s = 0; s < kStages - 1; ++s) {
    if (s < steps) CopyStage<kLow>(p, row, column, s * kTileInner, shared + s * kStageBytes);
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
      CopyStage<kLow>(p, row, column, next * kTileInner, shared + next % kStages * kStageBytes);
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
    MultiplyStage<kLow>(place, shared + step % kStages * kStageBytes, part);
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
  const int64_t r = row + place.row + lane / 4, c = column + place.column + lane % 4 * 2;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float before[4][4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        before[j][e] = Before(p, r + i * 16 + e / 2 * 8, c + j * 8 + e % 2);
      }
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        Store(p, r + i * 16 + e / 2 * 8, c + j * 8 + e % 2, before[j][e] + scale * sum[i][j][e]);
      }
    }
  }
}

#ifdef SHIFTADD_HAS_WGMMA

// hi hi + hi lo + lo hi over 32 inner of a stage, for the warpgroup's 64 rows.
template <bool kLow>
__device__ __forceinline__ void StartHalf(const char* stage, int warpgroup, int half,
                                          float (&part)[16][4]) {
  const char* a_hi = stage + warpgroup * 64 * 128;
  const char* a_lo = a_hi + kWidePanelBytes;
  const char* b_hi = stage + 2 * kWidePanelBytes;
  const char* b_lo = b_hi + kWidePanelBytes;
  WgmmaFence();
#pragma unroll
  for (int step = half * 2; step < half * 2 + 2; ++step) {
    Wgmma(Descriptor(a_hi, step), Descriptor(b_hi, step), step != half * 2, part);
    Wgmma(Descriptor(a_hi, step), Descriptor(b_lo, step), true, part);
    if constexpr (kLow) {
      Wgmma(Descriptor(a_lo, step), Descriptor(b_hi, step), true, part);
    }
  }
  WgmmaCommit();
}

template <bool kLow>
__device__ __forceinline__ void WgmmaTile(const SplitProduct& p, int64_t row, int64_t column) {
  constexpr int kStep = 64;
  char* shared = DynamicShared();
  const int warpgroup = static_cast<int>(threadIdx.x) / 128;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t inner = (p.inner + kTileInner - 1) / kTileInner * kTileInner;
  const int steps = static_cast<int>((inner + kStep - 1) / kStep);
  const auto copy = [&](int step) {
    char* stage = shared + step % kWideStages * 4 * kWidePanelBytes;
    const int64_t at = static_cast<int64_t>(step) * kStep;
    CopyWidePanel(p.a.hi, p.a.ld, row, p.n, at, inner, stage);
    if (kLow) CopyWidePanel(p.a.lo, p.a.ld, row, p.n, at, inner, stage + kWidePanelBytes);
    CopyWidePanel(p.b.hi, p.b.ld, column, p.columns, at, inner, stage + 2 * kWidePanelBytes);
    CopyWidePanel(p.b.lo, p.b.ld, column, p.columns, at, inner, stage + 3 * kWidePanelBytes);
  };
#pragma unroll
  for (int i = 0; i < kWideStages - 1; ++i) {
    if (i < steps) copy(i);
    CopyCommit();
  }
  // This thread's rows: `mine` and 8 below.
  const int64_t mine =
      row + warpgroup * 64 + static_cast<int>(threadIdx.x) % 128 / 32 * 16 + lane / 4;
  const float* factors[2] = {p.a_factor + (mine < p.n ? mine : 0) * p.ld_factor,
                             p.a_factor + (mine + 8 < p.n ? mine + 8 : 0) * p.ld_factor};
  float sum[16][4], part[2][16][4];
#pragma unroll
  for (int j = 0; j < 16; ++j) {
#pragma unroll
    for (int e = 0; e < 4; ++e) sum[j][e] = 0.0f;
  }
  for (int step = 0; step < steps; ++step) {
    CopyWait<kWideStages - 2>();
    FenceShared();
    __syncthreads();
    const char* stage = shared + step % kWideStages * 4 * kWidePanelBytes;
    StartHalf<kLow>(stage, warpgroup, 0, part[0]);
    StartHalf<kLow>(stage, warpgroup, 1, part[1]);
    // Into the stage of the step before, which everybody has waited for.
    if (step + kWideStages - 1 < steps) copy(step + kWideStages - 1);
    CopyCommit();
    float factor[2][2];  // of a half of the stage, of a row
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int at = step * 2 + half;
      const bool inside = at * kTileInner < inner;
      factor[half][0] = inside ? factors[0][at] : 0.0f;
      factor[half][1] = inside ? factors[1][at] : 0.0f;
    }
    WgmmaWait<1>();
#pragma unroll
    for (int j = 0; j < 16; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) sum[j][e] += factor[0][e / 2] * part[0][j][e];
    }
    WgmmaWait<0>();
#pragma unroll
    for (int j = 0; j < 16; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) sum[j][e] += factor[1][e / 2] * part[1][j][e];
    }
  }
  const float scale = p.sign * *p.b_factor;
#pragma unroll
  for (int j = 0; j < 16; ++j) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      part[0][j][e] = Before(p, mine + e / 2 * 8, column + j * 8 + lane % 4 * 2 + e % 2);
    }
  }
#pragma unroll
  for (int j = 0; j < 16; ++j) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      Store(p, mine + e / 2 * 8, column + j * 8 + lane % 4 * 2 + e % 2,
            part[0][j][e] + scale * sum[j][e]);
    }
  }
}

#endif  // SHIFTADD_HAS_WGMMA

template <bool kLow>
__global__ void __launch_bounds__(kTileThreads, 1)
    ProductKernel(const __grid_constant__ ProductBatch batch) {
  const SplitProduct& p = batch.products[blockIdx.z];
  const int64_t row = static_cast<int64_t>(blockIdx.y) * kTile;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kTile;
  if (row >= p.n || column >= p.columns) return;
#ifdef SHIFTADD_HAS_WGMMA
  WgmmaTile<kLow>(p, row, column);
#else
  MmaTile<kLow>(p, row, column);
#endif
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
  DeviceLimits device;
  if (const cudaError_t error = CurrentDevice(&device); error != cudaSuccess) {
    return error;
  }
  const int shared = device.major == 9 ? kWideBytes : kStages * kStageBytes;
  const auto kernel = products[0].a.lo != nullptr ? ProductKernel<true> : ProductKernel<false>;
  return Launch(kernel, grid, kTileThreads, shared, stream, batch);
}

}  // namespace shiftadd::kernels::quantize
