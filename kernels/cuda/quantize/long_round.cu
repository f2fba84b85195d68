// OPTQ along a piece of a group of more than 128 inputs, for all rows of several widths of a layer:
// the scales of the group are given, every input in turn takes its nearest level, and the later
// inputs of the piece compensate. What the inputs after the piece have to compensate goes out.
#include <algorithm>

#include "kernels/cuda/quantize/launches.h"
#include "kernels/cuda/quantize/piece_shared.h"
#include "kernels/cuda/quantize/shift_grids.h"

namespace shiftadd::kernels::quantize {
namespace {

struct RoundBatch {
  GroupRound pieces[kMaxCudaWidths];
  int first_block[kMaxCudaWidths + 1];
  int count = 0;
  ShiftGrids grids;
};

template <int Q, bool kShift, int C, bool kTuned>
class Rounder {
 public:
  static constexpr int kColumns = C * kRowLanes;

  __device__ Rounder(const RoundBatch& batch, const GroupRound& piece, int64_t first_row)
      : batch_(batch),
        piece_(piece),
        place_(MyPlace()),
        shared_(place_.warp),
        q_(Q == 0 ? piece.q : Q),
        first_row_(first_row + place_.warp * kWarpRows) {}

  __device__ void Run() {
    shared_.Load(piece_.u, piece_.ldu, static_cast<int>(piece_.size));
    LoadRows();
    const LevelSearch<Q, kTuned> search(place_, q_, shared_.tables);
    const float* level[kRows];
    CodeWords<Q, C> at[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) level[r] = shared_.tables.level(place_.row(r));
    const float* inverse = shared_.inverse;
#pragma unroll
    for (int quad = 0; quad < C / 4; ++quad) {
      const float* u = shared_.square + quad * 32 * kColumns + place_.lane8 * 4;
#pragma unroll 1
      for (int i = 0; i < 4; ++i) {  // not unrolled: the instruction cache is small
#pragma unroll 1
        for (int l = 0; l < kRowLanes;
             ++l, u += kColumns, ++inverse) {  // input quad * 32 + i * 8 + l
          float e[kRows];
#pragma unroll
          for (int r = 0; r < kRows; ++r) {
            const float value =
                __shfl_sync(kAllLanes, PickOf4(&v_[r][quad * 4], i), place_.slot * kRowLanes + l);
            const int found = search.Find(r, value);
            e[r] = (value - level[r][found]) * *inverse;
            if (place_.lane8 == l) {
              at[r].PutInQuad(quad, i, found);
#pragma unroll
              for (int m = 0; m < 4; ++m) {
                if (m == i) e_[r][quad * 4 + m] = e[r];
              }
            }
          }
#pragma unroll
          for (int later = quad; later < C / 4; ++later) {
            const float4 four = *reinterpret_cast<const float4*>(u + later * 32);
#pragma unroll
            for (int r = 0; r < kRows; ++r) {
              v_[r][later * 4] -= e[r] * four.x;
              v_[r][later * 4 + 1] -= e[r] * four.y;
              v_[r][later * 4 + 2] -= e[r] * four.z;
              v_[r][later * 4 + 3] -= e[r] * four.w;
            }
          }
        }
      }
    }
    Store(at);
  }

 private:
  __device__ int64_t Row(int r) const { return first_row_ + place_.row(r); }

  __device__ void LoadRows() {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const bool inside = Row(r) < piece_.n;
      const int64_t row = inside ? Row(r) : 0;
      RowScales<Q, kShift> scales;
      if constexpr (kShift) {
        scales.alpha[0] = piece_.scale[row];
        scales.set = piece_.set[row];
      } else {
#pragma unroll
        for (int i = 0; i < Width<Q>::kPlanes; ++i) {
          if (i < q_) scales.alpha[i] = piece_.scale[row * q_ + i];
        }
      }
      if (piece_.offset != nullptr) scales.z = piece_.offset[row];
#pragma unroll
      for (int m = 0; m < C; ++m) {
        const int c = m * kRowLanes + place_.lane8;
        v_[r][m] = inside && c < piece_.size ? piece_.w[row * piece_.ldw + c] : 0.0f;
        e_[r][m] = 0.0f;
      }
      BuildLevels<Q, kShift, kTuned, true>(place_, r, q_, scales, batch_.grids, shared_.tables);
    }
  }

