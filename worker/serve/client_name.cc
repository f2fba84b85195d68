#include "worker/serve/client_name.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "services/access/bearer.h"
#include "services/base/digest.h"

namespace shiftadd {

std::string ClientName(absl::string_view authorization, absl::string_view certificate,
                       absl::string_view peer) {
  // Of the key alone: one that is written another way is no other client. It goes before the
  // certificate, as in access.cc: a proxy's certificate is every user's.
  if (const auto key = access::BearerOf(authorization); key.has_value()) {
    return absl::StrCat("key ", Sha256Digest(*key));
  }
  if (!certificate.empty()) return absl::StrCat("certificate ", certificate);
  if (absl::StartsWith(peer, "ipv4:") || absl::StartsWith(peer, "ipv6:")) {
    peer.remove_prefix(5);
    peer = peer.substr(0, peer.rfind(':'));
    // gRPC escapes the brackets of an IPv6 address.
    for (const absl::string_view open : {"%5B", "["}) {
      if (absl::StartsWith(peer, open)) peer.remove_prefix(open.size());
    }
    for (const absl::string_view close : {"%5D", "]"}) {
      if (absl::EndsWith(peer, close)) peer.remove_suffix(close.size());
    }
  }
  return absl::StrCat("address ", peer);
}

std::string TooOftenMessage(const access::RateLimit& rates) {
  return absl::StrCat("this client sends more than ", rates.rate(),
                      " requests a second (--client-requests-per-second); try again later");
}

}  // namespace shiftadd
