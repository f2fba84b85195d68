#include "services/cli/files.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace shiftadd::cli {
namespace fs = std::filesystem;

absl::StatusOr<std::string> ReadFile(const std::string& path, size_t max_bytes) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status)) {
    return absl::NotFoundError(absl::StrCat(path, ": no such file"));
  }
  if (fs::is_directory(status)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": is a folder, expected a file"));
  }
  std::ifstream in(path, std::ios::binary);
  if (!in) return absl::NotFoundError(absl::StrCat(path, ": ", std::strerror(errno)));
  std::string content;
  std::vector<char> piece(1 << 16);
  while (in.read(piece.data(), static_cast<std::streamsize>(piece.size())), in.gcount() > 0) {
    content.append(piece.data(), static_cast<size_t>(in.gcount()));
    if (content.size() > max_bytes) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": longer than ", max_bytes, " bytes, which is the limit here"));
    }
  }
  return content;
}

absl::Status WriteFileAtomically(const std::string& path, const std::string& content) {
  const auto write = [&](const std::string& to) -> absl::Status {
    std::ofstream out(to, std::ios::binary | std::ios::trunc);
    out << content;
    out.flush();
    if (out) return absl::OkStatus();
    return absl::ResourceExhaustedError(absl::StrCat("writing ", path, ": ", std::strerror(errno)));
  };
  std::error_code error, ignored;
  const fs::file_status there = fs::status(path, ignored);
  // A pipe or a device (/dev/stdout) is written to: a rename would put a file in its place.
  if (fs::exists(there) && !fs::is_regular_file(there)) return write(path);
  // Behind a link, so that the link stays one.
  const fs::path real = fs::canonical(path, error);
  const std::string target = error ? path : real.string();  // not there yet
  const std::string temporary = absl::StrCat(target, ".", getpid(), ".tmp");
  absl::Status status = write(temporary);
  if (status.ok()) {
    fs::rename(temporary, target, error);
    if (!error) return absl::OkStatus();
    status = absl::InternalError(absl::StrCat("writing ", path, ": ", error.message()));
  }
  fs::remove(temporary, ignored);
  return status;
}

std::string AbsolutePath(const std::string& path) {
  std::error_code error;
  const fs::path absolute = fs::absolute(path, error);
  return error ? path : absolute.string();
}

std::string TailOfFile(const std::string& path, int lines) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return "";
  constexpr std::streamoff kWindow = 16 << 10;
  in.seekg(0, std::ios::end);
  const std::streamoff size = in.tellg();
  in.seekg(size > kWindow ? size - kWindow : 0);
  std::stringstream buffer;
  buffer << in.rdbuf();
  std::vector<std::string> all = absl::StrSplit(buffer.str(), '\n', absl::SkipEmpty());
  std::string tail;
  const size_t first = all.size() > static_cast<size_t>(lines) ? all.size() - lines : 0;
  for (size_t i = first; i < all.size(); ++i) absl::StrAppend(&tail, "  ", all[i], "\n");
  return tail;
}

}  // namespace shiftadd::cli
