// An HTTP/1.1 client over plain sockets for tests: it can also send what no client should.
#ifndef SHIFTADD_TESTS_HTTP_CLIENT_H_
#define SHIFTADD_TESTS_HTTP_CLIENT_H_

#include <functional>
#include <map>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace shiftadd::testing {

struct HttpAnswer {
  int status = 0;     // 0: no answer
  std::string fault;  // why it is none, or not whole: "closed", "reset", "timeout", "malformed: …";
                      // empty: whole
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;
  bool ok() const { return status == 200 && fault.empty(); }
};

// One connection to 127.0.0.1. Not thread-safe.
class HttpClient {
 public:
  // `timeout`: of each wait for bytes.
  explicit HttpClient(int port, absl::Duration timeout = absl::Seconds(60));
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  bool connected() const { return fd_ >= 0; }
  // False once the server has closed.
  bool Send(absl::string_view bytes);
  // `on_body` gets the body's pieces as they come (they are in the answer too).
  HttpAnswer Receive(const std::function<void(absl::string_view)>& on_body = nullptr);
  // `headers`: whole lines with their ends.
  HttpAnswer Post(const std::string& path, const std::string& body, const std::string& headers = "",
                  const std::function<void(absl::string_view)>& on_body = nullptr);
  HttpAnswer Get(const std::string& path, const std::string& headers = "");
  // Closes with a reset, as a client that crashes does.
  void Abort();

 private:
  // Appends to rest_; says why it could not.
  std::string ReadMore();

  int fd_ = -1;
  std::string rest_;  // read beyond the last answer
};

// The payload of each whole "data: …" event in `text` from `*offset` on, which moves behind them.
void ForEachEvent(absl::string_view text, size_t* offset,
                  const std::function<void(absl::string_view)>& take);

}  // namespace shiftadd::testing

#endif  // SHIFTADD_TESTS_HTTP_CLIENT_H_
