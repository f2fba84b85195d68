// One group of one sweep of coordinate descent, for all rows of several layers and widths: every
// input in turn takes the level that is best given all others, and the residual (w - w^) H of the
// group's later inputs follows. The change of the weights goes out, for the residual of the rest.
#include <algorithm>

#include "kernels/cuda/quantize/launches.h"
#include "kernels/cuda/quantize/piece_shared.h"
#include "kernels/cuda/quantize/row_lanes.h"
#include "kernels/cuda/quantize/shift_grids.h"

namespace shiftadd::kernels::quantize {
namespace {

struct DescentBatch {
  GroupDescent groups[kMaxCudaWidths];
  int first_block[kMaxCudaWidths + 1];
  int count = 0;
  ShiftGrids grids;
};

template <int Q, bool kShift, int C, bool kTuned>
class Descender {
 public:
  static constexpr int kColumns = C * kRowLanes;

  __device__ Descender(const DescentBatch& batch, const GroupDescent& group, int64_t first_row)
      : batch_(batch),
        group_(group),
        place_(MyPlace()),
        shared_(place_.warp),
        q_(Q == 0 ? group.q : Q),
        first_row_(first_row + place_.warp * kWarpRows) {}

  __device__ void Run() {
    shared_.Load(group_.h, group_.ldh, static_cast<int>(group_.size));
    LoadRows();
    const LevelSearch<Q, kTuned> search(place_, q_, shared_.tables);
    const float* level[kRows];
    CodeWords<Q, C> at[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) level[r] = shared_.tables.level(place_.row(r));
    const float* inverse = shared_.inverse;
#pragma unroll
    for (int quad = 0; quad < C / 4; ++quad) {
      const float* h = shared_.square + quad * 32 * kColumns + place_.lane8 * 4;
#pragma unroll 1
      for (int i = 0; i < 4; ++i) {  // not unrolled: the instruction cache is small
#pragma unroll 1
        for (int l = 0; l < kRowLanes;
             ++l, h += kColumns, ++inverse) {  // input quad * 32 + i * 8 + l
          float delta[kRows];
#pragma unroll
          for (int r = 0; r < kRows; ++r) {
            const int owner = place_.slot * kRowLanes + l;
            const float residual =
                __shfl_sync(kAllLanes, PickOf4(&residual_[r][quad * 4], i), owner);
            const float old = __shfl_sync(kAllLanes, PickOf4(&old_[r][quad * 4], i), owner);
            const int found = search.Find(r, old + residual * *inverse);
            delta[r] = level[r][found] - old;
            if (place_.lane8 == l) at[r].PutInQuad(quad, i, found);
          }
#pragma unroll
          for (int later = quad; later < C / 4; ++later) {
            const float4 four = *reinterpret_cast<const float4*>(h + later * 32);
#pragma unroll
            for (int r = 0; r < kRows; ++r) {
              residual_[r][later * 4] -= delta[r] * four.x;
              residual_[r][later * 4 + 1] -= delta[r] * four.y;
              residual_[r][later * 4 + 2] -= delta[r] * four.z;
              residual_[r][later * 4 + 3] -= delta[r] * four.w;
            }
          }
        }
      }
    }
    Store(at);
  }

 private:
  __device__ int64_t Row(int r) const { return first_row_ + place_.row(r); }

  // Level tables, residuals and the weights that the codes stand for.
  __device__ void LoadRows() {
    RowScales<Q, kShift>(&scales)[kRows] = scales_;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int64_t row = Row(r) < group_.n ? Row(r) : 0;
      const int64_t at = row * group_.groups;
      if constexpr (kShift) {
        scales[r].alpha[0] = group_.scale[at];
        scales[r].set = group_.set[at];
      } else {
#pragma unroll
        for (int i = 0; i < Width<Q>::kPlanes; ++i) {
          if (i < q_) scales[r].alpha[i] = group_.scale[at * q_ + i];
        }
      }
      if (group_.offset != nullptr) scales[r].z = group_.offset[at];
      const uint8_t* codes = group_.codes + row * group_.ldcodes;
#pragma unroll
      for (int m = 0; m < C; ++m) {
        const int c = m * kRowLanes + place_.lane8;
        const bool inside = Row(r) < group_.n && c < group_.size;
        residual_[r][m] = inside ? group_.residual[row * group_.ld + c] : 0.0f;
        const int code = inside ? codes[c] & ((1 << q_) - 1) : 0;
        float unit;
        old_[r][m] = LevelOf<Q, kShift>(code, q_, scales[r], batch_.grids, &unit);
      }
      BuildLevels<Q, kShift, kTuned, true>(place_, r, q_, scales[r], batch_.grids, shared_.tables);
    }
  }

