// The joint refit of all scales of a row: the design matrix Phi (codes in units of their scales),
// Phi^T H Phi on the tensor cores, and a Cholesky solve in float64.
#include <algorithm>

#include "kernels/cuda/quantize/elementwise.h"
#include "kernels/cuda/quantize/split_gemm.h"
#include "kernels/cuda/quantize/wgmma.h"

namespace shiftadd::kernels::quantize {
namespace {

constexpr double kRidge = 1e-6;

// ---- Phi, Phi^T H (w - w^) and the loss before the refit ----------------------------------------

constexpr int kDesignThreads = 256, kDesignWarps = kDesignThreads / 32;

// A block takes a row, a warp a group of it at a time.
__global__ void DesignKernel(const __grid_constant__ RefitWork work) {
  const WidthState& s = work.state;
  float* losses = reinterpret_cast<float*>(DynamicShared());  // [groups]
  const int unknowns = s.unknowns(), planes = s.free_scales ? s.q : 1;
  const int64_t local = blockIdx.x, row = work.first + local;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int64_t g = threadIdx.x / 32; g < s.groups; g += kDesignWarps) {
    const int64_t end = g + 1 == s.groups ? work.ld : (g + 1) * s.group;
    const GroupWeights weights(s, row, g);
    float rhs[9] = {}, loss = 0.0f;
    for (int64_t c = g * s.group + lane; c < end; c += 32) {
      const bool inside = c < s.k;
      const int64_t at = row * s.k + c;
      const int code = inside ? s.codes[at] : 0;
      const float unit = weights.Unit(code);
      const float residual = inside ? s.residual[at] : 0.0f;
      if (inside) loss += (s.w[at] - weights.Weight(unit)) * residual;
#pragma unroll
      for (int u = 0; u < 9; ++u) {
        if (u >= unknowns) continue;
        const float x = u >= planes     ? 1.0f
                        : s.free_scales ? (((code >> u) & 1) != 0 ? 1.0f : -1.0f)
                                        : unit;
        rhs[u] += x * residual;
        work.design[(u * work.rows + local) * work.ld + c] = __float2half_rn(inside ? x : 0.0f);
      }
    }
    loss = WarpSum(loss);
    if (lane == 0) losses[g] = loss;
#pragma unroll
    for (int u = 0; u < 9; ++u) {
      if (u >= unknowns) continue;
      const float sum = WarpSum(rhs[u]);
      if (lane == 0) work.rhs[(local * s.groups + g) * unknowns + u] = sum;
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    float sum = 0.0f;
    for (int64_t g = 0; g < s.groups; ++g) sum += losses[g];
    work.loss[local] = sum;
  }
}

// ---- Phi^T H Phi --------------------------------------------------------------------------------

constexpr int kStages = 4;
constexpr int kStageBytes = 3 * kPanelBytes;  // Phi, H hi, H lo
constexpr int kGramBytes = kStages * kStageBytes + 4 * kTile * 4;
constexpr int kWideGramBytes = kStages * 3 * 128 * 128;

// A block takes 128 rows and one group g. For every unknown b of every group before or at g: (Phi_b
// H) at the inputs of g, then its products with the unknowns a of g, summed over the inputs.
template <bool kSingle>  // one unknown a group
[[maybe_unused]] __device__ __forceinline__ void GramMma(const RefitWork& work) {
  const WidthState& s = work.state;
  const int unknowns = kSingle ? 1 : s.unknowns();
  const int64_t g = s.groups - 1 - blockIdx.x;  // the long ones first
  const int64_t row = static_cast<int64_t>(blockIdx.y) * kTile;
  const int64_t begin = g * s.group, end = begin + s.group < s.k ? begin + s.group : s.k;
  const int64_t m = s.groups * unknowns;
  char* shared = DynamicShared();
  float* partial = reinterpret_cast<float*>(shared + kStages * kStageBytes);  // [4][128]
  const WarpPlace place;
  const int lane = static_cast<int>(threadIdx.x) % 32;

  // The sequence of stages: groups, unknowns of a group, 32 inputs at a time.
  const int full = static_cast<int>(s.group) / kTileInner;
  const int last = static_cast<int>(end - begin + kTileInner - 1) / kTileInner;
  const int steps = static_cast<int>(g) * unknowns * full + unknowns * last;
  const auto copy = [&](int step) {
    const int of_full = static_cast<int>(g) * unknowns * full;
    const int length = step < of_full ? full : last;
    const int within = step < of_full ? step : step - of_full;
    const int64_t group = step < of_full ? within / (unknowns * full) : g;
    const int b = step < of_full ? within / full % unknowns : within / last;
    const int64_t at = group * s.group + within % length * kTileInner;
    char* stage = shared + step % kStages * kStageBytes;
    CopyPanel(work.design + b * work.rows * work.ld, work.ld, row, work.rows, at, stage);
    CopyPanel(work.h.hi, work.h.ld, begin, end, at, stage + kPanelBytes);
    CopyPanel(work.h.lo, work.h.ld, begin, end, at, stage + 2 * kPanelBytes);
  };
#pragma unroll
  for (int i = 0; i < kStages - 1; ++i) {
    if (i < steps) copy(i);
    CopyCommit();
  }
  // This thread's elements of Phi_a at the inputs of g: two neighbours a word.
  const auto phi = [&](int a, int i, int j, int half) {
    const int64_t r = row + place.row + i * 16 + lane / 4 + half * 8;
    const int64_t c = begin + place.column + j * 8 + lane % 4 * 2;
    if (r >= work.rows || c >= end) return 0u;
    return *reinterpret_cast<const uint32_t*>(work.design + (a * work.rows + r) * work.ld + c);
  };
  uint32_t mine[4][4][2];
  if constexpr (kSingle) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        mine[i][j][0] = phi(0, i, j, 0);
        mine[i][j][1] = phi(0, i, j, 1);
      }
    }
  }
  float sum[4][4][4];
  const float h_factor = *work.h_factor;
  int step = 0;
  for (int64_t other = 0; other <= g; ++other) {
    for (int b = 0; b < unknowns; ++b) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
#pragma unroll
          for (int e = 0; e < 4; ++e) sum[i][j][e] = 0.0f;
        }
      }
      for (int i = other < g ? full : last; i > 0; --i, ++step) {
        CopyWait<kStages - 2>();
        __syncthreads();
        if (step + kStages - 1 < steps) copy(step + kStages - 1);
        CopyCommit();
        const char* stage = shared + step % kStages * kStageBytes;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          uint32_t left[4][4], right[4][2];
          LoadA(stage, place.row, half, left);
          LoadB(stage + kPanelBytes, place.column, half, right);
          MultiplyFragments(left, right, sum);
          LoadB(stage + 2 * kPanelBytes, place.column, half, right);
          MultiplyFragments(left, right, sum);
        }
      }
      for (int a = 0; a < unknowns; ++a) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            float dot = 0.0f;
