#include "services/blob/registry_client.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/random/random.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "services/base/digest.h"
#include "services/base/status_macros.h"
#include "services/blob/checks.h"

namespace shiftadd::blob {
namespace {

using nlohmann::json;

constexpr absl::Duration kMaxPause = absl::Seconds(5);
constexpr char kManifestTypes[] =
    "Accept: application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json";

// A header's value, or "".
std::string Header(const HttpResponse& response, const char* name) {
  const auto found = response.headers.find(name);
  return found == response.headers.end() ? "" : found->second;
}

// The start of what a registry says, on one line.
std::string Says(const HttpResponse& response) {
  std::string text = response.body.substr(0, 200);
  for (char& c : text) c = absl::ascii_isprint(static_cast<unsigned char>(c)) ? c : ' ';
  absl::StripAsciiWhitespace(&text);
  return text.empty() ? "" : absl::StrCat(" (", text, ")");
}

bool IsTransient(int status) { return status == 429 || (status >= 500 && status != 507); }

absl::Status ToStatus(const HttpRequest& request, const HttpResponse& response) {
  if (response.status >= 200 && response.status < 300) return absl::OkStatus();
  const std::string text = absl::StrCat(request.method, " ", request.url, ": the registry answers ",
                                        response.status, Says(response));
  switch (response.status) {
    case 401:
      return absl::UnauthenticatedError(text);
    case 403:
      return absl::PermissionDeniedError(text);
    case 404:
      return absl::NotFoundError(text);
    case 413:
    case 507:
      return absl::ResourceExhaustedError(text);
    default:
      return IsTransient(response.status) ? absl::UnavailableError(text)
                                          : absl::FailedPreconditionError(text);
  }
}

// name="value" pairs of a WWW-Authenticate header, behind the scheme.
std::map<std::string, std::string> Parameters(absl::string_view text) {
  std::map<std::string, std::string> out;
  while (!text.empty()) {
    const size_t equals = text.find('=');
    if (equals == absl::string_view::npos) break;
    const std::string name =
        absl::AsciiStrToLower(absl::StripAsciiWhitespace(text.substr(0, equals)));
    text.remove_prefix(equals + 1);
    const bool quoted = absl::ConsumePrefix(&text, "\"");
    const size_t end = std::min(text.find(quoted ? '"' : ','), text.size());
    out[name] = std::string(text.substr(0, end));
    text.remove_prefix(end);
    const size_t comma = std::min(text.find(','), text.size());
    text.remove_prefix(std::min(comma + 1, text.size()));
  }
  return out;
}

std::string UrlEncode(const std::string& text) {
  std::string out;
  for (const unsigned char c : text) {
    if (absl::ascii_isalnum(c) || absl::StrContains("-._~", std::string(1, static_cast<char>(c)))) {
      out += static_cast<char>(c);
    } else {
      absl::StrAppend(&out, "%", absl::Hex(c, absl::kZeroPad2));
    }
  }
  return out;
}

std::string WithDigest(const std::string& url, const std::string& digest) {
  return absl::StrCat(url, absl::StrContains(url, "?") ? "&" : "?", "digest=", UrlEncode(digest));
}

// The pause before try `attempt` + 1: what the registry asks for, or doubling, with some chance so
// that many clients do not come back at once.
absl::Duration Pause(const RegistryOptions& options, int attempt, const HttpResponse* response) {
  int64_t seconds = 0;
  if (response != nullptr && absl::SimpleAtoi(Header(*response, "retry-after"), &seconds)) {
    return std::min(absl::Seconds(seconds), kMaxPause);
  }
  static thread_local absl::BitGen random;
  const double chance = absl::Uniform(random, 0.75, 1.25);
  return std::min(options.first_pause * (1 << std::min(attempt, 16)), kMaxPause) * chance;
}

}  // namespace

RegistryClient::RegistryClient(std::string base, RegistryOptions options)
    : base_(std::move(base)), options_(std::move(options)), http_(options_.http) {}

std::string RegistryClient::Url(const std::string& repository, const std::string& rest) const {
  return absl::StrCat(base_, "/v2/", repository, "/", rest);
}

std::string RegistryClient::Absolute(const std::string& location) const {
  return absl::StartsWith(location, "/") ? base_ + location : location;
}

std::string RegistryClient::Authorization(const std::string& repository) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = tokens_.find(repository);
  return found == tokens_.end() ? "" : found->second;
}

