#include "worker/machine/machine.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace shiftadd {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> Lines(const std::string& path) {
  std::ifstream in(path);
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

std::string FirstLine(const std::string& path) {
  const std::vector<std::string> lines = Lines(path);
  return lines.empty() ? "" : lines[0];
}

// "MemTotal:  123 kB" of /proc/meminfo, in bytes.
uint64_t MemoryField(const std::vector<std::string>& lines, const char* name) {
  for (const std::string& line : lines) {
    absl::string_view rest = line;
    uint64_t kib = 0;
    if (!absl::ConsumePrefix(&rest, name) || !absl::ConsumePrefix(&rest, ":")) continue;
    const std::vector<std::string> words = absl::StrSplit(rest, ' ', absl::SkipEmpty());
    if (!words.empty() && absl::SimpleAtoi(words[0], &kib)) return kib << 10;
  }
  return 0;
}

// This process's group in the hierarchy of a controller (version 1), or of all ("", version 2).
std::string GroupOf(const std::string& root, const std::string& controller) {
  for (const std::string& line : Lines(root + "/proc/self/cgroup")) {
    const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3) continue;
    const std::vector<std::string> controllers = absl::StrSplit(parts[1], ',');
    if (std::find(controllers.begin(), controllers.end(), controller) != controllers.end())
      return parts[2];
  }
  return "/";
}

// visit(folder) from the group up to the hierarchy's root. Inside a container the path may be one
// of the host's, which is not there.
template <typename Visit>
void Upwards(const std::string& hierarchy, std::string group, Visit visit) {
  while (true) {
    std::error_code error;
    if (fs::is_directory(hierarchy + group, error)) visit(hierarchy + group);
    if (group.size() <= 1) return;
    group = group.substr(0, std::max<size_t>(1, group.rfind('/')));
  }
}

template <typename T>
void TakeLeast(T value, T* least) {
  if (value > 0 && (*least == 0 || value < *least)) *least = value;
}

void FindLimits(const std::string& root, Machine* out) {
  const std::string base = root + "/sys/fs/cgroup";
  const auto cores = [out](const std::string& quota, const std::string& period) {
    double q = 0, p = 0;
    if (absl::SimpleAtod(quota, &q) && absl::SimpleAtod(period, &p) && q > 0 && p > 0)
      TakeLeast(q / p, &out->cgroup_cores);
  };
  const auto bytes = [out](const std::string& text) {
    uint64_t limit = 0;  // version 1 says "no limit" by a huge number
    if (absl::SimpleAtoi(text, &limit) && limit < (uint64_t{1} << 60))
      TakeLeast(limit, &out->cgroup_bytes);
  };
  Upwards(base, GroupOf(root, ""), [&](const std::string& folder) {
    const std::vector<std::string> words = absl::StrSplit(FirstLine(folder + "/cpu.max"), ' ');
    if (words.size() == 2) cores(words[0], words[1]);
    bytes(FirstLine(folder + "/memory.max"));
  });
  Upwards(base + "/cpu", GroupOf(root, "cpu"), [&](const std::string& folder) {
    cores(FirstLine(folder + "/cpu.cfs_quota_us"), FirstLine(folder + "/cpu.cfs_period_us"));
  });
  Upwards(base + "/memory", GroupOf(root, "memory"),
          [&](const std::string& folder) { bytes(FirstLine(folder + "/memory.limit_in_bytes")); });
}

}  // namespace

Machine FindMachine(const std::string& root) {
  Machine out;
  for (const std::string& line : Lines(root + "/proc/cpuinfo")) {
    if (!absl::StartsWith(line, "model name")) continue;
    out.cpu = std::string(absl::StripAsciiWhitespace(line.substr(line.find(':') + 1)));
    break;
  }
  out.cores = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  cpu_set_t set;
  CPU_ZERO(&set);
  out.usable_cores = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : out.cores;
  const std::vector<std::string> memory = Lines(root + "/proc/meminfo");
  out.memory_bytes = MemoryField(memory, "MemTotal");
  out.available_bytes = MemoryField(memory, "MemAvailable");
  FindLimits(root, &out);
  return out;
}

bool CpuMeter::Read(const std::string& file, uint64_t* value) const {
  return absl::SimpleAtoi(FirstLine(file), value);
}

CpuMeter::CpuMeter(const std::string& root) {
  const std::string folder = root + "/sys/class/powercap";
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    // intel-rapl:0 is a package (AMD's too), intel-rapl:0:0 a part of one.
    const std::string name = entry.path().filename().string();
    if (!absl::StartsWith(name, "intel-rapl:") || std::count(name.begin(), name.end(), ':') != 1)
      continue;
    Package package;
    package.file = (entry.path() / "energy_uj").string();
    if (!Read(package.file, &package.last)) {
      fault_ = absl::StrCat(package.file, " cannot be read (root may)");
      return;
    }
    (void)Read((entry.path() / "max_energy_range_uj").string(), &package.range);
    packages_.push_back(package);
  }
  if (packages_.empty()) fault_ = absl::StrCat("no RAPL meter in ", folder);
}

double CpuMeter::Joules() {
  double sum = 0;
  for (Package& package : packages_) {
    uint64_t now = 0;
    if (Read(package.file, &now)) {
      const uint64_t used =
          now >= package.last ? now - package.last : package.range - package.last + now;
      package.sum += static_cast<double>(used) * 1e-6;
      package.last = now;
    }
    sum += package.sum;
  }
  return sum;
}

}  // namespace shiftadd
