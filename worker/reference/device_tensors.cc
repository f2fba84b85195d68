#include "worker/reference/device_tensors.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/isfinite.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/reference/host_memory.h"
#include "worker/reference/linear.h"

namespace shiftadd::reference {
namespace {

constexpr int64_t kPieceNumbers = int64_t{16} << 20;  // of a matrix on its way to a device

at::ScalarType TypeOf(DType dtype) {
  switch (dtype) {
    case DType::kF16:
      return at::kHalf;
    case DType::kBF16:
      return at::kBFloat16;
    default:
      return at::kFloat;
  }
}

// In pieces, through memory that the device reads by itself.
absl::StatusOr<at::Tensor> ReadByRows(const WeightProvider& weights, const std::string& name,
                                      at::IntArrayRef shape, at::ScalarType type,
                                      at::Device device) {
  const int64_t rows = shape[0], cols = shape[1];
  const int64_t most = std::clamp<int64_t>(kPieceNumbers / std::max<int64_t>(1, cols), 1, rows);
  const at::Tensor out = at::empty(shape, at::TensorOptions(type).device(device));
  const at::Tensor piece = HostEmpty({most, cols}, at::kFloat, device);
  for (int64_t begin = 0; begin < rows; begin += most) {
    const int64_t count = std::min(most, rows - begin);
    SA_RETURN_IF_ERROR(
        weights.ReadRows(name, rows, cols, begin, begin + count, piece.mutable_data_ptr<float>()));
    out.narrow(0, begin, count).copy_(piece.narrow(0, 0, count).to(device));
  }
  return out;
}

}  // namespace

absl::StatusOr<at::Tensor> ReadToDevice(const WeightProvider& weights, const std::string& name,
                                        at::IntArrayRef shape, at::ScalarType type,
                                        at::Device device) {
  const c10::InferenceMode normal(false);
  if (const auto* resident = dynamic_cast<const ResidentTensors*>(&weights); resident != nullptr) {
    const at::Tensor there = resident->Find(name);
    if (there.defined() && there.device() == device && there.sizes() == shape)
      return there.to(type);
  }
  const std::optional<RawTensor> raw = weights.Raw(name);
  if (!raw.has_value()) {
    if (shape.size() == 2 && !device.is_cpu() && weights.HasRows(name))
      return ReadByRows(weights, name, shape, type, device);
    SA_ASSIGN_OR_RETURN(const at::Tensor values, ReadTensor(weights, name, shape, device));
    return values.to(type);
  }
  int64_t count = 1;
  for (const int64_t d : shape) count *= d;
  const at::ScalarType stored = TypeOf(raw->dtype);
  const auto bytes = static_cast<int64_t>(raw->bytes.size());
  if (bytes != count * static_cast<int64_t>(c10::elementSize(stored))) {
    return absl::InvalidArgumentError(absl::StrCat("tensor ", name, ": ", bytes,
                                                   " bytes, expected ", count, " numbers of ",
                                                   c10::elementSize(stored), " bytes"));
  }
  const at::Tensor mapped = at::from_blob(const_cast<char*>(raw->bytes.data()), {bytes}, at::kByte);
  // A copy either way: the file's bytes may lie at any address.
  const at::Tensor values =
      (device.is_cpu() ? mapped.clone() : mapped.to(device)).view(stored).view(shape);
  if (!at::isfinite(values).all().item<bool>()) {
    // The reader knows which number it is.
    SA_ASSIGN_OR_RETURN(const std::vector<float> unused, weights.Read(name));
    return absl::InvalidArgumentError(absl::StrCat("tensor ", name, ": a number is not finite"));
  }
  return values.to(type);
}

}  // namespace shiftadd::reference
