#include "worker/serve/cuda/linears.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"

namespace shiftadd::cuda {
namespace {

using kernels::CudaActivations;
using kernels::CudaStatus;

// The narrowest type that holds all of `values`.
RawType TypeFor(const std::vector<float>& values) {
  bool half = true, bfloat = true;
  for (const float x : values) {
    half &= kernels::HalfToFloat(kernels::FloatToHalf(x)) == x;
    bfloat &= (std::bit_cast<uint32_t>(x) & 0xffffu) == 0;
    if (!half && !bfloat) return RawType::kF32;
  }
  return half ? RawType::kF16 : RawType::kBF16;
}

absl::Status UploadRaw(const std::vector<float>& values, cudaStream_t stream, DeviceLinear* out) {
  out->raw.type = TypeFor(values);
  std::vector<uint16_t> narrow;
  const void* from = values.data();
  size_t bytes = values.size() * sizeof(float);
  if (out->raw.type != RawType::kF32) {
    narrow.resize(values.size());
    for (size_t i = 0; i < values.size(); ++i) {
      narrow[i] = out->raw.type == RawType::kF16
                      ? kernels::FloatToHalf(values[i])
                      : static_cast<uint16_t>(std::bit_cast<uint32_t>(values[i]) >> 16);
    }
    from = narrow.data();
    bytes = narrow.size() * sizeof(uint16_t);
  }
  SA_RETURN_IF_ERROR(ToStatus(out->raw_data.Upload(from, bytes, stream)));
  SA_RETURN_IF_ERROR(ToStatus(cudaStreamSynchronize(stream), "copying to the device"));
  out->raw.data = out->raw_data.as<void>();
  return absl::OkStatus();
}

CudaStatus Prepare(const GroupInput& in, int64_t m, cudaStream_t stream, CudaActivations* to) {
  switch (in.kind) {
    case GroupInput::Kind::kNorm:
      return in.add == nullptr
                 ? to->PrepareRmsNorm(in.x, in.ld, in.weight, in.eps, m, stream)
                 : to->PrepareAddRmsNorm(in.x, in.add, in.sum, in.ld, in.weight, in.eps, m, stream);
    case GroupInput::Kind::kSiluMul:
      return to->PrepareSiluMul(in.x, in.up, in.ld, m, stream);
    case GroupInput::Kind::kPlain:
      break;
  }
  return to->Prepare(in.x, in.ld, m, stream);
}

// The input as numbers in `scratch`, or where it is already.
absl::Status Materialize(GroupInput* in, int64_t m, int64_t width, const RunContext& context) {
  if (in->kind == GroupInput::Kind::kNorm) {
    NormParams p;
    p.x = in->x, p.add = in->add, p.sum = in->sum, p.weight = in->weight, p.eps = in->eps;
    p.out = context.scratch;
    p.width = width;
    SA_RETURN_IF_ERROR(ToStatus(LaunchRmsNorm(p, m, context.stream), "launching a norm"));
  } else if (in->kind == GroupInput::Kind::kSiluMul) {
    SA_RETURN_IF_ERROR(
        ToStatus(LaunchSiluMul(in->x, in->up, in->ld, context.scratch, m, width, context.stream),
                 "launching an activation"));
  } else {
    return absl::OkStatus();
  }
  *in = GroupInput{GroupInput::Kind::kPlain, context.scratch, width};
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<DeviceLinear> DeviceLinear::Create(const PackedLayer& layer, cudaStream_t stream) {
  DeviceLinear out;
  out.rows = layer.rows;
  out.cols = layer.cols;
  out.raw.rows = layer.rows;
  out.raw.cols = layer.cols;
  if (layer.raw) {
    SA_RETURN_IF_ERROR(Annotate(UploadRaw(*layer.weight, stream, &out), layer.name));
  } else {
    SA_RETURN_IF_ERROR(Annotate(
        ToStatus(kernels::CudaLinear::Create(layer.matrix, stream, &out.packed)), layer.name));
  }
  return out;
}

absl::Status DeviceLinear::Gather(const int32_t* ids, int64_t count, float* out,
                                  cudaStream_t stream) const {
  if (packed) return ToStatus(packed->GatherRows(ids, count, out, cols, stream));
  return ToStatus(LaunchRawGather(raw, ids, count, out, stream), "launching the gathering of rows");
}

absl::StatusOr<CudaActivations*> ActivationPool::For(const PackedLayer& layer,
                                                     PackedModelOptions::Precision precision) {
  const kernels::PackedMatrix& m = layer.matrix;
  const bool rotated = m.rotation == kernels::Rotation::kWht128;
  // As on the CPU: rotated inputs have no outliers, 8 bits are enough for them.
  const bool wide = precision == PackedModelOptions::Precision::kA16 ||
                    (precision == PackedModelOptions::Precision::kAuto && !rotated);
  std::unique_ptr<CudaActivations>& made = made_[Key{m.k, std::min(m.group, m.k), rotated, wide}];
  if (made == nullptr) {
    // The signs of one input width are the same for all layers of a package.
    SA_RETURN_IF_ERROR(ToStatus(CudaActivations::Create(
        max_rows_, m.k, m.group, wide ? kernels::Precision::kA16 : kernels::Precision::kA8,
        rotated ? m.signs : nullptr, &made)));
  }
  return made.get();
}

void LinearGroup::Add(DeviceLinear linear, CudaActivations* activations) {
  if (activations == nullptr) {
    has_raw_ = true;
  } else if (std::find(preparations_.begin(), preparations_.end(), activations) ==
             preparations_.end()) {
    preparations_.push_back(activations);
  }
  const int64_t first = rows_;
  rows_ += linear.rows;
  members_.push_back({std::move(linear), activations, first});
}

absl::Status LinearGroup::SetBias(const std::vector<float>& bias) {
  SA_RETURN_IF_ERROR(ToStatus(bias_.Upload(bias.data(), bias.size() * sizeof(float), nullptr)));
  return ToStatus(cudaStreamSynchronize(nullptr), "copying to the device");
}

uint64_t LinearGroup::bytes() const {
  uint64_t sum = bias_.size();
  for (const Member& member : members_) sum += member.linear.bytes();
  return sum;
}

absl::Status LinearGroup::Run(GroupInput input, int64_t m, float* y,
                              const RunContext& context) const {
  if (has_raw_) SA_RETURN_IF_ERROR(Materialize(&input, m, cols(), context));
  for (CudaActivations* activations : preparations_) {
    SA_RETURN_IF_ERROR(ToStatus(Prepare(input, m, context.stream, activations)));
    kernels::CudaProduct products[kernels::kMaxCudaProducts];
    int count = 0;
    for (const Member& member : members_) {
      if (member.activations != activations) continue;
      products[count++] = {member.linear.packed.get(), y + member.first_row, rows_};
    }
    SA_RETURN_IF_ERROR(ToStatus(
        kernels::CudaMultiply(*activations, products, count, context.stream, context.multiply)));
  }
  for (const Member& member : members_) {
    if (member.activations != nullptr) continue;
    SA_RETURN_IF_ERROR(ToStatus(LaunchRawMultiply(member.linear.raw, input.x, m,
                                                  y + member.first_row, rows_, context.stream),
                                "launching a product"));
  }
  return absl::OkStatus();
}

}  // namespace shiftadd::cuda
