#include "worker/machine/gpu.h"

#include <dlfcn.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace shiftadd {
namespace {

using nlohmann::json;

constexpr int kAnswerMilliseconds = 30'000;

// A function of the driver API, whose ABI does not change; null if it is not there.
template <typename Function>
Function* Find(void* library, const char* name) {
  return library == nullptr ? nullptr : reinterpret_cast<Function*>(dlsym(library, name));
}

void* OpenCuda() { return dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL); }
void* OpenNvml() { return dlopen("libnvidia-ml.so.1", RTLD_NOW); }

// NVML's functions, found once; its device is the one that CUDA calls the first.
class Meter {
 public:
  Meter() {
    void* const driver = OpenCuda();
    void* const nvml = OpenNvml();
    if (driver == nullptr || nvml == nullptr) return;
    auto* const cuda_init = Find<int(unsigned)>(driver, "cuInit");
    auto* const bus_id = Find<int(char*, int, int)>(driver, "cuDeviceGetPCIBusId");
    auto* const init = Find<int()>(nvml, "nvmlInit_v2");
    auto* const by_bus = Find<int(const char*, void**)>(nvml, "nvmlDeviceGetHandleByPciBusId_v2");
    char id[64] = {};
    if (cuda_init == nullptr || bus_id == nullptr || init == nullptr || by_bus == nullptr ||
        cuda_init(0) != 0 || bus_id(id, sizeof(id) - 1, 0) != 0 || init() != 0 ||
        by_bus(id, &device_) != 0)
      return;
    energy_ = Find<int(void*, unsigned long long*)>(nvml, "nvmlDeviceGetTotalEnergyConsumption");
    memory_ = Find<int(void*, Memory*)>(nvml, "nvmlDeviceGetMemoryInfo_v2");
    old_memory_ = Find<int(void*, OldMemory*)>(nvml, "nvmlDeviceGetMemoryInfo");
    utilization_ = Find<int(void*, Utilization*)>(nvml, "nvmlDeviceGetUtilizationRates");
    power_ = Find<int(void*, unsigned*)>(nvml, "nvmlDeviceGetPowerUsage");
  }
  std::optional<double> Joules() const {
    unsigned long long millijoules = 0;
    if (energy_ == nullptr || energy_(device_, &millijoules) != 0) return std::nullopt;
    return static_cast<double>(millijoules) / 1000.0;
  }
  std::optional<uint64_t> BytesInUse() const {
    Memory memory = {};
    memory.version = sizeof(Memory) | (2u << 24);
    if (memory_ != nullptr && memory_(device_, &memory) == 0) return memory.used;
    OldMemory old = {};
    if (old_memory_ == nullptr || old_memory_(device_, &old) != 0) return std::nullopt;
    return old.used;
  }
  std::optional<double> Busy() const {
    Utilization percent = {};
    if (utilization_ == nullptr || utilization_(device_, &percent) != 0) return std::nullopt;
    return percent.gpu / 100.0;
  }
  std::optional<double> Watts() const {
    unsigned milliwatts = 0;
    if (power_ == nullptr || power_(device_, &milliwatts) != 0) return std::nullopt;
    return milliwatts / 1000.0;
  }

 private:
  // As nvidia-smi has it: what the driver keeps for itself is not in use.
  struct Memory {
    unsigned version;
    unsigned long long total, reserved, free, used;
  };
  struct OldMemory {  // of drivers before 510
    unsigned long long total, free, used;
  };
  struct Utilization {
    unsigned gpu, memory;
  };
  void* device_ = nullptr;
  int (*energy_)(void*, unsigned long long*) = nullptr;
  int (*memory_)(void*, Memory*) = nullptr;
  int (*old_memory_)(void*, OldMemory*) = nullptr;
  int (*utilization_)(void*, Utilization*) = nullptr;
  int (*power_)(void*, unsigned*) = nullptr;
};

const Meter& TheMeter() {
  static const Meter meter;
  return meter;
}

std::string FirstWord(const std::filesystem::path& path) {
  std::ifstream in(path);
  std::string word;
  in >> word;
  return word;
}

// Display controllers (class 03) and processing accelerators (class 12) of vendor 10de.
bool NvidiaHardware() {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/sys/bus/pci/devices", error)) {
    const std::string kind = FirstWord(entry.path() / "class");
    if (FirstWord(entry.path() / "vendor") == "0x10de" &&
        (absl::StartsWith(kind, "0x03") || absl::StartsWith(kind, "0x12")))
      return true;
  }
  return std::filesystem::exists("/dev/nvidiactl", error);
}

std::string DriverVersion() {
  void* const nvml = OpenNvml();
  auto* const init = Find<int()>(nvml, "nvmlInit_v2");
  auto* const version = Find<int(char*, unsigned)>(nvml, "nvmlSystemGetDriverVersion");
  char text[96] = {};
  if (init == nullptr || version == nullptr || init() != 0 || version(text, sizeof(text) - 1) != 0)
    return "";
  return text;
}

std::string ErrorName(void* driver, int error) {
  auto* const name = Find<int(int, const char**)>(driver, "cuGetErrorName");
  const char* text = nullptr;
  if (name == nullptr || name(error, &text) != 0 || text == nullptr)
    return absl::StrCat("error ", error);
  return text;
}

