#include "services/base/disk_room.h"

#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"

namespace shiftadd {

std::string DiskFault(const std::string& folder) {
  constexpr uintmax_t kLeast = 1 << 20;
  std::error_code error;
  const std::filesystem::space_info space = std::filesystem::space(folder, error);
  if (error) return absl::StrCat(folder, ": ", error.message());
  if (space.capacity == 0) return "";  // some file systems know no size
  // What is kept back for root is root's to fill.
  const uintmax_t room = geteuid() == 0 ? space.free : space.available;
  return room >= kLeast ? "" : absl::StrCat(folder, ": the disk is full: ", room, " bytes left");
}

}  // namespace shiftadd
