#include "services/base/memory_room.h"

#include <malloc.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace shiftadd {
namespace {

constexpr int64_t kUnknown = std::numeric_limits<int64_t>::max();

std::vector<std::string> Lines(const std::string& path) {
  std::vector<std::string> lines;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  return lines;
}

// The number after `name` in a file of lines "name number …".
std::optional<int64_t> Field(const std::string& path, absl::string_view name) {
  for (const std::string& line : Lines(path)) {
    const std::vector<std::string> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
    int64_t value = 0;
    if (words.size() >= 2 && words[0] == name && absl::SimpleAtoi(words[1], &value)) return value;
  }
  return std::nullopt;
}

std::optional<int64_t> Number(const std::string& path) {
  const std::vector<std::string> lines = Lines(path);
  int64_t value = 0;
  if (lines.empty() || !absl::SimpleAtoi(lines[0], &value)) return std::nullopt;  // "max" too
  return value;
}

// A control group's files.
struct GroupFiles {
  const char *limit, *usage, *droppable;  // the last: a line of memory.stat
};
constexpr GroupFiles kV2 = {"memory.max", "memory.current", "inactive_file"};
constexpr GroupFiles kV1 = {"memory.limit_in_bytes", "memory.usage_in_bytes",
                            "total_inactive_file"};

// What one group leaves, or allows in all.
int64_t GroupRoom(const std::string& folder, const GroupFiles& files) {
  const std::optional<int64_t> most = Number(absl::StrCat(folder, "/", files.limit));
  const std::optional<int64_t> used = Number(absl::StrCat(folder, "/", files.usage));
  if (!most.has_value() || !used.has_value()) return kUnknown;
  const int64_t cache = Field(folder + "/memory.stat", files.droppable).value_or(0);
  return std::max<int64_t>(0, *most - *used + std::min(cache, *used));
}
int64_t GroupLimit(const std::string& folder, const GroupFiles& files) {
  return Number(absl::StrCat(folder, "/", files.limit)).value_or(kUnknown);
}

// The folders of a group and of those around it; a container sees its own as the root.
std::vector<std::string> Folders(const std::string& mount, std::string path) {
  std::vector<std::string> folders;
  while (path.size() > 1) {
    folders.push_back(mount + path);
    path.resize(path.rfind('/'));
  }
  folders.push_back(mount);
  return folders;
}

// The least that `of` says of any group the process is in.
int64_t OfGroups(const std::string& root, int64_t (*of)(const std::string&, const GroupFiles&)) {
  int64_t least = kUnknown;
  for (const std::string& line : Lines(root + "/proc/self/cgroup")) {  // number:controllers:path
    const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3) continue;
    const std::vector<std::string> controllers = absl::StrSplit(parts[1], ',');
    const bool v1 =
        std::find(controllers.begin(), controllers.end(), "memory") != controllers.end();
    if (!parts[1].empty() && !v1) continue;
    const std::string mount = root + (v1 ? "/sys/fs/cgroup/memory" : "/sys/fs/cgroup");
    for (const std::string& folder : Folders(mount, parts[2])) {
      least = std::min(least, of(folder, v1 ? kV1 : kV2));
    }
  }
  return least;
}

// In /proc/meminfo.
int64_t OfMachine(const std::string& root, const char* name) {
  const std::optional<int64_t> kibibytes = Field(root + "/proc/meminfo", name);
  return kibibytes.has_value() ? *kibibytes * 1024 : kUnknown;
}

}  // namespace

int64_t MemoryRoom(const std::string& root) {
  return std::min(OfMachine(root, "MemAvailable:"), OfGroups(root, GroupRoom));
}

int64_t MemoryLimit(const std::string& root) {
  return std::min(OfMachine(root, "MemTotal:"), OfGroups(root, GroupLimit));
}

void ReturnFreeMemory() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

}  // namespace shiftadd
