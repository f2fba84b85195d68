#include "tests/http_client.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <boost/asio/buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <cerrno>
#include <cstdint>
#include <limits>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace shiftadd::testing {
namespace {

namespace http = boost::beast::http;
using Error = boost::beast::error_code;

constexpr size_t kPiece = 64 << 10;

}  // namespace

HttpClient::HttpClient(int port, absl::Duration timeout) {
  fd_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd_ < 0) return;
  const timeval limit = absl::ToTimeval(timeout);
  setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
  setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
  const int on = 1;
  setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
    close(fd_);
    fd_ = -1;
  }
}

HttpClient::~HttpClient() {
  if (fd_ >= 0) close(fd_);
}

void HttpClient::Abort() {
  const linger now = {1, 0};
  setsockopt(fd_, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
  close(fd_);
  fd_ = -1;
}

bool HttpClient::Send(absl::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
  return true;
}

std::string HttpClient::ReadMore() {
  char piece[kPiece];
  ssize_t got = 0;
  do {
    got = recv(fd_, piece, sizeof(piece), 0);
  } while (got < 0 && errno == EINTR);
  if (got == 0) return "closed";
  if (got < 0) return errno == EAGAIN || errno == EWOULDBLOCK ? "timeout" : "reset";
  rest_.append(piece, static_cast<size_t>(got));
  return "";
}

HttpAnswer HttpClient::Receive(const std::function<void(absl::string_view)>& on_body) {
  HttpAnswer answer;
  http::response_parser<http::string_body> parser;
  parser.body_limit(std::numeric_limits<uint64_t>::max());
  parser.eager(true);
  size_t told = 0;
  while (!parser.is_done() && answer.fault.empty()) {
    Error e;
    const size_t used = rest_.empty() ? 0 : parser.put(boost::asio::buffer(rest_), e);
    rest_.erase(0, used);
    const std::string& body = parser.get().body();
    if (on_body && body.size() > told) on_body(absl::string_view(body).substr(told));
    told = body.size();
    if (e && e != http::error::need_more) answer.fault = absl::StrCat("malformed: ", e.message());
    if (parser.is_done() || !answer.fault.empty() || (used > 0 && !rest_.empty())) continue;
    answer.fault = ReadMore();
    if (answer.fault != "closed") continue;
    parser.put_eof(e);  // the end of a body without a length
    if (parser.is_done() && !e) answer.fault.clear();
  }
  if (parser.is_header_done()) answer.status = static_cast<int>(parser.get().result_int());
  for (const auto& field : parser.get()) {
    answer.headers[absl::AsciiStrToLower(std::string(field.name_string()))] =
        std::string(field.value());
  }
  answer.body = parser.get().body();
  return answer;
}

HttpAnswer HttpClient::Post(const std::string& path, const std::string& body,
                            const std::string& headers,
                            const std::function<void(absl::string_view)>& on_body) {
  const std::string head =
      absl::StrCat("POST ", path, " HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n",
                   "Content-Length: ", body.size(), "\r\n", headers, "\r\n");
  Send(head + body);  // if it fails, the server may have answered before it read everything
  return Receive(on_body);
}

HttpAnswer HttpClient::Get(const std::string& path, const std::string& headers) {
  Send(absl::StrCat("GET ", path, " HTTP/1.1\r\nHost: test\r\n", headers, "\r\n"));
  return Receive();
}

void ForEachEvent(absl::string_view text, size_t* offset,
                  const std::function<void(absl::string_view)>& take) {
  while (true) {
    const size_t end = text.find("\n\n", *offset);
    if (end == absl::string_view::npos) return;
    const absl::string_view event = text.substr(*offset, end - *offset);
    *offset = end + 2;
    if (event.substr(0, 6) == "data: ") take(event.substr(6));
  }
}

}  // namespace shiftadd::testing
