// Fits one group of inputs for all rows of several layers and widths in one launch: weighted start,
// T_in rounds of OPTQ rounding and refit in the group's metric, and the error that the groups after
// it compensate. A block takes rows of one fit; U_GG and R_GG lie in shared memory, weights and
// accumulators in registers.
#include <algorithm>

#include "kernels/cuda/quantize/group_start.h"
#include "kernels/cuda/quantize/launches.h"
#include "kernels/cuda/quantize/shift_grids.h"

namespace shiftadd::kernels::quantize {
namespace {

struct FitBatch {
  CudaGroupFit fits[kCudaFitsPerLaunch];
  int first_block[kCudaFitsPerLaunch + 1];
  int count = 0;
  int rounds = 0, inner_rounds = 0;
  ShiftGrids grids;
};

// A block's shared memory.
template <int C, bool kTuned>
struct FitShared {
  static constexpr int kColumns = C * kRowLanes;
  static constexpr int kChunkStride = 2 * 32 + 8;  // floats a row: 32 inputs, two numbers each
  static constexpr int kWarpBytes = kWarpRows * kChunkStride * 4 + LevelTables<kTuned>::kBytes;
  static constexpr int kBlockBytes = 4 * (2 * kColumns * kColumns + 3 * kColumns);
  static constexpr int Bytes(int warps) { return kBlockBytes + warps * kWarpBytes; }

  float *u, *r, *inverse, *omega, *r_sum;  // inverse: of U's diagonal; r_sum: column sums of R
  float* chunk;                            // the warp's
  LevelTables<kTuned> tables;              // the warp's

  __device__ explicit FitShared(int warp) {
    u = reinterpret_cast<float*>(DynamicShared());
    r = u + kColumns * kColumns;
    inverse = r + kColumns * kColumns;
    omega = inverse + kColumns;
    r_sum = omega + kColumns;
    char* mine = reinterpret_cast<char*>(r_sum + kColumns) + warp * kWarpBytes;
    chunk = reinterpret_cast<float*>(mine);
    tables.base = mine + kWarpRows * kChunkStride * 4;
  }

