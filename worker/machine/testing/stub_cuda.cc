// A libcuda.so.1 for tests: a driver and GPUs that cannot be had here, as environment variables
// describe them. It computes nothing; what it is not asked for by our programs it does not have.
//   SHIFTADD_STUB_CUDA        the latest CUDA of the driver, 13000 for 13.0 (the default)
//   SHIFTADD_STUB_INIT        what cuInit answers; 0 by default
//   SHIFTADD_STUB_CAPABILITY  of each GPU, with commas: 75,90 (90 by default; none if empty)
#include <dlfcn.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace {

constexpr int kInvalidValue = 1, kNoDevice = 100, kInvalidDevice = 101, kNotFound = 500;

int Number(const char* name, int otherwise) {
  const char* const text = std::getenv(name);
  return text == nullptr ? otherwise : std::atoi(text);
}

std::vector<int> Capabilities() {
  const char* const text = std::getenv("SHIFTADD_STUB_CAPABILITY");
  std::vector<int> out;
  for (const char* at = text == nullptr ? "90" : text; *at != '\0';) {
    char* end = nullptr;
    out.push_back(static_cast<int>(std::strtol(at, &end, 10)));
    at = *end == ',' ? end + 1 : end;
  }
  return out;
}

int Count() { return static_cast<int>(Capabilities().size()); }
bool There(int device) { return device >= 0 && device < Count(); }

int Put(const std::string& text, char* out, int size) {
  if (out == nullptr || size <= static_cast<int>(text.size())) return kInvalidValue;
  std::memcpy(out, text.c_str(), text.size() + 1);
  return 0;
}

}  // namespace

extern "C" {

int cuInit(unsigned) {
  const int answer = Number("SHIFTADD_STUB_INIT", 0);
  return answer == 0 && Count() == 0 ? kNoDevice : answer;
}
int cuDriverGetVersion(int* version) {
  *version = Number("SHIFTADD_STUB_CUDA", 13000);
  return 0;
}
int cuDeviceGetCount(int* count) {
  *count = Count();
  return 0;
}
int cuDeviceGet(int* device, int ordinal) {
  if (!There(ordinal)) return kInvalidDevice;
  *device = ordinal;
  return 0;
}
int cuDeviceGetName(char* name, int size, int device) {
  if (!There(device)) return kInvalidDevice;
  return Put("Stub " + std::to_string(device), name, size);
}
int cuDeviceTotalMem_v2(size_t* bytes, int device) {
  if (!There(device)) return kInvalidDevice;
  *bytes = size_t{16} << 30;
  return 0;
}
int cuDeviceGetUuid(unsigned char* uuid, int device) {
  if (!There(device)) return kInvalidDevice;
  std::memset(uuid, device, 16);
  return 0;
}
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  constexpr int kMajor = 75, kMinor = 76;  // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_…
  if (!There(device)) return kInvalidDevice;
  const int capability = Capabilities()[static_cast<size_t>(device)];
  *value = attribute == kMajor ? capability / 10 : attribute == kMinor ? capability % 10 : 0;
  return 0;
}
int cuDeviceGetPCIBusId(char* id, int size, int device) {
  if (!There(device)) return kInvalidDevice;
  return Put("0000:0" + std::to_string(device) + ":00.0", id, size);
}
int cuGetErrorName(int error, const char** name) {
  *name = error == 803         ? "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"
          : error == kNoDevice ? "CUDA_ERROR_NO_DEVICE"
                               : "CUDA_ERROR_UNKNOWN";
  return 0;
}
// How the CUDA runtime asks: for a function by its name. Of the tables that it begins a device with
// there is none, so it says of the GPUs that it cannot begin.
int cuGetProcAddress_v2(const char* name, void** function, int, unsigned long long, int* status) {
  static void* const self = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
  *function = dlsym(self, name);
  if (*function == nullptr) *function = dlsym(self, (std::string(name) + "_v2").c_str());
  if (status != nullptr)
    *status = *function == nullptr ? 1 : 0;  // CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND
  return *function == nullptr ? kNotFound : 0;
}
int cuGetExportTable(const void**, const void*) { return kNotFound; }

}  // extern "C"