  __device__ void Store(const CodeWords<Q, C> (&at)[kRows]) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const bool inside = Row(r) < piece_.n;
      const int64_t row = inside ? Row(r) : 0;
      const int size = inside ? static_cast<int>(piece_.size) : 0;
      const uint8_t* code_of = shared_.tables.code(place_.row(r));
#pragma unroll
      for (int m = 0; m < C; ++m) {
        const int c = m * kRowLanes + place_.lane8;
        if (c < size) piece_.codes[row * piece_.ldcodes + c] = code_of[at[r].Get(m)];
      }
      StoreSplit<C>(place_, e_[r], size, piece_.e_hi + row * piece_.lde,
                    piece_.e_lo + row * piece_.lde, piece_.e_factor + row * piece_.ld_factor);
    }
  }

  const RoundBatch& batch_;
  const GroupRound& piece_;
  const LanePlace place_;
  PieceShared<C, kTuned> shared_;
  const int q_;
  const int64_t first_row_;
  float v_[kRows][C], e_[kRows][C];
};

template <bool kShift, int C, bool kTuned>
__global__ void __launch_bounds__(BlockShape<kTuned>::kWarps * 32, 1)
    RoundKernel(const __grid_constant__ RoundBatch batch) {
  int index = 0;
  while (static_cast<int>(blockIdx.x) >= batch.first_block[index + 1]) ++index;
  const GroupRound& piece = batch.pieces[index];
  const int64_t rows = static_cast<int64_t>(blockDim.x) / 32 * kWarpRows;
  const int64_t first = (static_cast<int64_t>(blockIdx.x) - batch.first_block[index]) * rows;
  if constexpr (!kTuned) {
    Rounder<0, kShift, C, false>(batch, piece, first).Run();
  } else if (piece.q == 2) {
    Rounder<2, kShift, C, true>(batch, piece, first).Run();
  } else if (piece.q == 3) {
    Rounder<3, kShift, C, true>(batch, piece, first).Run();
  } else {
    Rounder<4, kShift, C, true>(batch, piece, first).Run();
  }
}

template <bool kShift, int C, bool kTuned>
cudaError_t LaunchBatch(RoundBatch* batch, const DeviceLimits& device, cudaStream_t stream) {
  using Shared = PieceShared<C, kTuned>;
  if (batch->count == 0) return cudaSuccess;
  const int most = WarpsThatFit(BlockShape<kTuned>::kWarps, Shared::Bytes(0),
                                Shared::Bytes(1) - Shared::Bytes(0), device.shared_bytes);
  if (most == 0) return cudaErrorNotSupported;
  int64_t tiles = 0;
  for (int i = 0; i < batch->count; ++i) tiles += (batch->pieces[i].n + kWarpRows - 1) / kWarpRows;
  const int warps = WarpsPerBlock(tiles, most, device.multiprocessors);
  const int64_t rows = warps * kWarpRows;
  batch->first_block[0] = 0;
  for (int i = 0; i < batch->count; ++i) {
    batch->first_block[i + 1] =
        batch->first_block[i] + static_cast<int>((batch->pieces[i].n + rows - 1) / rows);
  }
  return Launch(RoundKernel<kShift, C, kTuned>, dim3(batch->first_block[batch->count]), warps * 32,
                Shared::Bytes(warps), stream, *batch);
}

template <bool kTuned>
cudaError_t LaunchKind(bool shift, bool small, RoundBatch* batch, const DeviceLimits& device,
                       cudaStream_t stream) {
  if (shift && small) return LaunchBatch<true, 8, kTuned>(batch, device, stream);
  if (shift) return LaunchBatch<true, 16, kTuned>(batch, device, stream);
  if (small) return LaunchBatch<false, 8, kTuned>(batch, device, stream);
  return LaunchBatch<false, 16, kTuned>(batch, device, stream);
}

}  // namespace

cudaError_t LaunchRounds(bool free_scales, const GroupRound* pieces, int count,
                         cudaStream_t stream) {
  DeviceLimits device;
  if (const cudaError_t error = CurrentDevice(&device); error != cudaSuccess) return error;
  for (const bool tuned : {true, false}) {
    RoundBatch batch;
    batch.grids = MakeShiftGrids();
    bool small = true;
    for (int i = 0; i < count && batch.count < kMaxCudaWidths; ++i) {
      if ((pieces[i].q >= 2 && pieces[i].q <= 4) != tuned) continue;
      batch.pieces[batch.count++] = pieces[i];
      small = small && pieces[i].size <= 64;
    }
    std::stable_sort(batch.pieces, batch.pieces + batch.count,
                     [](const GroupRound& a, const GroupRound& b) { return a.q > b.q; });
    const cudaError_t error = tuned
                                  ? LaunchKind<true>(!free_scales, small, &batch, device, stream)
                                  : LaunchKind<false>(!free_scales, small, &batch, device, stream);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace shiftadd::kernels::quantize
