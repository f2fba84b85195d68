#include "worker/tensor/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"

namespace shiftadd {
namespace {

absl::Status FileError(const std::string& path, absl::string_view what, int error) {
  return absl::ErrnoToStatus(error, absl::StrCat(path, ": ", what));
}

}  // namespace

absl::StatusOr<std::unique_ptr<MappedFile>> MappedFile::Open(const std::string& path) {
  // O_NONBLOCK: opening a FIFO must not wait for a writer.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return FileError(path, "cannot be opened", errno);
  struct stat info;
  if (::fstat(fd, &info) != 0) {
    const int error = errno;
    ::close(fd);
    return FileError(path, "cannot be examined", error);
  }
  if (!S_ISREG(info.st_mode)) {
    ::close(fd);
    return absl::InvalidArgumentError(absl::StrCat(path, ": is not a regular file"));
  }
  const size_t size = static_cast<size_t>(info.st_size);
  void* address = nullptr;
  if (size > 0) {
    address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (address == MAP_FAILED) {
      const int error = errno;
      ::close(fd);
      return FileError(path, "cannot be mapped", error);
    }
  }
  ::close(fd);
  return std::unique_ptr<MappedFile>(new MappedFile(address, size));
}

MappedFile::~MappedFile() {
  if (address_ != nullptr) ::munmap(address_, size_);
}

absl::StatusOr<std::string> ReadTextFile(const std::string& path, size_t limit) {
  SA_ASSIGN_OR_RETURN(auto file, MappedFile::Open(path));
  if (file->data().size() > limit) {
    return absl::ResourceExhaustedError(
        absl::StrCat(path, ": has ", file->data().size(), " bytes, expected at most ", limit));
  }
  return std::string(file->data());
}

absl::Status WriteFile(const std::string& path, absl::string_view data) {
  std::FILE* file = std::fopen(path.c_str(), "wb");
  if (file == nullptr) return FileError(path, "cannot be created", errno);
  errno = 0;
  const bool written = std::fwrite(data.data(), 1, data.size(), file) == data.size();
  const int write_error = errno;
  const bool closed = std::fclose(file) == 0;
  if (!written) return FileError(path, "cannot be written", write_error);
  if (!closed) return FileError(path, "cannot be written", errno);
  return absl::OkStatus();
}

}  // namespace shiftadd