std::string RegistryClient::Basic() const {
  return absl::Base64Escape(options_.user + ":" + options_.password);
}

// What a registry, or a proxy before it, says of a refusal goes into messages: some repeat the
// request with all its headers.
void RegistryClient::HideSecrets(const std::string& repository, HttpResponse* response) {
  if (response->status < 400) return;
  std::string own = Authorization(repository);
  own.erase(0, std::min(own.size(), own.rfind(' ') + 1));
  for (const std::string& secret : {own, Basic(), options_.password}) {
    if (!secret.empty()) absl::StrReplaceAll({{secret, "(hidden)"}}, &response->body);
  }
}

// Learns from a 401 how to ask again.
absl::Status RegistryClient::Authorize(const std::string& challenge,
                                       const std::string& repository) {
  const std::string basic = absl::StrCat("Authorization: Basic ", Basic());
  std::string authorization = basic;
  if (absl::StartsWithIgnoreCase(challenge, "bearer ")) {
    auto parameters = Parameters(absl::string_view(challenge).substr(7));
    HttpRequest ask;
    const std::string& realm = parameters["realm"];
    ask.url = absl::StrCat(realm, absl::StrContains(realm, "?") ? "&" : "?",
                           "service=", UrlEncode(parameters["service"]),
                           "&scope=", UrlEncode(parameters["scope"]));
    if (!options_.user.empty()) ask.headers.push_back(basic);
    SA_ASSIGN_OR_RETURN(HttpResponse response, http_.Send(ask));
    HideSecrets(repository, &response);
    SA_RETURN_IF_ERROR(ToStatus(ask, response));
    const json answer = ParseJson(response.body);
    const json token = !answer.is_object() ? json() : answer.value("token", json());
    const json other = !answer.is_object() ? json() : answer.value("access_token", json());
    if (!token.is_string() && !other.is_string()) {
      return absl::UnauthenticatedError(absl::StrCat(ask.url, ": the answer holds no token"));
    }
    authorization = absl::StrCat("Authorization: Bearer ",
                                 (token.is_string() ? token : other).get<std::string>());
  } else if (options_.user.empty()) {
    return absl::UnauthenticatedError(
        absl::StrCat(base_,
                     ": the registry wants credentials: name a file with USER:PASSWORD in "
                     "SHIFTADD_REGISTRY_AUTH_FILE"));
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  tokens_[repository] = authorization;
  return absl::OkStatus();
}

absl::StatusOr<HttpResponse> RegistryClient::CallOnce(HttpRequest request,
                                                      const std::string& repository) {
  // A location or a next page at another host is asked without what the registry is told.
  const bool ours = absl::StartsWith(request.url, base_ + "/");
  const std::vector<std::string> plain = request.headers;
  for (const bool again : {false, true}) {
    request.headers = plain;
    const std::string authorization = ours ? Authorization(repository) : "";
    if (!authorization.empty()) request.headers.push_back(authorization);
    SA_ASSIGN_OR_RETURN(HttpResponse response, http_.Send(request));
    HideSecrets(repository, &response);
    if (response.status != 401 || again || !ours) return response;
    SA_RETURN_IF_ERROR(Authorize(Header(response, "www-authenticate"), repository));
  }
  return absl::InternalError("not reached");
}

absl::StatusOr<HttpResponse> RegistryClient::Call(const HttpRequest& request,
                                                  const std::string& repository) {
  for (int attempt = 0;; ++attempt) {
    absl::StatusOr<HttpResponse> response = CallOnce(request, repository);
    const bool transient =
        response.ok() ? IsTransient(response->status) : absl::IsUnavailable(response.status());
    if (!transient || attempt + 1 >= options_.attempts) return response;
    absl::SleepFor(Pause(options_, attempt, response.ok() ? &*response : nullptr));
  }
}

absl::StatusOr<bool> RegistryClient::HasBlob(const std::string& repository,
                                             const std::string& digest) {
  HttpRequest request{"HEAD", Url(repository, "blobs/" + digest)};
  SA_ASSIGN_OR_RETURN(const HttpResponse response, Call(request, repository));
  if (response.status == 404) return false;
  SA_RETURN_IF_ERROR(ToStatus(request, response));
  return true;
}

absl::StatusOr<bool> RegistryClient::PutBlob(const std::string& repository,
                                             const std::string& digest, absl::string_view data) {
  SA_ASSIGN_OR_RETURN(const bool there, HasBlob(repository, digest));
  if (there) return true;
  SA_ASSIGN_OR_RETURN(UploadSession session, BeginUpload(repository));
  while (data.size() > options_.chunk_bytes) {
    SA_RETURN_IF_ERROR(SendChunk(data.substr(0, options_.chunk_bytes), &session));
    data.remove_prefix(options_.chunk_bytes);
  }
  SA_RETURN_IF_ERROR(EndUpload(data, digest, &session));
  return false;
}

absl::StatusOr<bool> RegistryClient::MountBlob(const std::string& repository,
                                               const std::string& from, const std::string& digest) {
  HttpRequest request{
      "POST",
      Url(repository, absl::StrCat("blobs/uploads/?mount=", UrlEncode(digest), "&from=", from))};
  SA_ASSIGN_OR_RETURN(const HttpResponse response, Call(request, repository));
  SA_RETURN_IF_ERROR(ToStatus(request, response));
  if (response.status == 201) return true;
  DropUpload({Absolute(Header(response, "location")), 0});
  return false;
}

absl::StatusOr<UploadSession> RegistryClient::BeginUpload(const std::string& repository) {
  HttpRequest request{"POST", Url(repository, "blobs/uploads/")};
  SA_ASSIGN_OR_RETURN(const HttpResponse response, Call(request, repository));
  SA_RETURN_IF_ERROR(ToStatus(request, response));
  const std::string location = Header(response, "location");
  if (location.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat(request.url, ": the registry names no Location to upload to"));
  }
  return UploadSession{Absolute(location), 0};
}

