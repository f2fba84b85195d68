#include "services/http/listen_address.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"

namespace shiftadd {
namespace {

using AddressList = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

absl::StatusOr<AddressList> Resolve(const std::string& host, int port) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* list = nullptr;
  const int error = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &list);
  if (error != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("address: cannot resolve \"", host, "\": ", gai_strerror(error)));
  }
  return AddressList(list, freeaddrinfo);
}

bool IsLoopback(const sockaddr& address) {
  if (address.sa_family == AF_INET) {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(address);
    return (ntohl(v4.sin_addr.s_addr) >> 24) == 127;
  }
  if (address.sa_family == AF_INET6) {
    return IN6_IS_ADDR_LOOPBACK(&reinterpret_cast<const sockaddr_in6&>(address).sin6_addr);
  }
  return false;
}

// The errno of binding and listening, 0 if that works. A machine without IPv6 has no use for such
// an address of "localhost": that is no error.
int TryBind(const addrinfo& entry) {
  const int fd = socket(entry.ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return errno == EAFNOSUPPORT ? 0 : errno;
  const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  int error = 0;
  if (bind(fd, entry.ai_addr, entry.ai_addrlen) != 0 || listen(fd, 1) != 0) error = errno;
  close(fd);
  return error;
}

// Host and port as they are written; none if they are not.
std::optional<ListenAddress> Split(const std::string& address) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos) return std::nullopt;
  ListenAddress parsed;
  parsed.host = address.substr(0, colon);
  const bool bracketed =
      parsed.host.size() > 2 && parsed.host.front() == '[' && parsed.host.back() == ']';
  if (bracketed) parsed.host = parsed.host.substr(1, parsed.host.size() - 2);
  if (parsed.host.empty() || (!bracketed && parsed.host.find(':') != std::string::npos))
    return std::nullopt;
  const std::string port = address.substr(colon + 1);
  if (!absl::SimpleAtoi(port, &parsed.port) || parsed.port < 0 || parsed.port > 65535)
    return std::nullopt;
  return parsed;
}

}  // namespace

std::string ListenAddressFault(const std::string& address) {
  if (Split(address).has_value()) return "";
  return absl::StrCat("expected host:port with a port from 0 to 65535, found \"", address, "\"");
}

absl::StatusOr<ListenAddress> ParseListenAddress(const std::string& address) {
  std::optional<ListenAddress> split = Split(address);
  if (!split.has_value()) {
    return absl::InvalidArgumentError(absl::StrCat("address: ", ListenAddressFault(address)));
  }
  ListenAddress parsed = *std::move(split);
  SA_ASSIGN_OR_RETURN(const AddressList list, Resolve(parsed.host, parsed.port));
  parsed.loopback = true;
  for (const addrinfo* a = list.get(); a != nullptr; a = a->ai_next) {
    parsed.loopback = parsed.loopback && IsLoopback(*a->ai_addr);
  }
  return parsed;
}

absl::StatusOr<ListenAddress> CheckListenAddress(const std::string& address,
                                                 bool allowed_beyond_loopback) {
  SA_ASSIGN_OR_RETURN(ListenAddress parsed, ParseListenAddress(address));
  if (!parsed.loopback && !allowed_beyond_loopback) {
    return absl::FailedPreconditionError(absl::StrCat(
        "address ", address, " reaches beyond this machine; expected a loopback address such as ",
        "127.0.0.1:", parsed.port, ", or TLS and identities: --tls-cert, --tls-key, and --tls-ca ",
        "or --tokens (--insecure-i-know allows other addresses, unprotected)"));
  }
  SA_ASSIGN_OR_RETURN(const AddressList list, Resolve(parsed.host, parsed.port));
  for (const addrinfo* a = list.get(); a != nullptr; a = a->ai_next) {
    const int error = TryBind(*a);
    if (error == EADDRINUSE) {
      return absl::FailedPreconditionError(absl::StrCat("address ", address, " is in use"));
    }
    if (error != 0 && a->ai_next == nullptr && a == list.get()) {
      return absl::FailedPreconditionError(
          absl::StrCat("address ", address, ": cannot listen: ", std::strerror(error)));
    }
  }
  return parsed;
}

}  // namespace shiftadd
