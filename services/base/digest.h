// Content digests: "sha256:" and 64 lower-case hex digits, as OCI writes them.
#ifndef SHIFTADD_SERVICES_BASE_DIGEST_H_
#define SHIFTADD_SERVICES_BASE_DIGEST_H_

#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace shiftadd {

// "sha256:<hex>" of `data`.
std::string Sha256Digest(absl::string_view data);

// The 32 raw bytes.
std::string Sha256Raw(absl::string_view data);

// INVALID_ARGUMENT unless `digest` is "sha256:" and 64 lower-case hex digits.
absl::Status ValidateDigest(absl::string_view digest);

// Incremental form. Not thread-safe.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;
  void Update(const void* data, size_t size);
  // "sha256:<hex>"; the object must not be used afterwards.
  std::string Finish();

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

}  // namespace shiftadd

#endif  // SHIFTADD_SERVICES_BASE_DIGEST_H_
