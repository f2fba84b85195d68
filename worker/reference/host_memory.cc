#include "worker/reference/host_memory.h"

#include <ATen/core/CachingHostAllocator.h>
#include <ATen/ops/empty.h>
#include <c10/core/Event.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>

#include <exception>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/base/memory_room.h"
#include "worker/reference/torch_seam.h"
#include "worker/reference/warn.h"

namespace shiftadd::reference {
namespace {

c10::Stream StreamOf(at::Device device) {
  return c10::impl::VirtualGuardImpl(device.type()).getStream(device);
}

// By what FreedQuietly's pieces are freed.
class Deleters {
 public:
  static Deleters& Get() {
    static auto* const deleters = new Deleters;  // memory may be freed while the process ends
    return *deleters;
  }
  void Put(void* piece, c10::DeleterFnPtr deleter) {
    const std::lock_guard<std::mutex> lock(mutex_);
    deleters_[piece] = deleter;
  }
  c10::DeleterFnPtr Take(void* piece) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = deleters_.find(piece);
    const c10::DeleterFnPtr deleter = found->second;
    deleters_.erase(found);
    return deleter;
  }

 private:
  std::mutex mutex_;
  std::unordered_map<void*, c10::DeleterFnPtr> deleters_;
};

void FreeQuietly(void* piece) {
  const c10::DeleterFnPtr free = Deleters::Get().Take(piece);
  try {
    free(piece);
  } catch (const std::exception& e) {
    const std::string what = e.what();
    static std::once_flag once;  // the others say the same
    std::call_once(once, [&] {
      Warn(absl::StrCat("pinned memory is not given back: ", what.substr(0, what.find('\n'))));
    });
  }
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
      return FreedQuietly(at::empty(shape, at::TensorOptions(type).pinned_memory(true)));
    } catch (const c10::Error&) {
      // The system gives no more of it.
    }
  }
  return at::empty(shape, at::TensorOptions(type));
}

at::Tensor FreedQuietly(at::Tensor x) {
  c10::DataPtr& data = x.storage().unsafeGetStorageImpl()->_mutable_data_ptr_no_checks();
  void* const piece = data.get_context();
  const c10::DeleterFnPtr deleter = data.get_deleter();
  if (piece == nullptr || deleter == &FreeQuietly) return x;
  Deleters::Get().Put(piece, deleter);
  if (!data.compare_exchange_deleter(deleter, &FreeQuietly)) Deleters::Get().Take(piece);
  return x;
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

bool MayPin(int64_t bytes) { return bytes <= MemoryLimit() / 4; }

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