#pragma unroll
            for (int j = 0; j < 4; ++j) {
              uint32_t word;
              if constexpr (kSingle) {
                word = mine[i][j][half];
              } else {
                word = phi(a, i, j, half);
              }
              const float2 x = UnpackHalves(word);
              dot += sum[i][j][half * 2] * x.x + sum[i][j][half * 2 + 1] * x.y;
            }
            dot += __shfl_xor_sync(0xffffffffu, dot, 1);
            dot += __shfl_xor_sync(0xffffffffu, dot, 2);
            if (lane % 4 == 0) {
              partial[place.column / 32 * kTile + place.row + i * 16 + lane / 4 + half * 8] = dot;
            }
          }
        }
        __syncthreads();
        const int r = static_cast<int>(threadIdx.x);
        if (r < kTile && row + r < work.rows) {
          const float total =
              (partial[r] + partial[kTile + r]) + (partial[2 * kTile + r] + partial[3 * kTile + r]);
          work.gram[((row + r) * m + g * unknowns + a) * m + other * unknowns + b] =
              total * h_factor;
        }
        __syncthreads();
      }
    }
  }
}

#ifdef SHIFTADD_HAS_WGMMA

// The same with warpgroup instructions, 64 inputs at a time. A quad holds whole rows of the tile.
template <bool kSingle>
__device__ __forceinline__ void GramWgmma(const RefitWork& work) {
  constexpr int kStep = 64;
  const WidthState& s = work.state;
  const int unknowns = kSingle ? 1 : s.unknowns();
  const int64_t g = s.groups - 1 - blockIdx.x;
  const int64_t row = static_cast<int64_t>(blockIdx.y) * kTile;
  const int64_t begin = g * s.group, end = begin + s.group < s.k ? begin + s.group : s.k;
  const int64_t m = s.groups * unknowns;
  char* shared = DynamicShared();
  const int warpgroup = static_cast<int>(threadIdx.x) / 128;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int full = static_cast<int>(s.group + kStep - 1) / kStep;
  const int last = static_cast<int>(end - begin + kStep - 1) / kStep;
  const int of_full = static_cast<int>(g) * unknowns * full;
  const int steps = of_full + unknowns * last;
  const auto copy = [&](int step) {
    const int length = step < of_full ? full : last;
    const int within = step < of_full ? step : step - of_full;
    const int64_t group = step < of_full ? within / (unknowns * full) : g;
    const int b = step < of_full ? within / full % unknowns : within / last;
    const int64_t at = group * s.group + within % length * kStep;
    const int64_t limit = (group + 1) * s.group < work.ld ? (group + 1) * s.group : work.ld;
    char* stage = shared + step % kStages * 3 * kWidePanelBytes;
    CopyWidePanel(work.design + b * work.rows * work.ld, work.ld, row, work.rows, at, limit, stage);
    CopyWidePanel(work.h.hi, work.h.ld, begin, end, at, limit, stage + kWidePanelBytes);
    CopyWidePanel(work.h.lo, work.h.ld, begin, end, at, limit, stage + 2 * kWidePanelBytes);
  };
#pragma unroll
  for (int i = 0; i < kStages - 1; ++i) {
    if (i < steps) copy(i);
    CopyCommit();
  }
  // This thread's rows: `mine` and 8 below; its elements of Phi_a there, two neighbours a word.
  const int64_t mine =
      row + warpgroup * 64 + static_cast<int>(threadIdx.x) % 128 / 32 * 16 + lane / 4;
  const auto phi = [&](int a, int j, int half) {
    const int64_t r = mine + half * 8, c = begin + j * 8 + lane % 4 * 2;
    if (r >= work.rows || c >= end) return 0u;
    return *reinterpret_cast<const uint32_t*>(work.design + (a * work.rows + r) * work.ld + c);
  };
  uint32_t held[16][2];
  if constexpr (kSingle) {
#pragma unroll
    for (int j = 0; j < 16; ++j) {
      held[j][0] = phi(0, j, 0);
      held[j][1] = phi(0, j, 1);
    }
  }
  float sum[16][4];
  const float h_factor = *work.h_factor;
  int step = 0;
  for (int64_t other = 0; other <= g; ++other) {
    for (int b = 0; b < unknowns; ++b) {
      const int length = other < g ? full : last;
      for (int i = 0; i < length; ++i, ++step) {
        CopyWait<kStages - 2>();
        FenceShared();
        __syncthreads();
        const char* stage = shared + step % kStages * 3 * kWidePanelBytes;
        const char* left = stage + warpgroup * 64 * 128;
        WgmmaFence();
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          Wgmma(Descriptor(left, k), Descriptor(stage + kWidePanelBytes, k), i > 0 || k > 0, sum);
          Wgmma(Descriptor(left, k), Descriptor(stage + 2 * kWidePanelBytes, k), true, sum);
        }
        WgmmaCommit();
        if (step + kStages - 1 < steps) copy(step + kStages - 1);
        CopyCommit();
        WgmmaWait<0>();
      }
      for (int a = 0; a < unknowns; ++a) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float dot = 0.0f;
#pragma unroll
          for (int j = 0; j < 16; ++j) {
            uint32_t word;
            if constexpr (kSingle) {
              word = held[j][half];
            } else {
              word = phi(a, j, half);
            }
            const float2 x = UnpackHalves(word);
            dot += sum[j][half * 2] * x.x + sum[j][half * 2 + 1] * x.y;
          }
          dot += __shfl_xor_sync(0xffffffffu, dot, 1);
          dot += __shfl_xor_sync(0xffffffffu, dot, 2);
          const int64_t r = mine + half * 8;
          if (lane % 4 == 0 && r < work.rows) {
            work.gram[(r * m + g * unknowns + a) * m + other * unknowns + b] = dot * h_factor;
          }
        }
      }
    }
  }
}

