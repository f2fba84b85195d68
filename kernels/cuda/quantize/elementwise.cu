// fp16 pairs of H, U and of what is left to quantize.
#include <algorithm>
#include <cmath>

#include "kernels/cuda/quantize/elementwise.h"
#include "kernels/packed_matrix.h"

namespace shiftadd::kernels::quantize {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

__global__ void LargestKernel(const float* x, int64_t count, uint32_t* largest) {
  float mine = 0.0f;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count;
       i += stride) {
    mine = fmaxf(mine, fabsf(x[i]));
  }
#pragma unroll
  for (int mask = 1; mask < 32; mask *= 2) {
    mine = fmaxf(mine, __shfl_xor_sync(0xffffffffu, mine, mask));
  }
  if (threadIdx.x % 32 == 0) AtomicLargest(largest, __float_as_uint(mine));
}

__global__ void FillKernel(float* out, int64_t count, float value) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count) out[i] = value;
}

// A block takes 32 x 32 elements; through shared memory if transposed, so that both sides of the
// copy run along rows.
__global__ void SplitSquareKernel(const float* x, int64_t k, bool transpose,
                                  const uint32_t* largest, SplitMatrix out, float* factor) {
  float* tile = reinterpret_cast<float*>(DynamicShared());
  float up, down;
  PairScale(*largest, &up, &down);
  if (blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0) *factor = down;
  const int64_t row = static_cast<int64_t>(blockIdx.y) * 32;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int i = static_cast<int>(threadIdx.x) / 32; i < 32; i += kWarps) {
    const int64_t from_row = (transpose ? column : row) + i;
    const int64_t from_column = (transpose ? row : column) + lane;
    tile[i * 33 + lane] =
        from_row < k && from_column < k ? x[from_row * k + from_column] * up : 0.0f;
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x) / 32; i < 32; i += kWarps) {
    if (row + i >= k || column + lane >= out.ld) continue;
    const int64_t at = (row + i) * out.ld + column + lane;
    StorePair(tile[transpose ? lane * 33 + i : i * 33 + lane], out.hi + at, out.lo + at);
  }
}

// A warp takes 32 inputs of a row at a time.
__global__ void ErrorKernel(const __grid_constant__ WidthState s, SplitMatrix out, float* factor,
                            int64_t ld_factor) {
  const int64_t row = blockIdx.x;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int64_t chunk = threadIdx.x / 32; chunk * 32 < out.ld; chunk += kWarps) {
    const int64_t column = chunk * 32 + lane;
    float error = 0.0f;
    if (chunk * 32 < s.k) {  // groups are whole numbers of chunks
      const GroupWeights weights(s, row, chunk * 32 / s.group);
      if (column < s.k) {
        const int64_t at = row * s.k + column;
        error = s.w[at] - weights.Weight(weights.Unit(s.codes[at]));
      }
    }
    float largest = fabsf(error);
#pragma unroll
    for (int mask = 1; mask < 32; mask *= 2) {
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, mask));
    }
    float up, down;
    PairScale(__float_as_uint(largest), &up, &down);
    const int64_t at = row * out.ld + column;
    StorePair(error * up, out.hi + at, out.lo + at);
    if (lane == 0) factor[row * ld_factor + chunk] = down;
  }
}

}  // namespace

PlaneUnits MakePlaneUnits(int q) {
  const ExponentTable table = DefaultExponentTable(q);
  PlaneUnits units;
  for (int set = 0; set < table.count; ++set) {
    for (int i = 0; i < q; ++i) units.set[set][i] = std::ldexp(1.0f, table.exponents[set][i]);
  }
  return units;
}

cudaError_t LaunchLargest(const float* x, int64_t count, uint32_t* largest, cudaStream_t stream) {
  const cudaError_t error = cudaMemsetAsync(largest, 0, sizeof *largest, stream);
  if (error != cudaSuccess) return error;
  const int64_t blocks = std::clamp<int64_t>(count / (kThreads * 16), 1, 1024);
  return Launch(LargestKernel, dim3(static_cast<unsigned>(blocks)), kThreads, 0, stream, x, count,
                largest);
}

cudaError_t LaunchSplitSquare(const float* x, int64_t k, bool transpose, const uint32_t* largest,
                              const SplitMatrix& out, float* factor, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((out.ld + 31) / 32), static_cast<unsigned>((k + 31) / 32));
  return Launch(SplitSquareKernel, grid, kThreads, 32 * 33 * 4, stream, x, k, transpose, largest,
                out, factor);
}

cudaError_t LaunchFill(float* out, int64_t count, float value, cudaStream_t stream) {
  return Launch(FillKernel, dim3(static_cast<unsigned>((count + kThreads - 1) / kThreads)),
                kThreads, 0, stream, out, count, value);
}

cudaError_t LaunchErrors(const WidthState& state, const SplitMatrix& out, float* factor,
                         int64_t ld_factor, cudaStream_t stream) {
  return Launch(ErrorKernel, dim3(static_cast<unsigned>(state.n)), kThreads, 0, stream, state, out,
                factor, ld_factor);
}

}  // namespace shiftadd::kernels::quantize
