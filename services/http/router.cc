#include "services/http/router.h"

#include <exception>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "nlohmann/json.hpp"
#include "services/base/logging.h"

namespace shiftadd::http {
namespace {

constexpr char kBelow[] = "/*";

const char* TypeOf(int status) {
  if (status == 429) return "rate_limit_error";
  return status >= 500 ? "server_error" : "invalid_request_error";
}

}  // namespace

Response JsonError(int status, const std::string& message, const std::string& type,
                   const std::string& code) {
  nlohmann::json error = {{"message", message},
                          {"type", type.empty() ? TypeOf(status) : type},
                          {"param", nullptr},
                          {"code", status}};
  if (!code.empty()) error["code"] = code;
  Response response;
  response.status = status;
  // A message may quote what the client sent, which need not be UTF-8.
  response.body = nlohmann::json{{"error", error}}.dump(-1, ' ', false,
                                                        nlohmann::json::error_handler_t::replace);
  return response;
}

HttpServer::Routes::const_iterator Router::FindRoute(const std::string& path) const {
  const auto exact = routes_.find(path);
  if (exact != routes_.end()) return exact;
  for (size_t slash = path.rfind('/'); slash != std::string::npos && slash > 0;
       slash = path.rfind('/', slash - 1)) {
    if (slash + 1 == path.size()) continue;  // nothing below
    const auto below = routes_.find(path.substr(0, slash) + kBelow);
    if (below != routes_.end()) return below;
  }
  return routes_.end();
}

const Handler* Router::Find(const std::string& method, const std::string& path,
                            Response* refusal) const {
  const auto route = FindRoute(path);
  if (route == routes_.end()) {
    *refusal = JsonError(404, absl::StrCat("no such path: ", path), "", "not_found");
    return nullptr;
  }
  const auto& methods = route->second;
  auto handler = methods.find(method);
  if (handler == methods.end() && method == "HEAD") handler = methods.find("GET");
  if (handler != methods.end()) return &handler->second;
  std::set<std::string> allowed;
  for (const auto& [name, unused] : methods) allowed.insert(name);
  if (allowed.count("GET") > 0) allowed.insert("HEAD");
  const std::string list = absl::StrJoin(allowed, ", ");
  *refusal = JsonError(405, absl::StrCat(path, " takes ", list, ", not ", method), "",
                       "method_not_allowed");
  refusal->headers["Allow"] = list;
  return nullptr;
}

Response Router::Call(const Handler& handler, const Request& request, StreamWriter* writer,
                      bool* threw) {
  *threw = true;
  try {
    Response response = handler(request, writer);
    *threw = false;
    return response;
  } catch (const std::exception& e) {
    spdlog::error("http: {} {}: handler threw: {}", request.method, request.path, e.what());
  } catch (...) {
    spdlog::error("http: {} {}: handler threw", request.method, request.path);
  }
  return JsonError(500, "internal error", "", "internal_error");
}

}  // namespace shiftadd::http
