#include "services/base/digest.h"

#include <openssl/evp.h>
#include <openssl/sha.h>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace shiftadd {
namespace {
constexpr size_t kRawBytes = 32;
constexpr size_t kHexDigits = 2 * kRawBytes;
constexpr absl::string_view kPrefix = "sha256:";
}  // namespace

struct Sha256::Context {
  EVP_MD_CTX* ctx = EVP_MD_CTX_new();
  ~Context() { EVP_MD_CTX_free(ctx); }
};

Sha256::Sha256() : context_(std::make_unique<Context>()) {
  EVP_DigestInit_ex(context_->ctx, EVP_sha256(), nullptr);
}
Sha256::~Sha256() = default;

void Sha256::Update(const void* data, size_t size) { EVP_DigestUpdate(context_->ctx, data, size); }

std::string Sha256::Finish() {
  std::string raw(kRawBytes, '\0');
  EVP_DigestFinal_ex(context_->ctx, reinterpret_cast<unsigned char*>(raw.data()), nullptr);
  return absl::StrCat(kPrefix, absl::BytesToHexString(raw));
}

std::string Sha256Raw(absl::string_view data) {
  std::string raw(kRawBytes, '\0');
  SHA256(reinterpret_cast<const unsigned char*>(data.data()), data.size(),
         reinterpret_cast<unsigned char*>(raw.data()));
  return raw;
}

std::string Sha256Digest(absl::string_view data) {
  return absl::StrCat(kPrefix, absl::BytesToHexString(Sha256Raw(data)));
}

absl::Status ValidateDigest(absl::string_view digest) {
  bool ok =
      digest.size() == kPrefix.size() + kHexDigits && digest.substr(0, kPrefix.size()) == kPrefix;
  for (size_t i = kPrefix.size(); ok && i < digest.size(); ++i) {
    const char c = digest[i];
    ok = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
  }
  if (ok) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("digest: expected sha256: and 64 lower-case hex digits, got \"",
                   absl::CHexEscape(digest.substr(0, 100)), "\""));
}

}  // namespace shiftadd
