#include "kernels/cuda/launch.h"

namespace shiftadd::kernels::cuda {
namespace {

constexpr int kThreads = 256;

__device__ int SetOf(const DeviceMatrix& w, int64_t row, int64_t group) {
  const int64_t stride = (w.groups() + 1) / 2;
  return (w.exponents[row * stride + group / 2] >> (4 * (group % 2))) & 15;
}

// One CTA a (unit, tile): blockIdx.x is the unit, blockIdx.y strides over tiles.
__device__ void RepackPlanes(const DeviceMatrix& w, int64_t tile, int64_t unit, uint32_t* out) {
  const int64_t words = w.plane_words();
  for (int at = threadIdx.x; at < 128 * w.q; at += kThreads) {
    const int lane = at / 4 % 32;
    const int word = at / 128 * 4 + at % 4;
    const int r = word % 2, i = word / 2 % w.q, h = word / 2 / w.q;
    const int64_t row = tile * kTileRows + lane / 4 + 8 * r;
    const int64_t column = unit * 8 + h * 4 + lane % 4;
    const bool inside = row < w.n && column < words;
    out[at] = inside ? w.planes[(i * w.n + row) * words + column] : 0;
  }
}

__device__ void RepackCodes(const DeviceMatrix& w, int64_t tile, int64_t unit, int8_t* out) {
  for (int at = threadIdx.x; at < 4096; at += kThreads) {
    const int b = at % 4, reg = at / 4 % 4, lane = at / 16 % 32, j = at / 512 % 4, h = at / 2048;
    const int64_t row = tile * kTileRows + lane / 4 + 8 * (reg % 2);
    const int64_t input =
        unit * kUnitInputs + h * kHalfInputs + lane % 4 * 32 + j + 16 * (reg / 2) + 4 * b;
    out[at] = row < w.n && input < w.k ? w.codes[row * w.k + input] : 0;
  }
}

// Scales of row `r` of the tile and slot c.
__device__ void RepackScales(const DeviceMatrix& w, int64_t tile, int64_t unit, int r, int c,
                             uint8_t* block) {
  const int slots = w.slots;
  const int64_t row = tile * kTileRows + r;
  const int64_t input = unit * kUnitInputs + c * (kHalfInputs / slots);
  const bool inside = row < w.n && input < w.k;
  const int64_t group = inside ? input / w.group : 0;
  const int64_t from = inside ? row * w.groups() + group : 0;
  const int pair = (r % 8) * 2 * slots + c;
  const int to = pair * 2 + r / 8;
  auto* halves = reinterpret_cast<uint16_t*>(block + PlaneBytes(w.form, w.q));
  if (w.form == Form::kFree) {
    for (int i = 0; i < w.q; ++i) {
      halves[i * 32 * slots + to] = inside ? w.alpha[from * w.q + i] : 0;
    }
  } else {
    halves[to] = inside ? w.scale[from] : 0;
  }
  if (w.zeta) {
    auto* zetas = reinterpret_cast<uint16_t*>(block + ZetaOffset(w.form, w.q, slots));
    zetas[to] = inside ? w.zetas[from] : 0;
  }
  if (w.form == Form::kShift && r < 8) {  // a byte has the sets of rows r and r + 8
    const bool upper = row + 8 < w.n && input < w.k;
    const int sets =
        (inside ? SetOf(w, row, group) : 0) | (upper ? SetOf(w, row + 8, input / w.group) : 0) << 4;
    (block + PlaneBytes(w.form, w.q) + 64 * slots)[pair] = static_cast<uint8_t>(sets);
  }
}

__global__ void RepackKernel(const __grid_constant__ DeviceMatrix w, uint8_t* blocks) {
  const int64_t unit = blockIdx.x;
  const int bytes = BlockBytes(w.form, w.q, w.zeta, w.slots);
  for (int64_t tile = blockIdx.y; tile < w.tiles(); tile += gridDim.y) {
    uint8_t* block = blocks + (tile * w.units + unit) * bytes;
    if (w.form == Form::kInt8) {
      RepackCodes(w, tile, unit, reinterpret_cast<int8_t*>(block));
    } else {
      RepackPlanes(w, tile, unit, reinterpret_cast<uint32_t*>(block));
    }
    const int at = threadIdx.x;
    if (at < kTileRows * 2 * w.slots) {
      RepackScales(w, tile, unit, at % kTileRows, at / kTileRows, block);
    }
  }
}

}  // namespace

cudaError_t LaunchRepack(const DeviceMatrix& w, uint8_t* blocks, cudaStream_t stream) {
  const int64_t tiles = w.tiles() < 65535 ? w.tiles() : 65535;
  const dim3 grid(static_cast<unsigned>(w.units), static_cast<unsigned>(tiles));
  return Launch(RepackKernel, grid, kThreads, false, stream, w, blocks);
}

}  // namespace shiftadd::kernels::cuda
