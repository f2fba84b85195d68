#include "services/rpc/addresses.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_split.h"

namespace shiftadd::rpc {

std::vector<std::string> SplitAddresses(absl::string_view list) {
  std::vector<std::string> addresses;
  for (const absl::string_view part : absl::StrSplit(list, ',')) {
    const absl::string_view address = absl::StripAsciiWhitespace(part);
    if (!address.empty()) addresses.emplace_back(address);
  }
  return addresses;
}

size_t Rotation::current() const {
  const std::lock_guard<std::mutex> hold(mutex_);
  return current_;
}

bool Rotation::Note(size_t called, const absl::Status& status) {
  const std::lock_guard<std::mutex> hold(mutex_);
  if (!absl::IsUnavailable(status) && !absl::IsDeadlineExceeded(status)) {
    // An answer, if only a refusal.
    if (called == current_) failed_ = 0;
    return false;
  }
  // Somebody else has moved on already.
  if (called != current_) return failed_ % size_ != 0 || failed_ == 0;
  current_ = (current_ + 1) % size_;
  return ++failed_ % size_ != 0;
}

}  // namespace shiftadd::rpc
