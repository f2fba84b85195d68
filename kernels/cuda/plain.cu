// Every packed matrix of planes, whatever its width, groups and encoding: a warp a row, lanes over
// words of 32 inputs, exact integers by AND and popcount. int8/group likewise by dot products.
#include "kernels/cuda/device_ops.cuh"
#include "kernels/cuda/launch.h"

namespace shiftadd::kernels::cuda {
namespace {

constexpr int kWarps = 8;

// The digits of 32 inputs of a column as bit planes.
struct DigitBits {
  uint32_t of[8];

  __device__ void Load(const DeviceActivations& x, int64_t word, int column) {
    const int64_t half = word / 4;
    const uint32_t* at = x.bits + (half * x.bit_stride + column) * 32 + word % 4;
    for (int n = 0; n < 8; ++n) of[n] = LoadActivations4(at + n * 4);
  }
  // The sum of digits where `mask` has bits.
  __device__ int Sum(uint32_t mask) const {
    int sum = -128 * __popc(of[7] & mask);
    for (int n = 0; n < 7; ++n) sum += __popc(of[n] & mask) << n;
    return sum;
  }
};

__device__ float PlaneScale(const DeviceMatrix& w, int64_t row, int64_t group, int i) {
  const int64_t at = row * w.groups() + group;
  if (w.encoding == Encoding::kBcqFree) return HalfBits(w.alpha[at * w.q + i]);
  const int64_t stride = (w.groups() + 1) / 2;
  const int set = (w.exponents[row * stride + group / 2] >> (4 * (group % 2))) & 15;
  return ldexpf(HalfBits(w.scale[at]), w.table.exponents[set][i]);
}

// Row `row` times the digits of 32 inputs.
__device__ float WordTerm(const DeviceMatrix& w, int64_t row, int64_t word, const DigitBits& x) {
  const int64_t group = word * 32 / w.group;
  const int total = x.Sum(~0u);
  float term = w.zeta ? HalfBits(w.zetas[row * w.groups() + group]) * static_cast<float>(total) : 0;
  for (int i = 0; i < w.q; ++i) {
    const int twice = 2 * x.Sum(w.planes[(i * w.n + row) * w.plane_words() + word]);
    const int sum = w.zeta ? twice : twice - total;
    term = fmaf(PlaneScale(w, row, group, i), static_cast<float>(sum), term);
  }
  return term;
}

// The same where alpha changes every 8 inputs.
__device__ float Block8Term(const DeviceMatrix& w, int64_t row, int64_t word, const DigitBits& x) {
  const int64_t row_blocks = (w.n + w.block_rows - 1) / w.block_rows;
  float term = 0;
  for (int byte = 0; byte < 4 && word * 32 + byte * 8 < w.k; ++byte) {
    const uint32_t mask = 0xffu << (8 * byte);
    const int64_t alpha = ((word * 4 + byte) * row_blocks + row / w.block_rows) * w.q;
    const int total = x.Sum(mask);
    for (int i = 0; i < w.q; ++i) {
      const uint32_t bits = w.planes[(i * w.n + row) * w.plane_words() + word] & mask;
      term = fmaf(HalfBits(w.alpha[alpha + i]), static_cast<float>(2 * x.Sum(bits) - total), term);
    }
  }
  return term;
}

__device__ float Int8Term(const DeviceMatrix& w, int64_t row, int64_t word, const DigitBits& x) {
  int sum = 0;
  for (int e = 0; e < 32 && word * 32 + e < w.k; ++e) {
    sum += w.codes[row * w.k + word * 32 + e] * x.Sum(1u << e);
  }
  return HalfBits(w.scale[row * w.groups() + word * 32 / w.group]) * static_cast<float>(sum);
}

// blockIdx.y is the token.
__global__ void PlainKernel(const __grid_constant__ DeviceMatrix w,
                            const __grid_constant__ DeviceActivations x, float* y, int64_t ldy) {
  StartNextKernel();
  WaitForPreviousKernel();
  const int64_t row = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  if (row >= w.n) return;
  const int lane = threadIdx.x % 32;
  for (int64_t token = blockIdx.y; token < x.m; token += gridDim.y) {
    float sum = 0;
    for (int64_t word = lane; word < w.plane_words(); word += 32) {
      const int64_t slot = word / 4 * x.slots + word % 4 / (4 / x.slots);
      for (int d = 0; d < x.digits; ++d) {
        const int column = static_cast<int>(token) * x.digits + d;
        DigitBits bits;
        bits.Load(x, word, column);
        const float term = w.encoding == Encoding::kInt8Group   ? Int8Term(w, row, word, bits)
                           : w.encoding == Encoding::kBcqBlock8 ? Block8Term(w, row, word, bits)
                                                                : WordTerm(w, row, word, bits);
        sum = fmaf(LoadScale(x.scales + slot * 8 * x.groups8 + column).scale, term, sum);
      }
    }
    for (int o = 16; o > 0; o /= 2) sum += __shfl_xor_sync(~0u, sum, o);
    if (lane == 0) y[token * ldy + row] = sum;
  }
}

}  // namespace

cudaError_t LaunchPlain(const DeviceMatrix& w, const DeviceActivations& x, float* y, int64_t ldy,
                        bool programmatic, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((w.n + kWarps - 1) / kWarps), x.m < 65535 ? x.m : 65535);
  return Launch(PlainKernel, grid, kWarps * 32, programmatic, stream, w, x, y, ldy);
}

}  // namespace shiftadd::kernels::cuda
