#include "kernels/cuda/activations.h"

#include <algorithm>
#include <vector>

#include "kernels/cuda/launch.h"

namespace shiftadd::kernels {
namespace cuda {
namespace {

constexpr int64_t kMaxInputs = (int64_t{1} << 31) - 1;

bool SupportsProgrammaticLaunch() {
  int device = 0, major = 0;
  return cudaGetDevice(&device) == cudaSuccess &&
         cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
         major >= 9;
}

}  // namespace

uint64_t HashSigns(const uint32_t* signs, int64_t k) {
  if (signs == nullptr) return 0;
  uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a
  for (int64_t i = 0; i < (k + 31) / 32; ++i) {
    // Bits beyond k mean nothing.
    const int64_t left = k - 32 * i;
    const uint32_t word = left >= 32 ? signs[i] : signs[i] & ((1u << left) - 1);
    hash = (hash ^ word) * 0x100000001b3u;
  }
  return hash == 0 ? 1 : hash;
}

CudaStatus PackedActivations::Make(int64_t max_m, int64_t k, int64_t group, Precision precision,
                                   const uint32_t* signs, std::unique_ptr<PackedActivations>* out) {
  SHIFTADD_CUDA_RETURN_IF_ERROR(CudaAvailable());
  SHIFTADD_CUDA_RETURN_IF_ERROR(CheckRange("max_m", max_m, 1, kMaxTokens));
  SHIFTADD_CUDA_RETURN_IF_ERROR(CheckRange("k", k, 1, kMaxInputs));
  if (group < 1 || (group % 32 != 0 && group < k)) {
    return InvalidArgument("group is " + std::to_string(group) +
                           ", expected a positive multiple of 32, or at least k");
  }
  auto a = std::unique_ptr<PackedActivations>(new PackedActivations);
  a->max_m_ = max_m;
  a->group_ = group;
  a->k_ = k;
  a->precision_ = precision;
  a->signs_hash_ = HashSigns(signs, k);
  a->programmatic_ = SupportsProgrammaticLaunch();
  DeviceActivations& view = a->view_;
  view.digits = precision == Precision::kA16 ? 2 : 1;
  view.halves = static_cast<int32_t>((k + kUnitInputs - 1) / kUnitInputs * 2);
  view.slots = SlotsOf(group, k);
  const int64_t columns = max_m * view.digits;
  const int64_t columns8 = int64_t{8} * Groups8(static_cast<int32_t>(columns));
  const int64_t digits = int64_t{view.halves} * kHalfInputs;
  SHIFTADD_CUDA_RETURN_IF_ERROR(a->bits_.Allocate((columns + 1) * digits));
  SHIFTADD_CUDA_RETURN_IF_ERROR(a->bytes_.Allocate(columns8 * digits));
  SHIFTADD_CUDA_RETURN_IF_ERROR(
      a->scales_.Allocate(columns8 * view.halves * view.slots * sizeof(ColumnScale)));
  SHIFTADD_CUDA_RETURN_IF_ERROR(
      a->signs_.Upload(signs, static_cast<size_t>((k + 31) / 32) * 4, nullptr));
  // A copy of its own and a finished one: the signs are the caller's again.
  SHIFTADD_CUDA_RETURN_IF_ERROR(FromCuda(cudaStreamSynchronize(nullptr), "copying signs"));
  view.bits = a->bits_.as<uint32_t>();
  view.bytes = a->bytes_.as<uint4>();
  view.scales = a->scales_.as<ColumnScale>();
  *out = std::move(a);
  return {};
}

DeviceActivations PackedActivations::ViewFor(int64_t m) const {
  DeviceActivations view = view_;
  view.m = static_cast<int32_t>(m);
  view.columns = view.m * view.digits;
  view.bit_stride = BitStride(view.columns);
  view.groups8 = Groups8(view.columns);
  return view;
}

CudaStatus PackedActivations::Run(PrepareParams params, Source source, int64_t m,
                                  CudaStream stream) {
  SHIFTADD_CUDA_RETURN_IF_ERROR(CheckRange("m", m, 1, max_m_));
  SHIFTADD_CUDA_RETURN_IF_ERROR(CheckRange("row stride of x", params.ldx, k_, INT64_MAX / max_m_));
  SHIFTADD_CUDA_RETURN_IF_ERROR(CheckDevicePointer(params.x, sizeof(float), "x"));
  if (source != Source::kPlain) {
    const char* name = source == Source::kSiluMul ? "up" : "weight";
    SHIFTADD_CUDA_RETURN_IF_ERROR(CheckDevicePointer(params.other, sizeof(float), name));
  }
  if (source == Source::kAddRmsNorm) {
    SHIFTADD_CUDA_RETURN_IF_ERROR(CheckDevicePointer(params.add, sizeof(float), "add"));
    SHIFTADD_CUDA_RETURN_IF_ERROR(CheckDevicePointer(params.sum, sizeof(float), "sum"));
    if (params.sum == params.x || params.sum == params.add) {
      return InvalidArgument("sum is x or add");
    }
  }
  view_ = ViewFor(m);
  params.k = k_;
  params.group = group_;
  params.signs = signs_.as<uint32_t>();
  params.bits = bits_.as<uint32_t>();
  params.bytes = bytes_.as<uint8_t>();
  params.scales = scales_.as<ColumnScale>();
  params.out = view_;
  params.programmatic = programmatic_;
  return FromCuda(LaunchPrepare(params, source, static_cast<cudaStream_t>(stream)),
                  "launching the preparation of activations");
}

CudaStatus PackedActivations::Prepare(const float* x, int64_t ldx, int64_t m, CudaStream stream) {
  PrepareParams params;
  params.x = x;
  params.ldx = ldx;
  return Run(params, Source::kPlain, m, stream);
}

CudaStatus PackedActivations::PrepareRmsNorm(const float* x, int64_t ldx, const float* weight,
                                             float eps, int64_t m, CudaStream stream) {
  PrepareParams params;
  params.x = x;
  params.ldx = ldx;
  params.other = weight;
  params.eps = eps;
  return Run(params, Source::kRmsNorm, m, stream);
}

CudaStatus PackedActivations::PrepareAddRmsNorm(const float* x, const float* add, float* sum,
                                                int64_t ldx, const float* weight, float eps,
                                                int64_t m, CudaStream stream) {
  PrepareParams params;
  params.x = x;
  params.add = add;
  params.sum = sum;
  params.ldx = ldx;
  params.other = weight;
  params.eps = eps;
  return Run(params, Source::kAddRmsNorm, m, stream);
}

CudaStatus PackedActivations::PrepareSiluMul(const float* gate, const float* up, int64_t ld,
                                             int64_t m, CudaStream stream) {
  PrepareParams params;
  params.x = gate;
  params.ldx = ld;
  params.other = up;
  return Run(params, Source::kSiluMul, m, stream);
}

namespace {

// The digit of input `i` and `column`, from B fragments (layout.h).
int8_t DigitAt(const std::vector<int8_t>& bytes, const DeviceActivations& view, int64_t i,
               int64_t column) {
  const int64_t half = i / kHalfInputs, t = i % kHalfInputs / 32, e = i % 32;
  const int64_t fragment = (half * view.groups8 + column / 8) * 2 + e % 4 / 2;
  const int64_t lane = column % 8 * 4 + t;
  return bytes[fragment * 512 + lane * 16 + (e % 2 * 2 + e / 16) * 4 + e / 4 % 4];
}

}  // namespace

CudaStatus PackedActivations::ToHost(CudaStream stream, Activations* out) const {
  if (view_.m == 0) return InvalidArgument("activations were not prepared yet");
  std::vector<int8_t> bytes(size_t{1024} * view_.halves * view_.groups8);
  std::vector<ColumnScale> scales(size_t{8} * view_.halves * view_.slots * view_.groups8);
  const auto s = static_cast<cudaStream_t>(stream);
  SHIFTADD_CUDA_RETURN_IF_ERROR(
      FromCuda(cudaMemcpyAsync(bytes.data(), view_.bytes, bytes.size(), cudaMemcpyDeviceToHost, s),
               "copying digits to the host"));
  SHIFTADD_CUDA_RETURN_IF_ERROR(
      FromCuda(cudaMemcpyAsync(scales.data(), view_.scales, scales.size() * sizeof(ColumnScale),
                               cudaMemcpyDeviceToHost, s),
               "copying scales to the host"));
  SHIFTADD_CUDA_RETURN_IF_ERROR(FromCuda(cudaStreamSynchronize(s), "copying to the host"));

  const int64_t m = view_.m;
  const int64_t slot_inputs = kHalfInputs / view_.slots;
  std::vector<int64_t> chunk_of;  // of each slot with inputs
  int64_t chunks = 0;
  for (int64_t i = 0; i < k_; i += slot_inputs) {
    const bool starts = i % kHalfInputs == 0 || i / group_ != (i - 1) / group_;
    if (starts) ++chunks;
    chunk_of.push_back(chunks - 1);
  }
  out->m = m;
  out->k = k_;
  out->group = group_;
  out->groups = chunks;
  out->precision = precision_;
  out->k_padded = (k_ + kHalfInputs - 1) / kHalfInputs * kHalfInputs;
  out->digits.assign(view_.digits * m * out->k_padded, 0);
  out->scale.assign(m * chunks, 0);
  out->sum.assign(m * chunks, 0);
  out->digit_sum.assign(m * chunks, 0);
  for (int64_t token = 0; token < m; ++token) {
    for (int d = 0; d < view_.digits; ++d) {
      const int64_t column = token * view_.digits + d;
      int8_t* digits = out->digits.data() + (d * m + token) * out->k_padded;
      for (int64_t i = 0; i < k_; ++i) digits[i] = DigitAt(bytes, view_, i, column);
      const bool high = view_.digits == 2 && d == 0;
      for (size_t slot = 0; slot < chunk_of.size(); ++slot) {
        const ColumnScale& v = scales[slot * 8 * view_.groups8 + column];
        const int64_t at = token * chunks + chunk_of[slot];
        out->digit_sum[at] += (high ? 255 : 1) * v.sum;
        if (!high) out->scale[at] = v.scale;
      }
    }
    for (int64_t at = token * chunks; at < (token + 1) * chunks; ++at) {
      out->sum[at] = out->scale[at] * static_cast<float>(out->digit_sum[at]);
    }
  }
  return {};
}

}  // namespace cuda

CudaStatus CudaActivations::Create(int64_t max_m, int64_t k, int64_t group, Precision precision,
                                   const uint32_t* signs, std::unique_ptr<CudaActivations>* out) {
  std::unique_ptr<cuda::PackedActivations> made;
  SHIFTADD_CUDA_RETURN_IF_ERROR(
      cuda::PackedActivations::Make(max_m, k, group, precision, signs, &made));
  *out = std::move(made);
  return {};
}

}  // namespace shiftadd::kernels