namespace {

// The repository in an upload's URL, for its credentials.
std::string RepositoryOf(const std::string& url) {
  const size_t begin = url.find("/v2/"), end = url.find("/blobs/uploads/");
  if (begin == std::string::npos || end == std::string::npos || end < begin + 4) return "";
  return url.substr(begin + 4, end - begin - 4);
}

}  // namespace

// How many bytes the registry has; a session's URL changes with every answer.
absl::StatusOr<uint64_t> RegistryClient::SessionOffset(const std::string& repository,
                                                       UploadSession* session) {
  HttpRequest request{"GET", session->url};
  SA_ASSIGN_OR_RETURN(const HttpResponse response, Call(request, repository));
  SA_RETURN_IF_ERROR(ToStatus(request, response));
  const std::string location = Header(response, "location");
  if (!location.empty()) session->url = Absolute(location);
  const std::string range = Header(response, "range");  // "0-END", inclusive
  uint64_t end = 0;
  const size_t dash = range.find('-');
  if (dash == std::string::npos || !absl::SimpleAtoi(range.substr(dash + 1), &end)) return 0;
  return end == 0 ? 0 : end + 1;
}

absl::Status RegistryClient::SendChunk(absl::string_view data, UploadSession* session) {
  const std::string repository = RepositoryOf(session->url);
  const uint64_t begin = session->sent, end = begin + data.size();
  for (int attempt = 0;; ++attempt) {
    const absl::string_view rest = data.substr(session->sent - begin);
    HttpRequest request{"PATCH",
                        session->url,
                        {"Content-Type: application/octet-stream",
                         absl::StrCat("Content-Range: ", session->sent, "-", end - 1)},
                        rest};
    const absl::StatusOr<HttpResponse> response = CallOnce(request, repository);
    if (response.ok() && response->status >= 200 && response->status < 300) {
      const std::string location = Header(*response, "location");
      if (!location.empty()) session->url = Absolute(location);
      session->sent = end;
      return absl::OkStatus();
    }
    const bool transient = response.ok() ? IsTransient(response->status) || response->status == 416
                                         : absl::IsUnavailable(response.status());
    if (!transient || attempt + 1 >= options_.attempts) {
      return response.ok() ? ToStatus(request, *response) : response.status();
    }
    absl::SleepFor(Pause(options_, attempt, response.ok() ? &*response : nullptr));
    SA_ASSIGN_OR_RETURN(const uint64_t there, SessionOffset(repository, session));
    if (there < begin || there > end) {
      return absl::UnavailableError(absl::StrCat(session->url, ": the upload stands at ", there,
                                                 ", expected between ", begin, " and ", end));
    }
    session->sent = there;
    if (there == end) return absl::OkStatus();
  }
}