#endif  // SHIFTADD_HAS_WGMMA

template <bool kSingle>
__global__ void __launch_bounds__(kTileThreads, 1)
    GramKernel(const __grid_constant__ RefitWork work) {
#ifdef SHIFTADD_HAS_WGMMA
  GramWgmma<kSingle>(work);
#else
  GramMma<kSingle>(work);
#endif
}

// ---- Phi^T H Phi of groups of more than 128 inputs ----------------------------------------------

// A warp takes a row and one group up to g.
__global__ void GramRowKernel(const __grid_constant__ RefitWork work, int64_t g, int u,
                              const float* y) {
  const WidthState& s = work.state;
  const int64_t task = static_cast<int64_t>(blockIdx.x) * kDesignWarps + threadIdx.x / 32;
  const int64_t row = task / (g + 1), other = task % (g + 1);
  if (row >= work.rows) return;
  const int unknowns = s.unknowns(), lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t m = s.groups * unknowns, begin = other * s.group;
  const int64_t end = begin + s.group < s.k ? begin + s.group : s.k;
  for (int b = 0; b < unknowns; ++b) {
    const __half* design = work.design + (b * work.rows + row) * work.ld;
    float sum = 0.0f;
    for (int64_t c = begin + lane; c < end; c += 32)
      sum += y[row * s.k + c] * __half2float(design[c]);
    sum = WarpSum(sum);
    if (lane == 0) work.gram[(row * m + g * unknowns + u) * m + other * unknowns + b] = sum;
  }
}

