#include "services/rpc/tls_probe.h"

#include <netdb.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <memory>

namespace shiftadd::rpc {
namespace {

// A connected socket, or -1.
int Connect(const std::string& host, const std::string& port) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  if (getaddrinfo(host.c_str(), port.c_str(), &hints, &list) != 0) return -1;
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(list, freeaddrinfo);
  const int fd = socket(list->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  const timeval second{1, 0};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &second, sizeof(second));
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &second, sizeof(second));  // of connecting too
  if (connect(fd, list->ai_addr, list->ai_addrlen) == 0) return fd;
  close(fd);
  return -1;
}

}  // namespace

bool SpeaksTls(const std::string& address) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos) return false;
  std::string host = address.substr(0, colon);
  if (host.size() > 2 && host.front() == '[') host = host.substr(1, host.size() - 2);
  const int fd = Connect(host, address.substr(colon + 1));
  if (fd < 0) return false;
  const std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> context(SSL_CTX_new(TLS_client_method()),
                                                                  SSL_CTX_free);
  bool speaks = false;
  if (context != nullptr) {
    const std::unique_ptr<SSL, decltype(&SSL_free)> ssl(SSL_new(context.get()), SSL_free);
    if (ssl != nullptr && SSL_set_fd(ssl.get(), fd) == 1) {
      SSL_connect(ssl.get());  // may be refused in the end for want of a certificate
      speaks = SSL_get0_peer_certificate(ssl.get()) != nullptr;
    }
  }
  ERR_clear_error();
  close(fd);
  return speaks;
}

}  // namespace shiftadd::rpc