absl::Status RegistryClient::EndUpload(absl::string_view rest, const std::string& digest,
                                       UploadSession* session) {
  const std::string repository = RepositoryOf(session->url);
  HttpRequest request{
      "PUT", WithDigest(session->url, digest), {"Content-Type: application/octet-stream"}, rest};
  // Not Call: bytes that came in half would come twice.
  for (int attempt = 0;; ++attempt) {
    const absl::StatusOr<HttpResponse> response = CallOnce(request, repository);
    const bool transient =
        response.ok() ? IsTransient(response->status) : absl::IsUnavailable(response.status());
    if (!transient) {
      if (!response.ok()) return response.status();
      const absl::Status status = ToStatus(request, *response);
      if (absl::StrContains(response->body, "DIGEST_INVALID")) {
        return absl::DataLossError(status.message());
      }
      return status;
    }
    if (attempt + 1 >= options_.attempts) {
      return response.ok() ? ToStatus(request, *response) : response.status();
    }
    absl::SleepFor(Pause(options_, attempt, response.ok() ? &*response : nullptr));
    // It may have arrived whole; else the rest goes behind what is there.
    SA_ASSIGN_OR_RETURN(const bool there, HasBlob(repository, digest));
    if (there) return absl::OkStatus();
    if (session->sent == 0) {  // nothing to go on from; "0-0" may mean one byte or none
      SA_ASSIGN_OR_RETURN(*session, BeginUpload(repository));
      request.url = WithDigest(session->url, digest);
      continue;
    }
    SA_ASSIGN_OR_RETURN(const uint64_t offset, SessionOffset(repository, session));
    if (offset < session->sent || offset > session->sent + rest.size()) {
      return absl::UnavailableError(absl::StrCat(session->url, ": the upload stands at ", offset,
                                                 ", expected ", session->sent, " to ",
                                                 session->sent + rest.size()));
    }
    request.body = rest.substr(offset - session->sent);
    request.url = WithDigest(session->url, digest);
  }
}

void RegistryClient::DropUpload(const UploadSession& session) {
  if (session.url.empty()) return;
  CallOnce({"DELETE", session.url}, RepositoryOf(session.url)).IgnoreError();
}

absl::StatusOr<std::string> RegistryClient::GetBlob(const std::string& repository,
                                                    const std::string& digest) {
  std::string data;
  for (int attempt = 0;; ++attempt) {
    HttpRequest request{"GET", Url(repository, "blobs/" + digest)};
    if (!data.empty()) request.headers.push_back(absl::StrCat("Range: bytes=", data.size(), "-"));
    absl::StatusOr<HttpResponse> response = Call(request, repository);
    if (!response.ok()) return response.status();
    if (response->status == 416) break;  // all of it was there
    SA_RETURN_IF_ERROR(ToStatus(request, *response));
    if (response->status != 206) data.clear();
    data.append(response->body);
    if (!response->cut) break;
    if (attempt + 1 >= options_.attempts) {
      return absl::UnavailableError(
          absl::StrCat(request.url, ": cut off after ", data.size(), " bytes, again and again"));
    }
    absl::SleepFor(Pause(options_, attempt, nullptr));
  }
  const std::string found = Sha256Digest(data);
  if (found == digest) return data;
  return absl::DataLossError(
      absl::StrCat(Url(repository, "blobs/"), ": expected digest ", digest, ", found ", found));
}

