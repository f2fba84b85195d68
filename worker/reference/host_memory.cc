#include "worker/reference/host_memory.h"

#include <ATen/core/CachingHostAllocator.h>
#include <ATen/ops/empty.h>
#include <c10/core/Event.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>
#include <unistd.h>

#include <mutex>
#include <utility>
#include <vector>

#include "worker/reference/torch_seam.h"

namespace shiftadd::reference {
namespace {

c10::Stream StreamOf(at::Device device) {
  return c10::impl::VirtualGuardImpl(device.type()).getStream(device);
}

class TensorHostCopy : public HostCopy {
 public:
  TensorHostCopy(int64_t count, int64_t length, int64_t hidden, at::Device device,
                 StatesTensor tensor)
      : length_(length),
        device_(device),
        tensor_(tensor),
        rows_(HostEmpty({count * length, hidden}, at::kFloat, device)) {}

  absl::Status Add(int64_t first, const HiddenStates& some) override {
    return CatchTorch([&]() -> absl::Status {
      const at::Tensor from = tensor_(some);
      rows_.narrow(0, first * length_, some.count * length_).copy_(from, /*non_blocking=*/true);
      if (!from.is_cuda()) return absl::OkStatus();
      c10::Event moved(device_.type());
      moved.record(StreamOf(device_));
      const std::lock_guard<std::mutex> lock(mutex_);
      moved_.push_back(std::move(moved));
      return absl::OkStatus();
    });
  }

  absl::StatusOr<const float*> Wait() override {
    std::vector<c10::Event> moved;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      moved.swap(moved_);
    }
    const absl::Status status = CatchTorch([&]() -> absl::Status {
      for (const c10::Event& event : moved) event.synchronize();
      return absl::OkStatus();
    });
    if (!status.ok()) return status;
    return rows_.const_data_ptr<float>();
  }

 private:
  const int64_t length_;
  const at::Device device_;
  const StatesTensor tensor_;
  const at::Tensor rows_;
  std::mutex mutex_;
  std::vector<c10::Event> moved_;
};

}  // namespace

at::Tensor HostEmpty(at::IntArrayRef shape, at::ScalarType type, at::Device device) {
  const c10::InferenceMode normal(false);
  if (!device.is_cpu()) {
    try {
      return at::empty(shape, at::TensorOptions(type).pinned_memory(true));
    } catch (const c10::Error&) {
      // The system gives no more of it.
    }
  }
  return at::empty(shape, at::TensorOptions(type));
}

at::Tensor MoveToHost(const at::Tensor& x, at::Device device, bool pinned) {
  if (device.is_cpu()) return x;
  if (!pinned) return x.cpu();
  at::Tensor out = HostEmpty(x.sizes(), x.scalar_type(), device);
  out.copy_(x, /*non_blocking=*/true);
  return out;
}

at::Tensor MoveToDevice(const at::Tensor& x, at::Device device) {
  return x.to(x.options().device(device), /*non_blocking=*/true);
}

void Settle(at::Device device) {
  if (device.is_cpu()) return;
  c10::impl::VirtualGuardImpl(device.type()).synchronizeStream(StreamOf(device));
}

bool MayPin(int64_t bytes) {
  return bytes <= int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE) / 4;
}

void FreePinned(at::Device device) {
  if (device.is_cpu()) return;
  try {
    at::getHostAllocator(device.type())->empty_cache();
  } catch (const c10::Error&) {
    // The device is lost, and with it whoever asks.
  }
}

std::unique_ptr<HostCopy> NewTensorHostCopy(int64_t count, int64_t length, int64_t hidden,
                                            at::Device device, StatesTensor tensor) {
  return std::make_unique<TensorHostCopy>(count, length, hidden, device, tensor);
}

}  // namespace shiftadd::reference
