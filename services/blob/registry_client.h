// The OCI distribution API: what one repository of a registry can do.
#ifndef SHIFTADD_SERVICES_BLOB_REGISTRY_CLIENT_H_
#define SHIFTADD_SERVICES_BLOB_REGISTRY_CLIENT_H_

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "nlohmann/json.hpp"
#include "services/blob/http_client.h"

namespace shiftadd::blob {

struct RegistryOptions {
  std::string user, password;  // for basic authentication, and to ask for tokens; may be empty
  HttpClientOptions http;
  size_t chunk_bytes = size_t{16} << 20;  // blobs above it are sent in chunks of it
  // Answers 429 and 5xx, and none at all, are tried again after a pause that doubles from
  // `first_pause` up to 5 s, or that Retry-After names.
  int attempts = 6;
  absl::Duration first_pause = absl::Milliseconds(100);
};

// An upload that has begun: where its next bytes go.
struct UploadSession {
  std::string url;
  uint64_t sent = 0;
};

// Thread-safe. Errors name the URL. NOT_FOUND: 404. PERMISSION_DENIED: 403. UNAUTHENTICATED: 401
// with the credentials there are. RESOURCE_EXHAUSTED: 413, or 507. UNAVAILABLE: 429, 5xx or no
// answer, to the last attempt. DATA_LOSS: the bytes do not match their digest.
// FAILED_PRECONDITION: anything else that the registry refuses, and what it says.
class RegistryClient {
 public:
  // `base`: http://HOST[:PORT] or https://HOST[:PORT], no path.
  RegistryClient(std::string base, RegistryOptions options);

  absl::StatusOr<bool> HasBlob(const std::string& repository, const std::string& digest);
  // HEAD, then at once or in chunks. A broken chunk goes on where the registry says it ended. True
  // if it was there already.
  absl::StatusOr<bool> PutBlob(const std::string& repository, const std::string& digest,
                               absl::string_view data);
  // Links a blob of `from` without moving its bytes. False if the registry would not.
  absl::StatusOr<bool> MountBlob(const std::string& repository, const std::string& from,
                                 const std::string& digest);
  // Resumed where the connection breaks, and verified.
  absl::StatusOr<std::string> GetBlob(const std::string& repository, const std::string& digest);
  // `length` bytes from `offset`, which the blob has.
  absl::StatusOr<std::string> GetBlobRange(const std::string& repository, const std::string& digest,
                                           uint64_t offset, uint64_t length);

  absl::StatusOr<UploadSession> BeginUpload(const std::string& repository);
  absl::Status SendChunk(absl::string_view data, UploadSession* session);
  // `rest` are the last bytes.
  absl::Status EndUpload(absl::string_view rest, const std::string& digest, UploadSession* session);
  void DropUpload(const UploadSession& session);

  // `reference`: tag or digest.
  absl::StatusOr<std::string> GetManifest(const std::string& repository,
                                          const std::string& reference);
  absl::Status PutManifest(const std::string& repository, const std::string& reference,
                           const std::string& media_type, const std::string& manifest);
  // OK if it is not there. FAILED_PRECONDITION if the registry does not delete.
  absl::Status DeleteManifest(const std::string& repository, const std::string& digest);
  // Every tag, sorted; none if there is no such repository.
  absl::StatusOr<std::vector<std::string>> ListTags(const std::string& repository);

  const std::string& base() const { return base_; }

 private:
  absl::StatusOr<HttpResponse> Call(const HttpRequest& request, const std::string& repository);
  absl::StatusOr<HttpResponse> CallOnce(HttpRequest request, const std::string& repository);
  absl::Status Authorize(const std::string& challenge, const std::string& repository);
  void HideSecrets(const std::string& repository, HttpResponse* response);
  std::string Basic() const;  // the credentials of HTTP's Basic scheme
  std::string Authorization(const std::string& repository);
  std::string Url(const std::string& repository, const std::string& rest) const;
  std::string Absolute(const std::string& location) const;
  absl::StatusOr<uint64_t> SessionOffset(const std::string& repository, UploadSession* session);

  const std::string base_;
  const RegistryOptions options_;
  HttpClient http_;
  std::mutex mutex_;
  std::map<std::string, std::string> tokens_;  // repository -> Authorization
};

}  // namespace shiftadd::blob

#endif  // SHIFTADD_SERVICES_BLOB_REGISTRY_CLIENT_H_
