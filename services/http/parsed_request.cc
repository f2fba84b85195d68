#include "services/http/parsed_request.h"

#include <algorithm>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/string_view.h"
#include "services/base/ids.h"

namespace shiftadd::http {
namespace {

namespace bhttp = boost::beast::http;

bool IsId(absl::string_view text) {
  if (text.empty() || text.size() > 128) return false;
  return std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-';
  });
}

}  // namespace

Request ToRequest(const bhttp::request<bhttp::string_body>& from) {
  Request request;
  request.method = absl::AsciiStrToUpper(std::string(from.method_string()));
  std::string target(from.target());
  if (const size_t scheme = target.find("://");
      scheme != std::string::npos && target[0] != '/') {  // absolute form, as proxies send
    const size_t slash = target.find('/', scheme + 3);
    target = slash == std::string::npos ? "/" : target.substr(slash);
  }
  const size_t question = target.find('?');
  request.path = target.substr(0, question);
  if (question != std::string::npos) request.query = target.substr(question + 1);
  for (const auto& field : from) {
    std::string& value = request.headers[absl::AsciiStrToLower(std::string(field.name_string()))];
    if (!value.empty()) value += ", ";
    value += std::string(field.value());
  }
  const auto id = request.headers.find("x-request-id");
  request.id = id != request.headers.end() && IsId(id->second) ? id->second : NewId("req");
  request.body = from.body();
  return request;
}

}  // namespace shiftadd::http
