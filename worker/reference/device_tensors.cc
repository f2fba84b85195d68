#include "worker/reference/device_tensors.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/isfinite.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <thread>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/reference/host_memory.h"
#include "worker/reference/linear.h"
#include "worker/reference/torch_seam.h"

namespace shiftadd::reference {
namespace {

constexpr int64_t kPieceNumbers = int64_t{16} << 20;  // of a matrix on its way to a device
constexpr int64_t kPieceBytes = kPieceNumbers * 4;
constexpr int64_t kCopyBytes = int64_t{4} << 20;  // that a thread copies at once
constexpr unsigned kCopyThreads = 8;              // more gain nothing: memory is what they wait for

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

// A file's mapped bytes on a device: through memory that it reads by itself, where several threads
// bring them, as a page that nobody has touched yet costs more than its copy.
absl::StatusOr<at::Tensor> BytesToDevice(absl::string_view bytes, at::Device device) {
  const auto size = static_cast<int64_t>(bytes.size());
  const at::Tensor mapped = at::from_blob(const_cast<char*>(bytes.data()), {size}, at::kByte);
  // A copy either way: the file's bytes may lie at any address.
  if (device.is_cpu()) return mapped.clone();
  if (size <= kCopyBytes) return mapped.to(device);
  const auto threads =
      static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1u, kCopyThreads));
  const at::Tensor out = at::empty({size}, at::TensorOptions(at::kByte).device(device));
  const at::Tensor piece = HostEmpty({std::min(size, kPieceBytes)}, at::kByte, device);
  for (int64_t begin = 0; begin < size; begin += kPieceBytes) {
    const int64_t count = std::min(kPieceBytes, size - begin);
    SA_RETURN_IF_ERROR(ParallelFor((count + kCopyBytes - 1) / kCopyBytes, threads, [&](int64_t i) {
      const int64_t from = i * kCopyBytes;
      std::memcpy(piece.mutable_data_ptr<uint8_t>() + from, bytes.data() + begin + from,
                  static_cast<size_t>(std::min(kCopyBytes, count - from)));
      return absl::OkStatus();
    }));
    out.narrow(0, begin, count).copy_(piece.narrow(0, 0, count));
  }
  return out;
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
  SA_ASSIGN_OR_RETURN(const at::Tensor copied, BytesToDevice(raw->bytes, device));
  const at::Tensor values = copied.view(stored).view(shape);
  if (!at::isfinite(values).all().item<bool>()) {
    // The reader knows which number it is.
    SA_ASSIGN_OR_RETURN(const std::vector<float> unused, weights.Read(name));
    return absl::InvalidArgumentError(absl::StrCat("tensor ", name, ": a number is not finite"));
  }
  return values.to(type);
}

}  // namespace shiftadd::reference