// ---- The solve ----------------------------------------------------------------------------------

// Threads of a block: one warp for small systems, which are all waiting otherwise.
constexpr int kSmallThreads = 32, kLargeThreads = 128;
constexpr size_t kSmallSystem = 64;

__device__ __forceinline__ int64_t Packed(int64_t i, int64_t j) { return i * (i + 1) / 2 + j; }

// The sum of everybody's value, in a fixed order; `room`: kThreads doubles.
template <int kThreads>
__device__ double BlockSum(double mine, double* room) {
  room[threadIdx.x] = mine;
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (static_cast<int>(threadIdx.x) < half) room[threadIdx.x] += room[threadIdx.x + half];
    __syncthreads();
  }
  const double sum = room[0];
  __syncthreads();
  return sum;
}

// Cholesky of a (packed lower, m) in place by the whole block. False if it is not positive
// definite.
template <int kThreads>
__device__ bool FactorPacked(double* a, int m) {
  const int x = static_cast<int>(threadIdx.x) % 16, y = static_cast<int>(threadIdx.x) / 16;
  for (int j = 0; j < m; ++j) {
    const double pivot = a[Packed(j, j)];
    if (!(pivot > 0.0) || !(pivot < 1e300)) return false;  // the same for every thread
    const double root = sqrt(pivot);
    __syncthreads();
    for (int i = j + static_cast<int>(threadIdx.x); i < m; i += kThreads) {
      a[Packed(i, j)] = i == j ? root : a[Packed(i, j)] / root;
    }
    __syncthreads();
    for (int i = j + 1 + y; i < m; i += kThreads / 16) {
      const double left = a[Packed(i, j)];
      for (int k = j + 1 + x; k <= i; k += 16) a[Packed(i, k)] -= left * a[Packed(k, j)];
    }
    __syncthreads();
  }
  return true;
}

// b := (L L^T)^-1 b.
template <int kThreads>
__device__ void SolvePacked(const double* a, int m, double* b) {
  for (int j = 0; j < m; ++j) {
    if (threadIdx.x == 0) b[j] /= a[Packed(j, j)];
    __syncthreads();
    for (int i = j + 1 + static_cast<int>(threadIdx.x); i < m; i += kThreads) {
      b[i] -= a[Packed(i, j)] * b[j];
    }
    __syncthreads();
  }
  for (int j = m - 1; j >= 0; --j) {
    if (threadIdx.x == 0) b[j] /= a[Packed(j, j)];
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < j; i += kThreads) {
      b[i] -= a[Packed(j, i)] * b[j];
    }
    __syncthreads();
  }
}

__device__ __forceinline__ float RoundToHalf(float x) {
  return __half2float(__float2half_rn(fminf(fmaxf(x, -65504.0f), 65504.0f)));
}

// Adds x to the scales of one group of a row; x becomes what was really added. Rounding is the
// packer's: scales to fp16, and of an offset z the zeta = z - sum |alpha|.
__device__ void MoveScales(const WidthState& s, int64_t row, int64_t group, bool round, double* x) {
  const int64_t at = row * s.groups + group;
  const int planes = s.free_scales ? s.q : 1;
  float* scale = s.scale + at * planes;
  float low = 0.0f, low_rounded = 0.0f;
  for (int i = 0; i < planes; ++i) {
    const float before = scale[i], exact = before + static_cast<float>(x[i]);
    const float after = round ? RoundToHalf(exact) : exact;
    float units = 1.0f;
    if (!s.free_scales) {
      units = 0.0f;
      for (int p = 0; p < s.q; ++p) units += s.units.set[s.set[at] & 7][p];
    }
    low += units * fabsf(exact);
    low_rounded += units * fabsf(after);
    scale[i] = after;
    x[i] = static_cast<double>(after) - before;
  }
  if (!s.has_offset) return;
  const float before = s.offset[at], exact = before + static_cast<float>(x[planes]);
  const float after = round ? RoundToHalf(exact - low) + low_rounded : exact;
  s.offset[at] = after;
  x[planes] = static_cast<double>(after) - before;
}

