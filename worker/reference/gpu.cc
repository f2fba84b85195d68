#include "worker/reference/gpu.h"

#include <dlfcn.h>

#include <cstddef>

namespace shiftadd {
namespace {

// A function of the driver API, whose ABI does not change; null if it is not there.
template <typename Function>
Function* Find(void* library, const char* name) {
  return reinterpret_cast<Function*>(dlsym(library, name));
}

// NVML's functions, found once; its device is the one that CUDA calls the first.
class Meter {
 public:
  Meter() {
    void* const driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
    void* const nvml = dlopen("libnvidia-ml.so.1", RTLD_NOW);
    if (driver == nullptr || nvml == nullptr) return;
    auto* const cuda_init = Find<int(unsigned)>(driver, "cuInit");
    auto* const bus_id = Find<int(char*, int, int)>(driver, "cuDeviceGetPCIBusId");
    auto* const init = Find<int()>(nvml, "nvmlInit_v2");
    auto* const by_bus = Find<int(const char*, void**)>(nvml, "nvmlDeviceGetHandleByPciBusId_v2");
    auto* const energy =
        Find<int(void*, unsigned long long*)>(nvml, "nvmlDeviceGetTotalEnergyConsumption");
    char id[64] = {};
    if (cuda_init == nullptr || bus_id == nullptr || init == nullptr || by_bus == nullptr ||
        energy == nullptr || cuda_init(0) != 0 || bus_id(id, sizeof(id) - 1, 0) != 0 ||
        init() != 0 || by_bus(id, &device_) != 0)
      return;
    energy_ = energy;
  }
  std::optional<double> Joules() const {
    unsigned long long millijoules = 0;
    if (energy_ == nullptr || energy_(device_, &millijoules) != 0) return std::nullopt;
    return static_cast<double>(millijoules) / 1000.0;
  }

 private:
  void* device_ = nullptr;
  int (*energy_)(void*, unsigned long long*) = nullptr;
};

}  // namespace

std::optional<double> GpuJoules() {
  static const Meter meter;
  return meter.Joules();
}

std::optional<Gpu> FindGpu() {
  void* const driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
  if (driver == nullptr) return std::nullopt;
  auto* const init = Find<int(unsigned)>(driver, "cuInit");
  auto* const get = Find<int(int*, int)>(driver, "cuDeviceGet");
  auto* const get_name = Find<int(char*, int, int)>(driver, "cuDeviceGetName");
  auto* const memory = Find<int(size_t*, int)>(driver, "cuDeviceTotalMem_v2");
  if (init == nullptr || get == nullptr || get_name == nullptr || memory == nullptr)
    return std::nullopt;
  int device = 0;
  char name[256] = {};
  size_t bytes = 0;
  if (init(0) != 0 || get(&device, 0) != 0 || get_name(name, sizeof(name) - 1, device) != 0 ||
      memory(&bytes, device) != 0) {
    return std::nullopt;
  }
  return Gpu{name, bytes};
}

}  // namespace shiftadd