  __device__ void Load(const CudaGroupFit& fit) {
    const int size = static_cast<int>(fit.size);
    LoadBlock<kColumns>(fit.u, fit.ldu, size, u);
    LoadBlock<kColumns>(fit.r, fit.ldr, size, r);
    __syncthreads();
    for (int j = static_cast<int>(threadIdx.x); j < kColumns; j += static_cast<int>(blockDim.x)) {
      const float diagonal = u[j * kColumns + ColumnAt(j)];
      inverse[j] = j < size ? 1.0f / diagonal : 0.0f;
      float squares = 0.0f, sum = 0.0f;
      for (int i = 0; i < kColumns; ++i) {
        const float across = r[j * kColumns + (i + j) % kColumns];  // off each other's banks
        squares += across * across;
        sum += r[i * kColumns + j];
      }
      omega[ColumnAt(j)] = squares;
      r_sum[j] = sum;  // j is a place, as ColumnAt gives it
    }
    __syncthreads();
  }
};

// out += x R for V vectors x of kGroups row sets; `fill(m, values)` gives input m of this lane:
// values[row][v]. Inputs pass through the warp's chunk 32 at a time.
template <int V, int C, bool kTuned, int kRowSets, class Fill>
__device__ __forceinline__ void MultiplyR(const LanePlace& place,
                                          const FitShared<C, kTuned>& shared, const Fill& fill,
                                          float (&out)[kRowSets][V][C]) {
  static_assert(V <= 2);
  constexpr int kColumns = C * kRowLanes, kStride = FitShared<C, kTuned>::kChunkStride;
#pragma unroll
  for (int quad = 0; quad < C / 4; ++quad) {
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float values[kRowSets][V];
      fill(quad * 4 + i, values);
#pragma unroll
      for (int s = 0; s < kRowSets; ++s) {
        float* to = shared.chunk + place.row(s) * kStride + (i * kRowLanes + place.lane8) * V;
#pragma unroll
        for (int v = 0; v < V; ++v) to[v] = values[s][v];
      }
    }
    __syncwarp();
    const float* row = shared.r + quad * 32 * kColumns + place.lane8 * 4;
#pragma unroll 2
    for (int k = 0; k < 32; ++k, row += kColumns) {
      float x[kRowSets][V];
#pragma unroll
      for (int s = 0; s < kRowSets; ++s) {
        const float* from = shared.chunk + place.row(s) * kStride + k * V;
#pragma unroll
        for (int v = 0; v < V; ++v) x[s][v] = from[v];
      }
#pragma unroll
      for (int later = quad; later < C / 4; ++later) {
        const float4 r = *reinterpret_cast<const float4*>(row + later * 32);
#pragma unroll
        for (int s = 0; s < kRowSets; ++s) {
#pragma unroll
          for (int v = 0; v < V; ++v) {
            out[s][v][later * 4] += x[s][v] * r.x;
            out[s][v][later * 4 + 1] += x[s][v] * r.y;
            out[s][v][later * 4 + 2] += x[s][v] * r.z;
            out[s][v][later * 4 + 3] += x[s][v] * r.w;
          }
        }
      }
    }
  }
}

// The same for the q planes of one row's codes and its error, unpacked from the chunk.
template <int Q, int C, bool kTuned>
__device__ __forceinline__ void MultiplyPlanes(const LanePlace& place, int r, int q,
                                               const FitShared<C, kTuned>& shared,
                                               const float (&error)[C],
                                               const CodeWords<Q, C>& codes,
                                               float (&planes)[Width<Q>::kPlanes][C],
                                               float (&d)[C]) {
  constexpr int kColumns = C * kRowLanes, kStride = FitShared<C, kTuned>::kChunkStride;
#pragma unroll
  for (int quad = 0; quad < C / 4; ++quad) {
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float* to = shared.chunk + place.row(r) * kStride + (i * kRowLanes + place.lane8) * 2;
      to[0] = error[quad * 4 + i];
      to[1] = __uint_as_float(static_cast<unsigned>(codes.Get(quad * 4 + i)));
    }
    __syncwarp();
    const float* row = shared.r + quad * 32 * kColumns + place.lane8 * 4;
    for (int k = 0; k < 32; ++k, row += kColumns) {
      const float* from = shared.chunk + place.row(r) * kStride + k * 2;
      const float e = from[0];
      const int code = static_cast<int>(__float_as_uint(from[1]));
#pragma unroll
      for (int later = quad; later < C / 4; ++later) {
        const float4 four = *reinterpret_cast<const float4*>(row + later * 32);
        const float value[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          d[later * 4 + c] += e * value[c];
#pragma unroll
          for (int i = 0; i < Width<Q>::kPlanes; ++i) {
            if (i < q) planes[i][later * 4 + c] += Sign(code, i) * value[c];
          }
        }
      }
    }
  }
}

// Everything a warp does for its eight rows.
template <int Q, bool kShift, int C, bool kTuned>
class GroupSolver {
 public:
  static constexpr int kColumns = C * kRowLanes;
  using Scales = RowScales<Q, kShift>;
  using Codes = CodeWords<Q, C>;

  __device__ GroupSolver(const FitBatch& batch, const CudaGroupFit& fit, int64_t first_row)
      : batch_(batch),
        fit_(fit),
        place_(MyPlace()),
        shared_(place_.warp),
        q_(Q == 0 ? fit.q : Q),
        offset_(fit.offset != nullptr),
        first_row_(first_row + place_.warp * kWarpRows) {}

