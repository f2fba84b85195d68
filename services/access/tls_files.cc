#include "services/access/tls_files.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <ctime>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "services/access/watched_file.h"
#include "services/base/status_macros.h"

namespace shiftadd::access {
namespace {

using Bio = std::unique_ptr<BIO, decltype(&BIO_free)>;
using Certificate = std::unique_ptr<X509, decltype(&X509_free)>;
using Key = std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)>;

Bio Reader(const std::string& text) {
  return {BIO_new_mem_buf(text.data(), static_cast<int>(text.size())), BIO_free};
}

// A key behind a password would ask the terminal for it.
int NoPassword(char*, int, int, void*) { return -1; }

// What is wrong with its time; empty if nothing. Clocks of two machines need not agree to the
// minute.
std::string TimeFault(const Certificate& certificate) {
  constexpr time_t kClockSkew = 300;
  if (X509_cmp_current_time(X509_get0_notAfter(certificate.get())) < 0) {
    return "the certificate has expired";
  }
  time_t soon = std::time(nullptr) + kClockSkew;
  const bool early = X509_cmp_time(X509_get0_notBefore(certificate.get()), &soon) > 0;
  return early ? "the certificate is not valid yet: is the clock right?" : "";
}

// The first of the file. `any`: the file may hold others, and one that is valid today will do, for
// the next authority stands beside today's.
absl::StatusOr<Certificate> ReadCertificate(const char* flag, const std::string& path, bool any) {
  const absl::StatusOr<std::string> text = ReadSmallFile(path);
  if (!text.ok()) return Annotate(text.status(), flag);
  const Bio bio = Reader(*text);
  const auto next = [&] {
    return Certificate(PEM_read_bio_X509(bio.get(), nullptr, NoPassword, nullptr), X509_free);
  };
  Certificate certificate = next();
  if (certificate == nullptr) {
    ERR_clear_error();
    return absl::InvalidArgumentError(
        absl::StrCat(flag, " ", path, ": expected a certificate in PEM"));
  }
  const std::string fault = TimeFault(certificate);
  bool good = fault.empty();
  while (!good && any) {
    const Certificate other = next();
    if (other == nullptr) break;
    good = TimeFault(other).empty();
  }
  ERR_clear_error();
  if (good) return certificate;
  return absl::FailedPreconditionError(absl::StrCat(flag, " ", path, ": ", fault));
}

}  // namespace

absl::Status CheckTlsFiles(const TlsFiles& files) {
  if (files.cert.empty() != files.key.empty()) {
    return absl::InvalidArgumentError(files.cert.empty()
                                          ? "--tls-key needs --tls-cert: the certificate of the key"
                                          : "--tls-cert needs --tls-key: the certificate's key");
  }
  if (!files.ca.empty()) SA_RETURN_IF_ERROR(ReadCertificate("--tls-ca", files.ca, true).status());
  if (files.cert.empty()) return absl::OkStatus();
  SA_ASSIGN_OR_RETURN(const Certificate certificate,
                      ReadCertificate("--tls-cert", files.cert, false));
  const absl::StatusOr<std::string> text = ReadSmallFile(files.key);
  if (!text.ok()) return Annotate(text.status(), "--tls-key");
  const Bio bio = Reader(*text);
  const Key key(PEM_read_bio_PrivateKey(bio.get(), nullptr, NoPassword, nullptr), EVP_PKEY_free);
  ERR_clear_error();
  if (key == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--tls-key ", files.key, ": expected a private key in PEM, without a password"));
  }
  const bool match = X509_check_private_key(certificate.get(), key.get()) == 1;
  ERR_clear_error();
  if (match) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--tls-key ", files.key, ": is not the key of ", files.cert));
}

TlsFiles TlsFilesIn(const std::string& dir, const std::string& role) {
  return {absl::StrCat(dir, "/", role, ".crt"), absl::StrCat(dir, "/", role, ".key"),
          absl::StrCat(dir, "/ca.crt")};
}

}  // namespace shiftadd::access
