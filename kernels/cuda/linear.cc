#include "kernels/cuda/linear.h"

#include <algorithm>
#include <cmath>

#include "kernels/cuda/activations.h"
#include "kernels/cuda/launch.h"

namespace shiftadd::kernels {
namespace cuda {
namespace {

constexpr int64_t kMaxDimension = (int64_t{1} << 31) - 1;

// Before anything that `m` points to is read: sizes that no memory here could have been filled for.
CudaStatus CheckSizes(const PackedMatrix& m) {
  SHIFTADD_CUDA_RETURN_IF_ERROR(CheckRange("n", m.n, 1, kMaxDimension));
  SHIFTADD_CUDA_RETURN_IF_ERROR(CheckRange("k", m.k, 1, kMaxDimension));
  if (m.group < 1 || m.q < 0 || m.q > kMaxPlanes) return {};  // Validate says what is wrong
  size_t free = 0, total = 0;
  SHIFTADD_CUDA_RETURN_IF_ERROR(FromCuda(cudaMemGetInfo(&free, &total), "asking for free memory"));
  if (StoredBytes(m) <= free) return {};
  return {CudaCode::kOutOfMemory, "a matrix of " + std::to_string(StoredBytes(m)) +
                                      " bytes, the device has " + std::to_string(free) + " free"};
}

// The largest finite magnitude.
double Largest(const uint16_t* halves, size_t count) {
  uint16_t top = 0;
  for (size_t i = 0; halves != nullptr && i < count; ++i) {
    const uint16_t magnitude = halves[i] & 0x7fffu;
    top = magnitude > top && magnitude < 0x7c00u ? magnitude : top;
  }
  return HalfToFloat(top);
}

// The least e for which no |weight| exceeds 2^(e + 15), within what floats hold.
int HalfExponent(const PackedMatrix& m) {
  const size_t groups = static_cast<size_t>(m.n) * static_cast<size_t>(m.groups());
  double bound = 0;
  switch (m.encoding) {
    case Encoding::kBcqShift: {
      double most = 0;
      for (int s = 0; s < m.table.count; ++s) {
        double sum = 0;
        for (int i = 0; i < m.q; ++i) sum += std::ldexp(1.0, m.table.exponents[s][i]);
        most = std::max(most, sum);
      }
      bound = most * Largest(m.scale, groups);
      break;
    }
    case Encoding::kBcqFree:
      bound = m.q * Largest(m.alpha, groups * static_cast<size_t>(m.q));
      break;
    case Encoding::kBcqBlock8: {
      const int64_t blocks = (m.k + 7) / 8 * ((m.n + m.block_rows - 1) / m.block_rows);
      bound = m.q * Largest(m.alpha, static_cast<size_t>(blocks) * static_cast<size_t>(m.q));
      break;
    }
    case Encoding::kInt8Group:
      bound = 128 * Largest(m.scale, groups);
      break;
  }
  if (m.zeta != nullptr) bound = 2 * bound + Largest(m.zeta, groups);
  return bound == 0 ? 0 : std::clamp(std::ilogb(bound) - 14, -60, 60);
}

}  // namespace

CudaStatus PackedLinear::Make(const PackedMatrix& m, CudaStream stream,
                              std::unique_ptr<PackedLinear>* out) {
  SHIFTADD_CUDA_RETURN_IF_ERROR(CudaAvailable());
  SHIFTADD_CUDA_RETURN_IF_ERROR(CheckSizes(m));
  if (std::string error = Validate(m); !error.empty()) return InvalidArgument(std::move(error));
  auto linear = std::unique_ptr<PackedLinear>(new PackedLinear);
  linear->ChooseForm(m);
  linear->half_exponent_ = HalfExponent(m);
  const auto s = static_cast<cudaStream_t>(stream);
  SHIFTADD_CUDA_RETURN_IF_ERROR(linear->Upload(m, s));
  if (linear->view_.form != Form::kPlain) SHIFTADD_CUDA_RETURN_IF_ERROR(linear->Tile(s));
  SHIFTADD_CUDA_RETURN_IF_ERROR(FromCuda(cudaStreamSynchronize(s), "loading a matrix"));
  *out = std::move(linear);
  return {};
}

void PackedLinear::ChooseForm(const PackedMatrix& m) {
  view_.encoding = m.encoding;
  view_.q = m.q;
  view_.zeta = m.zeta != nullptr;
  view_.slots = SlotsOf(m.group, m.k);
  view_.n = m.n, view_.k = m.k, view_.group = m.group, view_.block_rows = m.block_rows;
  view_.units = (m.k + kUnitInputs - 1) / kUnitInputs;
  view_.table = m.table;
  if (view_.slots > 2) return;
  if (m.encoding == Encoding::kInt8Group) view_.form = Form::kInt8;
  if (m.encoding == Encoding::kBcqFree && m.q >= 2 && m.q <= 4) view_.form = Form::kFree;
  if (m.encoding == Encoding::kBcqShift) {
    if (const auto table = MakeShiftTable(m.table, view_.zeta)) {
      view_.form = Form::kShift;
      shift_table_ = *table;
    }
  }
}

CudaStatus PackedLinear::Upload(const PackedMatrix& m, cudaStream_t stream) {
  const size_t rows = static_cast<size_t>(m.n);
  const size_t groups = rows * static_cast<size_t>(m.groups());
  const size_t words = rows * static_cast<size_t>(m.plane_words());
  const size_t planes = static_cast<size_t>(m.q);
  size_t alphas = groups * planes;
  if (m.encoding == Encoding::kBcqBlock8) {
    const size_t row_blocks = static_cast<size_t>((m.n + m.block_rows - 1) / m.block_rows);
    alphas = static_cast<size_t>((m.k + 7) / 8) * row_blocks * planes;
  }
  const bool shift = m.encoding == Encoding::kBcqShift;
  const bool int8 = m.encoding == Encoding::kInt8Group;
  const auto upload = [stream](bool needed, const void* from, size_t bytes, Buffer* to) {
    return needed ? to->Upload(from, bytes, stream) : CudaStatus{};
  };
  SHIFTADD_CUDA_RETURN_IF_ERROR(upload(!int8, m.planes, planes * words * 4, &planes_));
  SHIFTADD_CUDA_RETURN_IF_ERROR(upload(shift || int8, m.scale, groups * 2, &scale_));
  SHIFTADD_CUDA_RETURN_IF_ERROR(
      upload(shift, m.exponents, rows * static_cast<size_t>((m.groups() + 1) / 2), &exponents_));
  SHIFTADD_CUDA_RETURN_IF_ERROR(upload(!shift && !int8, m.alpha, alphas * 2, &alpha_));
  SHIFTADD_CUDA_RETURN_IF_ERROR(upload(view_.zeta, m.zeta, groups * 2, &zetas_));
  SHIFTADD_CUDA_RETURN_IF_ERROR(upload(int8, m.codes, rows * static_cast<size_t>(m.k), &codes_));
  const bool rotated = m.rotation == Rotation::kWht128;
  SHIFTADD_CUDA_RETURN_IF_ERROR(
      upload(rotated, m.signs, static_cast<size_t>(m.plane_words()) * 4, &signs_));
  view_.planes = planes_.as<uint32_t>();
  view_.scale = scale_.as<uint16_t>();
  view_.exponents = exponents_.as<uint8_t>();
  view_.alpha = alpha_.as<uint16_t>();
  view_.zetas = zetas_.as<uint16_t>();
  view_.codes = codes_.as<int8_t>();
  view_.signs = signs_.as<uint32_t>();
  signs_hash_ = HashSigns(rotated ? m.signs : nullptr, m.k);
  return {};
}

CudaStatus PackedLinear::Tile(cudaStream_t stream) {
  const int bytes = BlockBytes(view_.form, view_.q, view_.zeta, view_.slots);
  SHIFTADD_CUDA_RETURN_IF_ERROR(
      blocks_.Allocate(static_cast<size_t>(view_.tiles() * view_.units) * bytes));
  SHIFTADD_CUDA_RETURN_IF_ERROR(
      FromCuda(LaunchRepack(view_, blocks_.as<uint8_t>(), stream), "launching the repacking"));
  SHIFTADD_CUDA_RETURN_IF_ERROR(FromCuda(cudaStreamSynchronize(stream), "repacking"));
  for (Buffer* b : {&planes_, &scale_, &exponents_, &alpha_, &zetas_, &codes_}) *b = Buffer();
  view_.blocks = blocks_.as<uint8_t>();
  view_.planes = nullptr;
  view_.scale = view_.alpha = view_.zetas = nullptr;
  view_.exponents = nullptr;
  view_.codes = nullptr;
  return {};
}

CudaStatus PackedLinear::GatherRows(const int32_t* rows, int64_t count, float* out, int64_t ld,
                                    CudaStream stream) const {
  SHIFTADD_CUDA_RETURN_IF_ERROR(CheckRange("count", count, 1, kMaxDimension));
  SHIFTADD_CUDA_RETURN_IF_ERROR(CheckRange("ld", ld, k(), INT64_MAX / count));
  SHIFTADD_CUDA_RETURN_IF_ERROR(CheckDevicePointer(rows, sizeof(int32_t), "rows"));
  SHIFTADD_CUDA_RETURN_IF_ERROR(CheckDevicePointer(out, sizeof(float), "out"));
  return FromCuda(LaunchGather(view_, rows, count, out, ld, static_cast<cudaStream_t>(stream)),
                  "launching the gathering of rows");
}

uint64_t PackedLinear::bytes() const {
  uint64_t sum = sizeof(*this);
  for (const Buffer* b :
       {&blocks_, &signs_, &planes_, &scale_, &exponents_, &alpha_, &zetas_, &codes_}) {
    sum += b->size();
  }
  return sum;
}

}  // namespace cuda

CudaStatus CudaLinear::Create(const PackedMatrix& m, CudaStream stream,
                              std::unique_ptr<CudaLinear>* out) {
  std::unique_ptr<cuda::PackedLinear> made;
  SHIFTADD_CUDA_RETURN_IF_ERROR(cuda::PackedLinear::Make(m, stream, &made));
  *out = std::move(made);
  return {};
}

}  // namespace shiftadd::kernels
