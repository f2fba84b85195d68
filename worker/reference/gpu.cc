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

}  // namespace

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