absl::StatusOr<std::string> RegistryClient::GetBlobRange(const std::string& repository,
                                                         const std::string& digest, uint64_t offset,
                                                         uint64_t length) {
  std::string data;
  for (int attempt = 0; data.size() < length; ++attempt) {
    if (attempt >= options_.attempts) {
      return absl::UnavailableError(
          absl::StrCat(Url(repository, "blobs/" + digest), ": cut off, again and again"));
    }
    HttpRequest request{
        "GET",
        Url(repository, "blobs/" + digest),
        {absl::StrCat("Range: bytes=", offset + data.size(), "-", offset + length - 1)}};
    SA_ASSIGN_OR_RETURN(HttpResponse response, Call(request, repository));
    SA_RETURN_IF_ERROR(ToStatus(request, response));
    if (response.status != 206) {  // it gives the whole
      response.body.erase(0, offset + data.size());
    }
    data.append(response.body, 0, length - data.size());
    if (!response.cut) break;
  }
  return data;
}

absl::StatusOr<std::string> RegistryClient::GetManifest(const std::string& repository,
                                                        const std::string& reference) {
  HttpRequest request{"GET", Url(repository, "manifests/" + reference), {kManifestTypes}};
  SA_ASSIGN_OR_RETURN(HttpResponse response, Call(request, repository));
  SA_RETURN_IF_ERROR(ToStatus(request, response));
  if (response.cut) return absl::UnavailableError(absl::StrCat(request.url, ": cut off"));
  return std::move(response.body);
}

absl::Status RegistryClient::PutManifest(const std::string& repository,
                                         const std::string& reference,
                                         const std::string& media_type,
                                         const std::string& manifest) {
  HttpRequest request{
      "PUT", Url(repository, "manifests/" + reference), {"Content-Type: " + media_type}, manifest};
  SA_ASSIGN_OR_RETURN(const HttpResponse response, Call(request, repository));
  return ToStatus(request, response);
}

absl::Status RegistryClient::DeleteManifest(const std::string& repository,
                                            const std::string& digest) {
  HttpRequest request{"DELETE", Url(repository, "manifests/" + digest)};
  SA_ASSIGN_OR_RETURN(const HttpResponse response, Call(request, repository));
  if (response.status == 404) return absl::OkStatus();
  if (response.status == 405) {
    return absl::FailedPreconditionError(
        absl::StrCat(request.url,
                     ": the registry does not delete: set storage.delete.enabled in its "
                     "configuration (REGISTRY_STORAGE_DELETE_ENABLED=true)"));
  }
  return ToStatus(request, response);
}

absl::StatusOr<std::vector<std::string>> RegistryClient::ListTags(const std::string& repository) {
  std::vector<std::string> tags;
  std::set<std::string> asked;
  std::string url = Url(repository, "tags/list?n=1000");
  while (!url.empty()) {
    if (!asked.insert(url).second) {
      return absl::DataLossError(
          absl::StrCat(url, ": the pages of the list of tags go in circles"));
    }
    HttpRequest request{"GET", url};
    SA_ASSIGN_OR_RETURN(const HttpResponse response, Call(request, repository));
    if (response.status == 404) break;
    SA_RETURN_IF_ERROR(ToStatus(request, response));
    const json answer = ParseJson(response.body);
    const json list = !answer.is_object() ? json() : answer.value("tags", json());
    if (!answer.is_object() || (!list.is_null() && !list.is_array())) {
      return absl::DataLossError(absl::StrCat(url, ": expected an object with a list \"tags\""));
    }
    for (const json& tag : list) {
      if (tag.is_string()) tags.push_back(tag.get<std::string>());
    }
    // Link: </v2/…?last=…>; rel="next"
    const std::string link = Header(response, "link");
    const size_t begin = link.find('<'), end = link.find('>');
    url = begin == std::string::npos || end == std::string::npos
              ? ""
              : Absolute(link.substr(begin + 1, end - begin - 1));
  }
  std::sort(tags.begin(), tags.end());
  tags.erase(std::unique(tags.begin(), tags.end()), tags.end());
  return tags;
}

}  // namespace shiftadd::blob