  __device__ void Run() {
    shared_.Load(fit_);
    LoadWeights();
    Scales scales[kRows], best[kRows];
    Start(scales);
    Codes best_codes[kRows];
    float best_loss[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) best_loss[r] = kInfinity;
    for (int t = 0; t < batch_.inner_rounds; ++t) {
      Codes at[kRows];  // places in the level table
      Round(scales, at);
#pragma unroll
      for (int r = 0; r < kRows; ++r) codes_[r] = Codes();
#pragma unroll
      for (int m = 0; m < C; ++m) {
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          codes_[r].Put(m, shared_.tables.code(place_.row(r))[at[r].Get(m)]);
        }
      }
      float loss[kRows];
      Refit(at, scales, loss);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (t > 0 && !(loss[r] < best_loss[r])) continue;
        best_loss[r] = loss[r];
        best[r] = scales[r];
        best_codes[r] = codes_[r];
      }
    }
    Store(best, best_codes, best_loss);
  }

 private:
  __device__ int64_t Row(int r) const { return first_row_ + place_.row(r); }

  __device__ void LoadWeights() {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const bool inside = Row(r) < fit_.n;
      const float* from = fit_.w + (inside ? Row(r) : 0) * fit_.ldw;
#pragma unroll
      for (int m = 0; m < C; ++m) {
        const int c = m * kRowLanes + place_.lane8;
        w_[r][m] = inside && c < fit_.size ? from[c] : 0.0f;
      }
    }
  }

  __device__ void Start(Scales (&scales)[kRows]) {
    const StartInput in = {shared_.omega, q_, batch_.rounds, offset_};
    if constexpr (kShift) {
      StartShift<Q, C>(place_, in, batch_.grids, w_, scales);
    } else {
      StartFree<Q, C, kTuned>(place_, in, batch_.grids, shared_.tables, w_, scales);
    }
  }

  __device__ void Levels(const Scales (&scales)[kRows]) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      BuildLevels<Q, kShift, kTuned, true>(place_, r, q_, scales[r], batch_.grids, shared_.tables);
    }
  }

  // OPTQ inside the group.
  __device__ void Round(const Scales (&scales)[kRows], Codes (&at)[kRows]) {
    Levels(scales);
    const LevelSearch<Q, kTuned> search(place_, q_, shared_.tables);
    float v[kRows][C];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int m = 0; m < C; ++m) v[r][m] = w_[r][m];
    }
    const float* level[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) level[r] = shared_.tables.level(place_.row(r));
    const float* inverse = shared_.inverse;
#pragma unroll
    for (int quad = 0; quad < C / 4; ++quad) {
      const float* u = shared_.u + quad * 32 * kColumns + place_.lane8 * 4;
#pragma unroll 1
      for (int i = 0; i < 4; ++i) {  // not unrolled: the instruction cache is small
#pragma unroll 1
        for (int l = 0; l < kRowLanes;
             ++l, u += kColumns, ++inverse) {  // input quad * 32 + i * 8 + l
          float e[kRows];
#pragma unroll
          for (int r = 0; r < kRows; ++r) {
            const float value =
                __shfl_sync(kAllLanes, PickOf4(&v[r][quad * 4], i), place_.slot * kRowLanes + l);
            const int found = search.Find(r, value);
            e[r] = (value - level[r][found]) * *inverse;
            if (place_.lane8 == l) at[r].PutInQuad(quad, i, found);
          }
#pragma unroll
          for (int later = quad; later < C / 4; ++later) {
            const float4 four = *reinterpret_cast<const float4*>(u + later * 32);
#pragma unroll
            for (int r = 0; r < kRows; ++r) {
              v[r][later * 4] -= e[r] * four.x;
              v[r][later * 4 + 1] -= e[r] * four.y;
              v[r][later * 4 + 2] -= e[r] * four.z;
              v[r][later * 4 + 3] -= e[r] * four.w;
            }
          }
        }
      }
    }
  }

  // With the codes fixed, moves the scales to the least loss in the group's metric.
  __device__ void Refit(const Codes (&at)[kRows], Scales (&scales)[kRows], float (&loss)[kRows]) {
    if constexpr (kShift) {
      RefitShift(at, scales, loss);
    } else {
#pragma unroll
      for (int r = 0; r < kRows; ++r) RefitFree(r, at[r], &scales[r], &loss[r]);
    }
  }

  __device__ void RefitShift(const Codes (&at)[kRows], Scales (&scales)[kRows],
                             float (&loss)[kRows]) {
    float product[kRows][2][C];  // of the error and of the codes in units of s
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int m = 0; m < C; ++m) product[r][0][m] = product[r][1][m] = 0.0f;
    }
    MultiplyR<2, C, kTuned, kRows>(
        place_, shared_,
        [&](int m, float(&values)[kRows][2]) {
#pragma unroll
          for (int r = 0; r < kRows; ++r) {
            const int found = at[r].Get(m), row = place_.row(r);
            values[r][0] = w_[r][m] - shared_.tables.level(row)[found];
            values[r][1] = shared_.tables.unit(row)[found];
          }
        },
        product);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      float(&d)[C] = product[r][0];
      const float(&p)[C] = product[r][1];
      float pp = 0.0f, pd = 0.0f, ones[C], p1 = 0.0f, one1 = 0.0f, d1 = 0.0f;
