// Rows of a matrix as numbers, as DequantizeUnrotated gives them: in float64, rounded once.
#include "kernels/cuda/dense.h"
#include "kernels/cuda/device_ops.cuh"
#include "kernels/cuda/launch.h"

namespace shiftadd::kernels::cuda {
namespace {

// A half from its bits, exactly.
__device__ double Half(const uint8_t* p) { return HalfBits(*reinterpret_cast<const uint16_t*>(p)); }

// q planes' bits of one weight and their scales, wherever they lie.
struct Weight {
  uint32_t bits = 0;
  double scale[kMaxPlanes];
  double zeta = 0;
};

__device__ void ShiftScales(const DeviceMatrix& w, double s, int set, Weight* out) {
  for (int i = 0; i < w.q; ++i) out->scale[i] = ldexp(s, w.table.exponents[set][i]);
}

__device__ void ReadTiled(const DeviceMatrix& w, int64_t row, int64_t input, Weight* out) {
  const int slots = w.slots;
  const int64_t tile = row / kTileRows, unit = input / kUnitInputs;
  const int r = row % kTileRows, h = input / kHalfInputs % 2, in_half = input % kHalfInputs;
  const int lane = (r % 8) * 4 + in_half / 32;
  const uint8_t* block =
      w.blocks + (tile * w.units + unit) * BlockBytes(w.form, w.q, w.zeta, slots);
  for (int i = 0; i < w.q; ++i) {
    const int word = (h * w.q + i) * 2 + r / 8;
    const auto* at = reinterpret_cast<const uint32_t*>(block + word / 4 * 512 + lane * 16);
    out->bits |= ((at[word % 4] >> (input % 32)) & 1u) << i;
  }
  const int pair = (r % 8) * 2 * slots + h * slots + in_half / (kHalfInputs / slots);
  const int at = pair * 4 + r / 8 * 2;
  const uint8_t* scales = block + PlaneBytes(w.form, w.q);
  if (w.form == Form::kFree) {
    for (int i = 0; i < w.q; ++i) out->scale[i] = Half(scales + i * 64 * slots + at);
  } else {
    const int set = ((scales + 64 * slots)[pair] >> (r / 8 * 4)) & 15;
    ShiftScales(w, Half(scales + at), set, out);
  }
  if (w.zeta) out->zeta = Half(block + ZetaOffset(w.form, w.q, slots) + at);
}

__device__ void ReadPlain(const DeviceMatrix& w, int64_t row, int64_t input, Weight* out) {
  for (int i = 0; i < w.q; ++i) {
    const uint32_t word = w.planes[(i * w.n + row) * w.plane_words() + input / 32];
    out->bits |= ((word >> (input % 32)) & 1u) << i;
  }
  const int64_t group = input / w.group;
  const int64_t at = row * w.groups() + group;
  if (w.encoding == Encoding::kBcqShift) {
    const int64_t stride = (w.groups() + 1) / 2;
    const int set = (w.exponents[row * stride + group / 2] >> (4 * (group % 2))) & 15;
    ShiftScales(w, HalfBits(w.scale[at]), set, out);
  } else {
    const int64_t row_blocks =
        w.encoding == Encoding::kBcqBlock8 ? (w.n + w.block_rows - 1) / w.block_rows : 0;
    const int64_t first =
        w.encoding == Encoding::kBcqFree ? at : input / 8 * row_blocks + row / w.block_rows;
    for (int i = 0; i < w.q; ++i) out->scale[i] = HalfBits(w.alpha[first * w.q + i]);
  }
  if (w.zeta) out->zeta = HalfBits(w.zetas[at]);
}

__device__ double Int8Weight(const DeviceMatrix& w, int64_t row, int64_t input) {
  if (w.form == Form::kPlain) {
    return static_cast<double>(HalfBits(w.scale[row * w.groups() + input / w.group])) *
           w.codes[row * w.k + input];
  }
  const int64_t tile = row / kTileRows, unit = input / kUnitInputs;
  const int r = row % kTileRows, h = input / kHalfInputs % 2, in_half = input % kHalfInputs;
  const int p = input % 32, j = p % 4, b = p / 4 % 4, upper = p / 16;
  const uint8_t* block = w.blocks + (tile * w.units + unit) * BlockBytes(w.form, 0, false, w.slots);
  const int lane = (r % 8) * 4 + in_half / 32;
  const int code =
      static_cast<int8_t>(block[((h * 4 + j) * 32 + lane) * 16 + (upper * 2 + r / 8) * 4 + b]);
  const int pair = (r % 8) * 2 * w.slots + h * w.slots + in_half / (kHalfInputs / w.slots);
  return Half(block + 4096 + pair * 4 + r / 8 * 2) * code;
}

__device__ double WeightAt(const DeviceMatrix& w, int64_t row, int64_t input) {
  if (w.encoding == Encoding::kInt8Group) return Int8Weight(w, row, input);
  Weight v;
  if (w.form == Form::kPlain) {
    ReadPlain(w, row, input, &v);
  } else {
    ReadTiled(w, row, input, &v);
  }
  double sum = 0;
  for (int i = 0; i < w.q; ++i) {
    const int p = (v.bits >> i) & 1;
    sum += v.scale[i] * (w.zeta ? 2 * p : 2 * p - 1);
  }
  return w.zeta ? sum + v.zeta : sum;
}

// The transform of a CTA's 128 values, one a thread, then signs: D^T. A tail goes in descending
// powers of two, as in rotation.h.
__device__ double UnrotateHalf(const uint32_t* signs, int64_t input, int e, int length,
                               double value) {
  __shared__ double values[kHalfInputs];
  // The length of the block that e lies in: the highest power of two in `length` that e lacks.
  const int size = length == kHalfInputs ? kHalfInputs : 1 << (31 - __clz(length ^ e));
  for (int h = 1; h < kHalfInputs; h *= 2) {
    __syncthreads();
    values[e] = value;
    __syncthreads();
    const double other = values[e ^ h];
    if (e < length && h < size) value = (e & h) != 0 ? other - value : value + other;
  }
  if (e >= length) return 0;
  const bool plus = ((signs[input / 32] >> (input % 32)) & 1u) != 0;
  const double norm = 1.0 / sqrt(static_cast<double>(size));
  return value * (plus ? norm : -norm);
}

// One CTA a row and 128 inputs, one thread an input.
__global__ void GatherKernel(const __grid_constant__ DeviceMatrix w, const int32_t* rows,
                             int64_t count, float* out, int64_t ld) {
  const int e = threadIdx.x;
  const int64_t input = int64_t{blockIdx.x} * kHalfInputs + e;
  const int64_t left = w.k - int64_t{blockIdx.x} * kHalfInputs;
  const int length = left < kHalfInputs ? static_cast<int>(left) : kHalfInputs;
  for (int64_t i = blockIdx.y; i < count; i += gridDim.y) {
    const int64_t row = rows[i];
    const bool inside = row >= 0 && row < w.n;
    double value = inside && e < length ? WeightAt(w, row, input) : 0;
    if (w.signs != nullptr) value = UnrotateHalf(w.signs, input, e, length, value);
    if (e < length) {
      out[i * ld + input] = inside ? static_cast<float>(value) : __int_as_float(0x7fffffff);
    }
  }
}

// Rows as fp16 for cuBLAS (dense.h): one thread a value; a CTA a half of a row.
__global__ void DensePlainKernel(const __grid_constant__ DeviceMatrix w,
                                 const __grid_constant__ DenseWeights to) {
  if (blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0) {
    to.scalars->factor = to.scalars->x_unit * ldexpf(1.0f, to.exponent);
  }
  const int at = threadIdx.x;
  const int64_t first = int64_t{blockIdx.x} * kHalfInputs;
  const int64_t input = first + at % 32 / 8 * 32 + at / 32 + at % 8 * 4;
  for (int64_t row = blockIdx.y; row < to.rows; row += gridDim.y) {
    const double value = input < w.k ? WeightAt(w, to.first_row + row, input) : 0;
    to.out[row * to.stride + first + at] =
        __half_as_ushort(__double2half(ldexp(value, -to.exponent)));
  }
}

}  // namespace

cudaError_t LaunchDensePlain(const DeviceMatrix& w, const DenseWeights& to, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(to.stride / kHalfInputs),
                  static_cast<unsigned>(to.rows < 65535 ? to.rows : 65535));
  return Launch(DensePlainKernel, grid, kHalfInputs, false, stream, w, to);
}

cudaError_t LaunchGather(const DeviceMatrix& w, const int32_t* rows, int64_t count, float* out,
                         int64_t ld, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((w.k + kHalfInputs - 1) / kHalfInputs),
                  static_cast<unsigned>(count < 65535 ? count : 65535));
  return Launch(GatherKernel, grid, kHalfInputs, false, stream, w, rows, count, out, ld);
}

}  // namespace shiftadd::kernels::cuda
