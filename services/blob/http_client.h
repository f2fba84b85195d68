// HTTP requests over libcurl, one at a time and without retries.
#ifndef SHIFTADD_SERVICES_BLOB_HTTP_CLIENT_H_
#define SHIFTADD_SERVICES_BLOB_HTTP_CLIENT_H_

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace shiftadd::blob {

struct HttpRequest {
  std::string method = "GET";  // GET, HEAD, POST, PUT, PATCH, DELETE
  std::string url;
  std::vector<std::string> headers;  // "Name: value"
  absl::string_view body;            // not owned
};

struct HttpResponse {
  int status = 0;
  std::map<std::string, std::string> headers;  // names in lower case; of repeated ones the last
  std::string body;
  std::string url;  // where redirects led
  // The connection broke after `body`: what came is good as far as it goes.
  bool cut = false;
};

struct HttpClientOptions {
  std::string ca_file;  // PEM; empty: the system's
  absl::Duration connect_timeout = absl::Seconds(10);
  // A transfer that moves less than a byte a second for so long is given up.
  absl::Duration stall_timeout = absl::Seconds(30);
};

// Thread-safe. Connections are kept for later requests.
class HttpClient {
 public:
  explicit HttpClient(HttpClientOptions options);
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  // UNAVAILABLE: no answer (refused, timed out, cut before its head). FAILED_PRECONDITION: the
  // server's certificate is not trusted. Any HTTP status is an answer. An "Authorization" header is
  // not sent on to another host.
  absl::StatusOr<HttpResponse> Send(const HttpRequest& request);

 private:
  struct Handle;
  std::unique_ptr<Handle> Take();
  void Return(std::unique_ptr<Handle> handle);

  const HttpClientOptions options_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Handle>> idle_;
};

}  // namespace shiftadd::blob

#endif  // SHIFTADD_SERVICES_BLOB_HTTP_CLIENT_H_
