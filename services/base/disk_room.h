// Whether a folder takes anything more.
#ifndef SHIFTADD_SERVICES_BASE_DISK_ROOM_H_
#define SHIFTADD_SERVICES_BASE_DISK_ROOM_H_

#include <string>

namespace shiftadd {

// What is wrong with the room in `folder`: less than 1 MiB is left to this process, or nobody can
// say. Empty: nothing.
std::string DiskFault(const std::string& folder);

}  // namespace shiftadd

#endif  // SHIFTADD_SERVICES_BASE_DISK_ROOM_H_
