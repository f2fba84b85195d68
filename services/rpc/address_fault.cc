#include "services/rpc/address_fault.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/rpc/addresses.h"

namespace shiftadd::rpc {

std::string AddressFault(const std::string& list) {
  const auto whole = [](const std::string& address) {
    const size_t colon = address.rfind(':');
    return colon != std::string::npos && colon > 0 && colon + 1 < address.size();
  };
  const std::vector<std::string> addresses = SplitAddresses(list);
  // An empty one is dropped there: somebody was forgotten.
  const bool all =
      static_cast<int64_t>(addresses.size()) == 1 + std::count(list.begin(), list.end(), ',');
  if (all && std::all_of(addresses.begin(), addresses.end(), whole)) return "";
  return absl::StrCat("expected HOST:PORT, or several with commas, found \"", list, "\"");
}

}  // namespace shiftadd::rpc
