#include "services/blob/testing/scripted_http.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace shiftadd::testing {

ScriptedHttp::ScriptedHttp(Script script) : script_(std::move(script)) {
  listener_ = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  if (bind(listener_, reinterpret_cast<sockaddr*>(&address), size) != 0 ||
      listen(listener_, 16) != 0 ||
      getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    std::abort();
  }
  port_ = ntohs(address.sin_port);
  thread_ = std::thread([this] { Serve(); });
}

ScriptedHttp::~ScriptedHttp() {
  shutdown(listener_, SHUT_RDWR);
  thread_.join();
  close(listener_);
}

std::string ScriptedHttp::url() const { return absl::StrCat("http://127.0.0.1:", port_); }

std::vector<ScriptedRequest> ScriptedHttp::requests() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return requests_;
}

void ScriptedHttp::Serve() {
  for (;;) {
    const int connection = accept(listener_, nullptr, nullptr);
    if (connection < 0) return;
    Answer(connection);
    close(connection);
  }
}

void ScriptedHttp::Answer(int connection) {
  std::string text;
  size_t head = std::string::npos;
  char buffer[4096];
  const auto more = [&] {
    const ssize_t n = read(connection, buffer, sizeof(buffer));
    if (n > 0) text.append(buffer, static_cast<size_t>(n));
    return n > 0;
  };
  while ((head = text.find("\r\n\r\n")) == std::string::npos) {
    if (!more()) return;
  }
  ScriptedRequest request;
  const std::vector<std::string> lines = absl::StrSplit(text.substr(0, head), "\r\n");
  const std::vector<std::string> first = absl::StrSplit(lines[0], ' ');
  request.method = first[0];
  request.path = first[1];
  for (size_t i = 1; i < lines.size(); ++i) {
    const size_t colon = lines[i].find(':');
    request.headers[absl::AsciiStrToLower(lines[i].substr(0, colon))] =
        std::string(absl::StripAsciiWhitespace(lines[i].substr(colon + 1)));
  }
  size_t length = 0;
  if (const auto found = request.headers.find("content-length"); found != request.headers.end()) {
    static_cast<void>(absl::SimpleAtoi(found->second, &length));
  }
  while (text.size() < head + 4 + length) {
    if (!more()) break;
  }
  request.body = text.substr(head + 4);
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    requests_.push_back(request);
  }
  const ScriptedAnswer answer = script_(request);
  std::string out = absl::StrCat("HTTP/1.1 ", answer.status, " X\r\nConnection: close\r\n",
                                 "Content-Length: ", answer.body.size(), "\r\n");
  for (const std::string& header : answer.headers) absl::StrAppend(&out, header, "\r\n");
  out += "\r\n";
  if (request.method != "HEAD") {
    out += answer.cut_after < 0 ? answer.body
                                : answer.body.substr(0, static_cast<size_t>(answer.cut_after));
  }
  for (size_t sent = 0; sent < out.size();) {
    const ssize_t n = send(connection, out.data() + sent, out.size() - sent, MSG_NOSIGNAL);
    if (n <= 0) return;
    sent += static_cast<size_t>(n);
  }
}

}  // namespace shiftadd::testing