Gpu DescribeGpu(void* driver, int ordinal) {
  auto* const get = Find<int(int*, int)>(driver, "cuDeviceGet");
  auto* const get_name = Find<int(char*, int, int)>(driver, "cuDeviceGetName");
  auto* const memory = Find<int(size_t*, int)>(driver, "cuDeviceTotalMem_v2");
  auto* const get_uuid = Find<int(unsigned char*, int)>(driver, "cuDeviceGetUuid");
  auto* const attribute = Find<int(int*, int, int)>(driver, "cuDeviceGetAttribute");
  constexpr int kMajor = 75, kMinor = 76;  // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_…
  Gpu gpu;
  int device = 0;
  char name[256] = {};
  size_t bytes = 0;
  if (get == nullptr || get(&device, ordinal) != 0) return gpu;
  if (get_name != nullptr && get_name(name, sizeof(name) - 1, device) == 0) gpu.name = name;
  if (memory != nullptr && memory(&bytes, device) == 0) gpu.memory_bytes = bytes;
  if (attribute != nullptr) {
    (void)attribute(&gpu.major, kMajor, device);
    (void)attribute(&gpu.minor, kMinor, device);
  }
  unsigned char id[16] = {};
  if (get_uuid != nullptr && get_uuid(id, device) == 0) {
    gpu.uuid = "GPU";
    for (int i = 0; i < 16; ++i) {
      const bool dash = i == 0 || i == 4 || i == 6 || i == 8 || i == 10;
      absl::StrAppendFormat(&gpu.uuid, "%s%02x", dash ? "-" : "", id[i]);
    }
  }
  return gpu;
}

json ToJson(const CudaFindings& found) {
  json gpus = json::array();
  for (const Gpu& gpu : found.gpus) {
    gpus.push_back({gpu.name, gpu.memory_bytes, gpu.uuid, gpu.major, gpu.minor});
  }
  return {found.hardware,   found.driver, found.driver_version, found.cuda, found.error,
          found.error_text, gpus};
}

bool FromJson(const json& from, CudaFindings* found) {
  if (!from.is_array() || from.size() != 7) return false;
  found->hardware = from[0], found->driver = from[1];
  found->driver_version = from[2];
  found->cuda = from[3], found->error = from[4];
  found->error_text = from[5];
  for (const json& gpu : from[6]) {
    found->gpus.push_back({gpu[0], gpu[1], gpu[2], gpu[3], gpu[4]});
  }
  return true;
}

// All that comes until the other end closes; false after the deadline.
bool ReadAll(int fd, std::string* out) {
  char buffer[4096];
  pollfd wait = {fd, POLLIN, 0};
  while (poll(&wait, 1, kAnswerMilliseconds) > 0) {
    const ssize_t size = read(fd, buffer, sizeof(buffer));
    if (size <= 0) return size == 0;
    out->append(buffer, static_cast<size_t>(size));
  }
  return false;
}

CudaFindings AskDriver() {
  CudaFindings found;
  found.hardware = NvidiaHardware();
  void* const driver = OpenCuda();
  found.driver = driver != nullptr;
  if (driver == nullptr) return found;
  found.driver_version = DriverVersion();
  auto* const version = Find<int(int*)>(driver, "cuDriverGetVersion");
  if (version != nullptr) (void)version(&found.cuda);
  auto* const init = Find<int(unsigned)>(driver, "cuInit");
  auto* const count_of = Find<int(int*)>(driver, "cuDeviceGetCount");
  if (init == nullptr || count_of == nullptr) {
    found.error = -1;
    found.error_text = "libcuda.so.1 lacks cuInit";
    return found;
  }
  int count = 0;
  found.error = init(0);
  if (found.error == 0) found.error = count_of(&count);
  if (found.error != 0) found.error_text = ErrorName(driver, found.error);
  for (int i = 0; i < count; ++i) found.gpus.push_back(DescribeGpu(driver, i));
  return found;
}

}  // namespace

std::optional<double> GpuJoules() { return TheMeter().Joules(); }
std::optional<uint64_t> GpuBytesInUse() { return TheMeter().BytesInUse(); }
std::optional<double> GpuUtilization() { return TheMeter().Busy(); }
std::optional<double> GpuWatts() { return TheMeter().Watts(); }

CudaFindings FindCudaHere() { return AskDriver(); }

std::optional<Gpu> FindGpu() {
  const CudaFindings found = FindCudaHere();
  if (found.gpus.empty()) return std::nullopt;
  return found.gpus[0];
}

CudaFindings FindCuda() {
  CudaFindings found;
  found.error = -1;
  int ends[2];
  if (pipe(ends) != 0) {
    found.error_text = "no pipe for the answer";
    return found;
  }
  const pid_t child = fork();
  if (child == 0) {
    close(ends[0]);
    const std::string text =
        ToJson(AskDriver()).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    (void)!write(ends[1], text.data(), text.size());
    _exit(0);
  }
  close(ends[1]);
  std::string text;
  const bool answered = child > 0 && ReadAll(ends[0], &text);
  close(ends[0]);
  if (child > 0) {
    if (!answered) kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
  }
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (answered && FromJson(json, &found)) return found;
  found.driver = true;
  found.error_text = answered ? "the driver ended the process that asked it"
                              : "the driver did not answer within 30 s";
  return found;
}

}  // namespace shiftadd
