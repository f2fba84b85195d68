#include "services/base/ids.h"

#include <random>

#include "absl/strings/str_cat.h"

namespace shiftadd {

std::string NewId(absl::string_view prefix) {
  constexpr absl::string_view kAlphabet = "abcdefghijklmnopqrstuvwxyz0123456789";
  constexpr int kLength = 12;
  thread_local std::random_device device;
  std::uniform_int_distribution<size_t> pick(0, kAlphabet.size() - 1);
  std::string id = absl::StrCat(prefix, "-");
  for (int i = 0; i < kLength; ++i) id.push_back(kAlphabet[pick(device)]);
  return id;
}

}  // namespace shiftadd
