#include "tests/fuzz/fuzz.h"

#include <sys/mman.h>
#include <unistd.h>

namespace shiftadd::fuzz {

MemoryFile::MemoryFile(const uint8_t* data, size_t size) : fd_(memfd_create("fuzz", 0)) {
  Require(fd_ >= 0, "memfd_create works");
  size_t written = 0;
  while (written < size) {
    const ssize_t n = write(fd_, data + written, size - written);
    Require(n > 0, "memory takes the input");
    written += static_cast<size_t>(n);
  }
  path_ = "/proc/self/fd/" + std::to_string(fd_);
}

MemoryFile::~MemoryFile() { close(fd_); }

}  // namespace shiftadd::fuzz