// A block solves a row.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) SolveKernel(const __grid_constant__ RefitWork work) {
  const WidthState& s = work.state;
  const int unknowns = s.unknowns(), m = static_cast<int>(s.groups) * unknowns;
  double* room = reinterpret_cast<double*>(DynamicShared());  // [kThreads]
  double* x = room + kThreads;                                // [m]
  const int64_t local = blockIdx.x;
  double* a =
      m <= kSharedUnknowns ? x + m : work.scratch + local * (static_cast<int64_t>(m) * (m + 1) / 2);
  const float* gram = work.gram + local * m * m;
  const float* rhs = work.rhs + local * m;
  double diagonal = 0.0;
  for (int i = static_cast<int>(threadIdx.x); i < m; i += kThreads) {
    diagonal += gram[static_cast<int64_t>(i) * m + i];
    x[i] = rhs[i];
  }
  const double ridge = kRidge * BlockSum<kThreads>(diagonal, room) / m;
  for (int i = static_cast<int>(threadIdx.x) / 32; i < m; i += kThreads / 32) {
    for (int j = static_cast<int>(threadIdx.x) % 32; j <= i; j += 32) {
      a[Packed(i, j)] = gram[static_cast<int64_t>(i) * m + j] + (i == j ? ridge : 0.0);
    }
  }
  __syncthreads();
  bool good = FactorPacked<kThreads>(a, m);
  __syncthreads();
  if (good) {
    SolvePacked<kThreads>(a, m, x);
    double bad = 0.0;
    for (int i = static_cast<int>(threadIdx.x); i < m; i += kThreads) {
      bad += fabs(x[i]) < 1e30 ? 0.0 : 1.0;
    }
    good = BlockSum<kThreads>(bad, room) == 0.0;
  }
  if (!good) {
    for (int i = static_cast<int>(threadIdx.x); i < m; i += kThreads) x[i] = 0.0;
  }
  __syncthreads();
  for (int g = static_cast<int>(threadIdx.x); g < s.groups; g += kThreads) {
    MoveScales(s, work.first + local, g, work.round_to_half, x + g * unknowns);
  }
  __syncthreads();
  if (s.loss == nullptr) return;
  double change = 0.0;  // of the loss: x^T Gram x - 2 x^T rhs
  for (int i = static_cast<int>(threadIdx.x); i < m; i += kThreads) {
    double across = 0.5 * gram[static_cast<int64_t>(i) * m + i] * x[i] - rhs[i];
    for (int j = 0; j < i; ++j) across += gram[static_cast<int64_t>(i) * m + j] * x[j];
    change += 2.0 * x[i] * across;
  }
  change = BlockSum<kThreads>(change, room);
  if (threadIdx.x == 0) {
    s.loss[work.first + local] = static_cast<float>(work.loss[local] + change);
  }
}

}  // namespace

cudaError_t LaunchDesign(const RefitWork& work, cudaStream_t stream) {
  return Launch(DesignKernel, dim3(static_cast<unsigned>(work.rows)), kDesignThreads,
                static_cast<size_t>(work.state.groups) * 4, stream, work);
}

cudaError_t LaunchGram(const RefitWork& work, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(work.state.groups),
                  static_cast<unsigned>((work.rows + kTile - 1) / kTile));
  DeviceLimits device;
  if (const cudaError_t error = CurrentDevice(&device); error != cudaSuccess) return error;
  const int shared = device.major == 9 ? kWideGramBytes : kGramBytes;
  const auto kernel = work.state.unknowns() == 1 ? GramKernel<true> : GramKernel<false>;
  return Launch(kernel, grid, kTileThreads, shared, stream, work);
}

cudaError_t LaunchGramRow(const RefitWork& work, int64_t g, int u, const float* y,
                          cudaStream_t stream) {
  const int64_t tasks = work.rows * (g + 1);
  return Launch(GramRowKernel,
                dim3(static_cast<unsigned>((tasks + kDesignWarps - 1) / kDesignWarps)),
                kDesignThreads, 0, stream, work, g, u, y);
}

cudaError_t LaunchSolve(const RefitWork& work, cudaStream_t stream) {
  const size_t m = static_cast<size_t>(work.state.groups) * work.state.unknowns();
  const int threads = m <= kSmallSystem ? kSmallThreads : kLargeThreads;
  const size_t doubles = threads + m + (m <= kSharedUnknowns ? m * (m + 1) / 2 : 0);
  const auto kernel = m <= kSmallSystem ? SolveKernel<kSmallThreads> : SolveKernel<kLargeThreads>;
  return Launch(kernel, dim3(static_cast<unsigned>(work.rows)), threads, doubles * 8, stream, work);
}

}  // namespace shiftadd::kernels::quantize