  __device__ void Store(const CodeWords<Q, C> (&at)[kRows]) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const bool inside = Row(r) < group_.n;
      const int64_t row = inside ? Row(r) : 0;
      const int size = inside ? static_cast<int>(group_.size) : 0;
      [[maybe_unused]] const float* level = shared_.tables.level(place_.row(r));
      const uint8_t* code_of = shared_.tables.code(place_.row(r));
      uint8_t* codes = group_.codes + row * group_.ldcodes;
      if constexpr (kShift) {
        // s times a difference of units, which fp16 holds exactly.
        const float* unit = shared_.tables.unit(place_.row(r));
#pragma unroll
        for (int m = 0; m < C; ++m) {
          const int c = m * kRowLanes + place_.lane8;
          if (c >= size) continue;
          float old;
          LevelOf<Q, kShift>(codes[c], q_, scales_[r], batch_.grids, &old);
          group_.delta_hi[row * group_.ldd + c] = __float2half_rn(unit[at[r].Get(m)] - old);
          codes[c] = code_of[at[r].Get(m)];
        }
        for (int chunk = place_.lane8; chunk * 32 < size; chunk += kRowLanes) {
          group_.delta_factor[row * group_.ld_factor + chunk] = scales_[r].alpha[0];
        }
      } else {
        float delta[C];
#pragma unroll
        for (int m = 0; m < C; ++m) {
          const int c = m * kRowLanes + place_.lane8;
          delta[m] = c < size ? level[at[r].Get(m)] - old_[r][m] : 0.0f;
          if (c < size) codes[c] = code_of[at[r].Get(m)];
        }
        StoreSplit<C>(place_, delta, size, group_.delta_hi + row * group_.ldd,
                      group_.delta_lo + row * group_.ldd,
                      group_.delta_factor + row * group_.ld_factor);
      }
    }
  }

  const DescentBatch& batch_;
  const GroupDescent& group_;
  const LanePlace place_;
  PieceShared<C, kTuned> shared_;
  const int q_;
  const int64_t first_row_;
  RowScales<Q, kShift> scales_[kRows];
  float residual_[kRows][C], old_[kRows][C];
};

template <bool kShift, int C, bool kTuned>
__global__ void __launch_bounds__(BlockShape<kTuned>::kWarps * 32, 1)
    DescentKernel(const __grid_constant__ DescentBatch batch) {
  int index = 0;
  while (static_cast<int>(blockIdx.x) >= batch.first_block[index + 1]) ++index;
  const GroupDescent& group = batch.groups[index];
  const int64_t rows = static_cast<int64_t>(blockDim.x) / 32 * kWarpRows;
  const int64_t first = (static_cast<int64_t>(blockIdx.x) - batch.first_block[index]) * rows;
  if constexpr (!kTuned) {
    Descender<0, kShift, C, false>(batch, group, first).Run();
  } else if (group.q == 2) {
    Descender<2, kShift, C, true>(batch, group, first).Run();
  } else if (group.q == 3) {
    Descender<3, kShift, C, true>(batch, group, first).Run();
  } else {
    Descender<4, kShift, C, true>(batch, group, first).Run();
  }
}

template <bool kShift, int C, bool kTuned>
cudaError_t LaunchBatch(DescentBatch* batch, const DeviceLimits& device, cudaStream_t stream) {
  if (batch->count == 0) return cudaSuccess;
  const int most = WarpsThatFit(BlockShape<kTuned>::kWarps, PieceShared<C, kTuned>::Bytes(0),
                                PieceShared<C, kTuned>::Bytes(1) - PieceShared<C, kTuned>::Bytes(0),
                                device.shared_bytes);
  if (most == 0) return cudaErrorNotSupported;
  int64_t tiles = 0;
  for (int i = 0; i < batch->count; ++i) tiles += (batch->groups[i].n + kWarpRows - 1) / kWarpRows;
  const int warps = WarpsPerBlock(tiles, most, device.multiprocessors);
  batch->first_block[0] = 0;
  for (int i = 0; i < batch->count; ++i) {
    const int64_t rows = warps * kWarpRows;
    batch->first_block[i + 1] =
        batch->first_block[i] + static_cast<int>((batch->groups[i].n + rows - 1) / rows);
  }
  return Launch(DescentKernel<kShift, C, kTuned>, dim3(batch->first_block[batch->count]),
                warps * 32, PieceShared<C, kTuned>::Bytes(warps), stream, *batch);
}

template <bool kTuned>
cudaError_t LaunchKind(bool shift, bool small, DescentBatch* batch, const DeviceLimits& device,
                       cudaStream_t stream) {
  if (shift && small) return LaunchBatch<true, 8, kTuned>(batch, device, stream);
  if (shift) return LaunchBatch<true, 16, kTuned>(batch, device, stream);
  if (small) return LaunchBatch<false, 8, kTuned>(batch, device, stream);
  return LaunchBatch<false, 16, kTuned>(batch, device, stream);
}

}  // namespace

cudaError_t LaunchDescents(bool free_scales, const GroupDescent* groups, int count,
                           cudaStream_t stream) {
  DeviceLimits device;
  if (const cudaError_t error = CurrentDevice(&device); error != cudaSuccess) {
    return error;
  }
  for (const bool tuned : {true, false}) {
    DescentBatch batch;
    batch.grids = MakeShiftGrids();
    bool small = true;
    for (int i = 0; i < count && batch.count < kMaxCudaWidths; ++i) {
      if ((groups[i].q >= 2 && groups[i].q <= 4) != tuned) continue;
      batch.groups[batch.count++] = groups[i];
      small = small && groups[i].size <= 64;
    }
    std::stable_sort(batch.groups, batch.groups + batch.count,
                     [](const GroupDescent& a, const GroupDescent& b) { return a.q > b.q; });
    const cudaError_t error = tuned
                                  ? LaunchKind<true>(!free_scales, small, &batch, device, stream)
                                  : LaunchKind<false>(!free_scales, small, &batch, device, stream);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace shiftadd::kernels::quantize
