// How much memory this process may take, and how much more.
#ifndef SHIFTADD_SERVICES_BASE_MEMORY_ROOM_H_
#define SHIFTADD_SERVICES_BASE_MEMORY_ROOM_H_

#include <cstdint>
#include <string>

namespace shiftadd {

// Bytes: the smaller of what the machine has available and of what the limits of the process's
// control groups (v1 or v2) leave, page cache that can be dropped counted as free. INT64_MAX where
// nothing says. `root` is prepended to /proc and /sys: for tests.
int64_t MemoryRoom(const std::string& root = "");

// Bytes: the smaller of the machine's memory and the limits of the process's control groups, used
// or not. INT64_MAX where nothing says.
int64_t MemoryLimit(const std::string& root = "");

// Gives the system what malloc keeps of freed memory (glibc's does: two or three models' worth
// after a few versions have come and gone). Takes milliseconds.
void ReturnFreeMemory();

}  // namespace shiftadd

#endif  // SHIFTADD_SERVICES_BASE_MEMORY_ROOM_H_
