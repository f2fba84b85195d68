// A small HTTP/1.1 server on Boost.Beast: every daemon's /metrics, /health and /ready, and the
// OpenAI API.
#ifndef SHIFTADD_SERVICES_HTTP_HTTP_SERVER_H_
#define SHIFTADD_SERVICES_HTTP_HTTP_SERVER_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/access/tls_files.h"

namespace shiftadd::http {

struct Request {
  // The client's X-Request-Id if it is one (1 to 128 letters, digits, '.', '_', '-'), else a new
  // one; the answer has it in the same header.
  std::string id;
  std::string method;  // upper case
  std::string path;    // without the query
  std::string query;
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;
  // Of the certificate that the client has shown and TLS verified; else empty.
  std::string certificate_uri;      // its first URI
  std::string certificate_subject;  // as RFC 2253 writes it
  std::string peer;                 // the client's IP address
};

struct Response {
  int status = 200;
  std::string content_type = "application/json";
  std::map<std::string, std::string> headers;
  std::string body;
};

// {"error":{"message","type","param":null,"code"}} as OpenAI's clients read it. An empty `type`
// follows from the status (invalid_request_error, rate_limit_error, server_error); an empty `code`
// is null.
Response JsonError(int status, const std::string& message, const std::string& type = "",
                   const std::string& code = "");

// Sends a chunked response piece by piece (SSE).
class StreamWriter {
 public:
  virtual ~StreamWriter() = default;
  // Sends the status line and headers. Once, before Write.
  virtual bool Start(const Response& head) = 0;
  // False once the client has gone: stop working for it.
  virtual bool Write(const std::string& data) = 0;
  // True while the client is connected (also notices a close when nothing is written) and the
  // server is not shutting down: a handler that blocks should look at it at least once a second.
  //
  // A client may end its own side after the request (`nc -N`, shutdown(SHUT_WR)) and still read its
  // answer. One that has closed looks the same until something is sent to it; so it is asked, now
  // and then, by what means nothing to who reads on: "100 Continue" before the answer, a comment in
  // an event stream. Where there is no such thing (HTTP/1.0 before the answer, a stream of another
  // type) the end of its side counts as gone, as proxies that speak HTTP/1.0 mean it.
  virtual bool Connected() = 0;
};

// A handler either returns a response, or calls writer->Start and Write and returns anything
// (ignored then). Called on a worker thread; may block. `writer` is never null.
using Handler = std::function<Response(const Request& request, StreamWriter* writer)>;

// Looks at a request before its body is read and before its path is. Nothing: go on; a response:
// that is the answer. Called from several threads.
using Guard = std::function<std::optional<Response>(const Request& head)>;

struct HttpServerOptions {
  std::string address;  // host:port; port 0 picks one
  bool insecure_beyond_loopback = false;
  access::TlsFiles tls;                // with a certificate: TLS only, 1.2 or later; files watched
  uint64_t max_body_bytes = 8u << 20;  // beyond: 413 before the body is read
  int max_connections = 256;           // beyond: 503
  int header_timeout_seconds = 10;     // from the first byte of a request to its last header: 408
  Guard guard;                         // may be null
  // While it is true answers say "Connection: close", and every request is served as ever: so that
  // clients that keep connections go elsewhere before a shutdown. May be null.
  std::function<bool()> parting;
  // Origins whose pages may read the answers ("*": all), by CORS; none unless named here.
  std::vector<std::string> cors_origins;
};

class HttpServer {
 public:
  virtual ~HttpServer() = default;
  // Routes: path -> method -> handler. A path is exact, or ends in "/*" and takes every path below
  // that has none of its own, as the client wrote it (percent_encoding.h). Unknown paths answer
  // 404, unknown methods 405 with Allow, a handler that throws 500. HEAD is served where GET is.
  using Routes = std::map<std::string, std::map<std::string, Handler>>;
  // FAILED_PRECONDITION: the address is in use or not loopback; INVALID_ARGUMENT: it is none.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const HttpServerOptions& options,
                                                           Routes routes);
  virtual int port() const = 0;
  // Takes no more connections, closes idle ones, lets running handlers answer, and waits for them;
  // a client that does not read its answer is dropped after a few seconds. Called by the destructor
  // too.
  virtual void Shutdown() = 0;
};

}  // namespace shiftadd::http

#endif  // SHIFTADD_SERVICES_HTTP_HTTP_SERVER_H_
