#include "worker/serve/memory_room.h"

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

// What one group leaves; `limit` and `usage` are its files.
int64_t GroupRoom(const std::string& folder, const char* limit, const char* usage,
                  const char* droppable) {
  const std::optional<int64_t> most = Number(absl::StrCat(folder, "/", limit));
  const std::optional<int64_t> used = Number(absl::StrCat(folder, "/", usage));
  if (!most.has_value() || !used.has_value()) return kUnknown;
  const int64_t cache = Field(folder + "/memory.stat", droppable).value_or(0);
  return std::max<int64_t>(0, *most - *used + std::min(cache, *used));
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

int64_t GroupsRoom(const std::string& root) {
  int64_t room = kUnknown;
  for (const std::string& line : Lines(root + "/proc/self/cgroup")) {  // number:controllers:path
    const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3) continue;
    if (parts[1].empty()) {
      for (const std::string& folder : Folders(root + "/sys/fs/cgroup", parts[2])) {
        room = std::min(room, GroupRoom(folder, "memory.max", "memory.current", "inactive_file"));
      }
    } else if (parts[1] == "memory") {
      for (const std::string& folder : Folders(root + "/sys/fs/cgroup/memory", parts[2])) {
        room = std::min(room, GroupRoom(folder, "memory.limit_in_bytes", "memory.usage_in_bytes",
                                        "total_inactive_file"));
      }
    }
  }
  return room;
}

}  // namespace

int64_t MemoryRoom(const std::string& root) {
  const std::optional<int64_t> kibibytes = Field(root + "/proc/meminfo", "MemAvailable:");
  return std::min(kibibytes.has_value() ? *kibibytes * 1024 : kUnknown, GroupsRoom(root));
}

void ReturnFreeMemory() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

}  // namespace shiftadd
