// Who vouches for a package: Ed25519 signatures of its manifest's digest.
//
// The document: {"type": "application/vnd.shiftadd.signature.v1+json", "algorithm": "ed25519",
// "subject": "sha256:…", "public_key": base64 of the 32 bytes, "signature": base64 of the 64
// bytes}. Signed are the bytes "shiftadd package signature v1\n" and the subject.
#ifndef SHIFTADD_SERVICES_PACKAGING_SIGNATURE_H_
#define SHIFTADD_SERVICES_PACKAGING_SIGNATURE_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace shiftadd::packaging {

// The document of `digest`, signed with a private key (PEM, not encrypted). INVALID_ARGUMENT: no
// Ed25519 private key.
absl::StatusOr<std::string> SignDigest(const std::string& private_key_pem,
                                       const std::string& digest);

// INVALID_ARGUMENT: no Ed25519 public key (PEM).
absl::Status CheckPublicKey(const std::string& public_key_pem);

// OK if one of the documents is a signature of `digest` by the public key (PEM). PERMISSION_DENIED
// says what there is instead. INVALID_ARGUMENT: no Ed25519 public key.
absl::Status VerifySignatures(const std::vector<std::string>& documents, const std::string& digest,
                              const std::string& public_key_pem);

}  // namespace shiftadd::packaging

#endif  // SHIFTADD_SERVICES_PACKAGING_SIGNATURE_H_