#pragma unroll
      for (int m = 0; m < C; ++m) {
        pp += p[m] * p[m];
        pd += p[m] * d[m];
      }
      double a[2][2] = {{RowSum(pp), 0.0}, {0.0, 0.0}}, x[2] = {RowSum(pd), 0.0};
      double mean = a[0][0];
      if (offset_) {
        LoadOmega<C>(place_, shared_.r_sum, ones);  // the same layout
#pragma unroll
        for (int m = 0; m < C; ++m) {
          p1 += p[m] * ones[m];
          one1 += ones[m] * ones[m];
          d1 += d[m] * ones[m];
        }
        a[1][0] = RowSum(p1);
        a[1][1] = RowSum(one1);
        x[1] = RowSum(d1);
        mean = 0.5 * (a[0][0] + a[1][1]);
      }
      a[0][0] += kRefitRidge * mean;
      a[1][1] += kRefitRidge * mean;
      SolveSmall<2>(offset_ ? 2 : 1, a, x);
      const float ds = static_cast<float>(x[0]), dz = static_cast<float>(x[1]);
      float sum = 0.0f;
      scales[r].alpha[0] += ds;
      if (offset_) {
        scales[r].z += dz;
#pragma unroll
        for (int m = 0; m < C; ++m) d[m] -= dz * ones[m];
      }
#pragma unroll
      for (int m = 0; m < C; ++m) {
        d[m] -= ds * p[m];
        sum += d[m] * d[m];
      }
      loss[r] = RowSum(sum);
    }
  }

  __device__ void RefitFree(int r, const Codes& at, Scales* scales, float* loss) {
    constexpr int kPlanes = Width<Q>::kPlanes, kMax = kPlanes + 1;
    float p[kPlanes][C], d[C], error[C], ones[C];
    const float* level = shared_.tables.level(place_.row(r));
#pragma unroll
    for (int m = 0; m < C; ++m) {
      error[m] = w_[r][m] - level[at.Get(m)];
      d[m] = 0.0f;
#pragma unroll
      for (int i = 0; i < kPlanes; ++i) p[i][m] = 0.0f;
    }
    MultiplyPlanes<Q, C, kTuned>(place_, r, q_, shared_, error, codes_[r], p, d);
    LoadOmega<C>(place_, shared_.r_sum, ones);
    const int unknowns = q_ + (offset_ ? 1 : 0);
    double a[kMax][kMax], x[kMax], mean = 0.0;
#pragma unroll
    for (int i = 0; i < kMax; ++i) {
      x[i] = 0.0;
      if (i >= unknowns) continue;
      const bool last = i == q_;
      const float(&row)[C] = last ? ones : p[i < kPlanes ? i : 0];
      float dot = 0.0f;
#pragma unroll
      for (int m = 0; m < C; ++m) dot += row[m] * d[m];
      x[i] = RowSum(dot);
#pragma unroll
      for (int j = 0; j < kMax; ++j) {
        if (j > i) continue;
        const float(&other)[C] = j == q_ ? ones : p[j < kPlanes ? j : 0];
        dot = 0.0f;
#pragma unroll
        for (int m = 0; m < C; ++m) dot += row[m] * other[m];
        a[i][j] = RowSum(dot);
      }
      mean += a[i][i] / unknowns;
    }
#pragma unroll
    for (int i = 0; i < kMax; ++i) {
      if (i < unknowns) a[i][i] += kRefitRidge * mean;
    }
    SolveSmall<kMax>(unknowns, a, x);
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kMax; ++i) {
      if (i >= unknowns) continue;
      const float delta = static_cast<float>(x[i]);
      const float(&row)[C] = i == q_ ? ones : p[i < kPlanes ? i : 0];
      if (i == q_) {
        scales->z += delta;
      } else {
        scales->alpha[i < kPlanes ? i : 0] += delta;
      }
#pragma unroll
      for (int m = 0; m < C; ++m) d[m] -= delta * row[m];
    }
