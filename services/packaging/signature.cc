#include "services/packaging/signature.h"

#include <openssl/evp.h>
#include <openssl/pem.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "services/base/digest.h"
#include "services/base/json_depth.h"
#include "services/base/status_macros.h"
#include "services/packaging/package_format.h"

namespace shiftadd::packaging {
namespace {

using nlohmann::json;

constexpr char kContext[] = "shiftadd package signature v1\n";
constexpr char kAlgorithm[] = "ed25519";
constexpr int kMaxDepth = 64;

struct Free {
  void operator()(BIO* bio) const { BIO_free(bio); }
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
  void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
};
using Key = std::unique_ptr<EVP_PKEY, Free>;

// A key without a password: an encrypted one must not ask on the terminal.
int NoPassword(char*, int, int, void*) { return -1; }

absl::StatusOr<Key> ReadKey(const std::string& pem, bool is_private) {
  const std::unique_ptr<BIO, Free> bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  Key key(is_private ? PEM_read_bio_PrivateKey(bio.get(), nullptr, &NoPassword, nullptr)
                     : PEM_read_bio_PUBKEY(bio.get(), nullptr, &NoPassword, nullptr));
  if (key != nullptr && EVP_PKEY_id(key.get()) == EVP_PKEY_ED25519) return key;
  return absl::InvalidArgumentError(
      is_private ? "key: expected an Ed25519 private key in PEM without a password "
                   "(openssl genpkey -algorithm ed25519 -out key.pem)"
                 : "key: expected an Ed25519 public key in PEM (openssl pkey -in key.pem -pubout)");
}

std::string RawPublicKey(EVP_PKEY* key) {
  std::string raw(32, '\0');
  size_t size = raw.size();
  EVP_PKEY_get_raw_public_key(key, reinterpret_cast<unsigned char*>(raw.data()), &size);
  return raw;
}

const unsigned char* Bytes(const std::string& text) {
  return reinterpret_cast<const unsigned char*>(text.data());
}

bool IsSignedBy(EVP_PKEY* key, const std::string& digest, const std::string& signature) {
  const std::string message = kContext + digest;
  const std::unique_ptr<EVP_MD_CTX, Free> context(EVP_MD_CTX_new());
  return EVP_DigestVerifyInit(context.get(), nullptr, nullptr, nullptr, key) == 1 &&
         EVP_DigestVerify(context.get(), Bytes(signature), signature.size(), Bytes(message),
                          message.size()) == 1;
}

std::string Field(const json& document, const char* name) {
  const json value = document.is_object() ? document.value(name, json()) : json();
  return value.is_string() ? value.get<std::string>() : "";
}

}  // namespace

absl::StatusOr<std::string> SignDigest(const std::string& private_key_pem,
                                       const std::string& digest) {
  SA_RETURN_IF_ERROR(ValidateDigest(digest));
  SA_ASSIGN_OR_RETURN(const Key key, ReadKey(private_key_pem, /*is_private=*/true));
  const std::string message = kContext + digest;
  std::string signature(64, '\0');
  size_t size = signature.size();
  const std::unique_ptr<EVP_MD_CTX, Free> context(EVP_MD_CTX_new());
  if (EVP_DigestSignInit(context.get(), nullptr, nullptr, nullptr, key.get()) != 1 ||
      EVP_DigestSign(context.get(), reinterpret_cast<unsigned char*>(signature.data()), &size,
                     Bytes(message), message.size()) != 1) {
    return absl::InternalError("OpenSSL cannot sign with this key");
  }
  signature.resize(size);
  return json{{"type", kSignatureArtifactType},
              {"algorithm", kAlgorithm},
              {"subject", digest},
              {"public_key", absl::Base64Escape(RawPublicKey(key.get()))},
              {"signature", absl::Base64Escape(signature)}}
      .dump();
}

absl::Status CheckPublicKey(const std::string& public_key_pem) {
  return ReadKey(public_key_pem, /*is_private=*/false).status();
}

absl::Status VerifySignatures(const std::vector<std::string>& documents, const std::string& digest,
                              const std::string& public_key_pem) {
  SA_ASSIGN_OR_RETURN(const Key key, ReadKey(public_key_pem, /*is_private=*/false));
  const std::string wanted = absl::Base64Escape(RawPublicKey(key.get()));
  std::string others;
  for (const std::string& text : documents) {
    const json document = JsonDepth(text) > kMaxDepth ? json() : json::parse(text, nullptr, false);
    std::string signature;
    if (Field(document, "algorithm") == kAlgorithm && Field(document, "subject") == digest &&
        absl::Base64Unescape(Field(document, "signature"), &signature) &&
        IsSignedBy(key.get(), digest, signature)) {
      return absl::OkStatus();
    }
    const std::string by = Field(document, "public_key");
    absl::StrAppend(&others, others.empty() ? "" : ", ",
                    by == wanted ? "one by this key that does not fit the package"
                    : by.empty() ? "one that cannot be read"
                                 : "one by the key " + by);
  }
  return absl::PermissionDeniedError(absl::StrCat("expected a signature of ", digest,
                                                  " by the key ", wanted, ", found ",
                                                  others.empty() ? "none" : others));
}

}  // namespace shiftadd::packaging
