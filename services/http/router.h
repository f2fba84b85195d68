// From a request to its handler.
#ifndef SHIFTADD_SERVICES_HTTP_ROUTER_H_
#define SHIFTADD_SERVICES_HTTP_ROUTER_H_

#include <string>

#include "services/http/http_server.h"

namespace shiftadd::http {

// Thread-safe: immutable.
class Router {
 public:
  explicit Router(HttpServer::Routes routes) : routes_(std::move(routes)) {}

  // Null if there is none; then `*refusal` is the 404 or 405. HEAD finds GET's handler.
  const Handler* Find(const std::string& method, const std::string& path, Response* refusal) const;

  // Calls the handler; what it throws becomes a 500 and `*threw`.
  static Response Call(const Handler& handler, const Request& request, StreamWriter* writer,
                       bool* threw);

 private:
  // The path's own, else that of the nearest path above it whose routes go below.
  HttpServer::Routes::const_iterator FindRoute(const std::string& path) const;

  const HttpServer::Routes routes_;
};

}  // namespace shiftadd::http

#endif  // SHIFTADD_SERVICES_HTTP_ROUTER_H_