#pragma unroll
    for (int m = 0; m < C; ++m) sum += d[m] * d[m];
    *loss = RowSum(sum);
  }

  __device__ void Store(const Scales (&scales)[kRows], const Codes (&codes)[kRows],
                        const float (&loss)[kRows]) {
    if (fit_.e_hi != nullptr) StoreError(scales, codes);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (Row(r) >= fit_.n) continue;
      uint8_t* to = fit_.codes + Row(r) * fit_.ldcodes;
#pragma unroll
      for (int m = 0; m < C; ++m) {
        const int c = m * kRowLanes + place_.lane8;
        if (c < fit_.size) to[c] = static_cast<uint8_t>(codes[r].Get(m));
      }
      if (place_.lane8 != 0) continue;
      const int64_t at = Row(r) * fit_.groups;
      if constexpr (kShift) {
        fit_.scale[at] = scales[r].alpha[0];
        fit_.set[at] = static_cast<uint8_t>(scales[r].set);
      } else {
#pragma unroll
        for (int i = 0; i < Width<Q>::kPlanes; ++i) {
          if (i < q_) fit_.scale[at * q_ + i] = scales[r].alpha[i];
        }
      }
      if (offset_) fit_.offset[at] = scales[r].z;
      if (fit_.loss != nullptr) fit_.loss[Row(r)] += loss[r];
    }
  }

  // (w - w^) R_GG.
  __device__ void StoreError(const Scales (&scales)[kRows], const Codes (&codes)[kRows]) {
    float product[kRows][1][C];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int m = 0; m < C; ++m) product[r][0][m] = 0.0f;
    }
    // Levels by code, unsorted.
    __syncwarp();
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      for (int c = place_.lane8; c < 1 << q_; c += kRowLanes) {
        float unit;
        shared_.tables.level(place_.row(r))[c] =
            LevelOf<Q, kShift>(c, q_, scales[r], batch_.grids, &unit);
      }
    }
    __syncwarp();
    MultiplyR<1, C, kTuned, kRows>(
        place_, shared_,
        [&](int m, float(&values)[kRows][1]) {
#pragma unroll
          for (int r = 0; r < kRows; ++r) {
            values[r][0] = w_[r][m] - shared_.tables.level(place_.row(r))[codes[r].Get(m)];
          }
        },
        product);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const bool inside = Row(r) < fit_.n;
      const int64_t row = inside ? Row(r) : 0;
      StoreSplit<C>(place_, product[r][0], inside ? static_cast<int>(fit_.size) : 0,
                    static_cast<__half*>(fit_.e_hi) + row * fit_.lde,
                    static_cast<__half*>(fit_.e_lo) + row * fit_.lde,
                    fit_.e_scale + row * fit_.lde_scale);
    }
  }

  const FitBatch& batch_;
  const CudaGroupFit& fit_;
  const LanePlace place_;
  FitShared<C, kTuned> shared_;
  const int q_;
  const bool offset_;
  const int64_t first_row_;
  float w_[kRows][C];
  Codes codes_[kRows];
};

template <bool kShift, int C, bool kTuned>
__global__ void __launch_bounds__(BlockShape<kTuned>::kWarps * 32, 1)
    FitKernel(const __grid_constant__ FitBatch batch) {
  int index = 0;
  while (static_cast<int>(blockIdx.x) >= batch.first_block[index + 1]) ++index;
  const CudaGroupFit& fit = batch.fits[index];
  const int64_t rows = static_cast<int64_t>(blockDim.x) / 32 * kWarpRows;
  const int64_t first = (static_cast<int64_t>(blockIdx.x) - batch.first_block[index]) * rows;
  if constexpr (!kTuned) {
    GroupSolver<0, kShift, C, false>(batch, fit, first).Run();
  } else if (fit.q == 2) {
    GroupSolver<2, kShift, C, true>(batch, fit, first).Run();
  } else if (fit.q == 3) {
    GroupSolver<3, kShift, C, true>(batch, fit, first).Run();
  } else {
    GroupSolver<4, kShift, C, true>(batch, fit, first).Run();
  }
}

template <bool kShift, int C, bool kTuned>
cudaError_t LaunchBatch(FitBatch* batch, const DeviceLimits& device, cudaStream_t stream) {
  if (batch->count == 0) return cudaSuccess;
  const int most = WarpsThatFit(BlockShape<kTuned>::kWarps, FitShared<C, kTuned>::Bytes(0),
                                FitShared<C, kTuned>::Bytes(1) - FitShared<C, kTuned>::Bytes(0),
                                device.shared_bytes);
  if (most == 0) return cudaErrorNotSupported;
  int64_t tiles = 0;  // of one warp
  for (int i = 0; i < batch->count; ++i) tiles += (batch->fits[i].n + kWarpRows - 1) / kWarpRows;
  const int warps = WarpsPerBlock(tiles, most, device.multiprocessors);
  batch->first_block[0] = 0;
  for (int i = 0; i < batch->count; ++i) {
    const int64_t rows = warps * kWarpRows;
    batch->first_block[i + 1] =
        batch->first_block[i] + static_cast<int>((batch->fits[i].n + rows - 1) / rows);
  }
  return Launch(FitKernel<kShift, C, kTuned>, dim3(batch->first_block[batch->count]), warps * 32,
                FitShared<C, kTuned>::Bytes(warps), stream, *batch);
}

template <bool kTuned>
cudaError_t LaunchKind(bool shift, bool small, FitBatch* batch, const DeviceLimits& device,
                       cudaStream_t stream) {
  if (shift && small) return LaunchBatch<true, 8, kTuned>(batch, device, stream);
  if (shift) return LaunchBatch<true, 16, kTuned>(batch, device, stream);
  if (small) return LaunchBatch<false, 8, kTuned>(batch, device, stream);
  return LaunchBatch<false, 16, kTuned>(batch, device, stream);
}

}  // namespace

cudaError_t LaunchGroupFits(const CudaQuantizeRecipe& recipe, const CudaGroupFit* fits, int count,
                            cudaStream_t stream) {
  DeviceLimits device;
  if (const cudaError_t error = CurrentDevice(&device); error != cudaSuccess) {
    return error;
  }
  const ShiftGrids grids = MakeShiftGrids();
  for (const bool tuned : {true, false}) {
    for (int next = 0; next < count;) {
      FitBatch batch;
      batch.rounds = recipe.rounds;
      batch.inner_rounds = std::max(recipe.inner_rounds, 1);
      batch.grids = grids;
      bool small = true;
      for (; next < count && batch.count < kCudaFitsPerLaunch; ++next) {
        if ((fits[next].q >= 2 && fits[next].q <= 4) != tuned) continue;
        batch.fits[batch.count++] = fits[next];
        small = small && fits[next].size <= 64;
      }
      // The long ones first: the last wave is then the shortest.
      std::stable_sort(batch.fits, batch.fits + batch.count,
                       [](const CudaGroupFit& a, const CudaGroupFit& b) { return a.q > b.q; });
      const bool shift = !recipe.free_scales;
      const cudaError_t error = tuned ? LaunchKind<true>(shift, small, &batch, device, stream)
                                      : LaunchKind<false>(shift, small, &batch, device, stream);
      if (error != cudaSuccess) return error;
    }
  }
  return cudaSuccess;
}

}  // namespace shiftadd::kernels::quantize
