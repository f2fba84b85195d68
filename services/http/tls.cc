#include "services/http/tls.h"

#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include "absl/strings/str_cat.h"
#include "services/base/logging.h"
#include "services/base/status_macros.h"

namespace shiftadd::http {
namespace {

namespace ssl = boost::asio::ssl;

absl::StatusOr<std::shared_ptr<ssl::context>> MakeContext(const access::TlsFiles& files) {
  SA_RETURN_IF_ERROR(access::CheckTlsFiles(files));
  auto context = std::make_shared<ssl::context>(ssl::context::tls_server);
  SSL_CTX_set_min_proto_version(context->native_handle(), TLS1_2_VERSION);
  boost::system::error_code e;
  context->use_certificate_chain_file(files.cert, e);
  if (!e) context->use_private_key_file(files.key, ssl::context::pem, e);
  if (!e && !files.ca.empty()) {
    context->load_verify_file(files.ca, e);
    // Whoever has no certificate may have a token.
    if (!e) context->set_verify_mode(ssl::verify_peer, e);
  }
  if (!e) return context;
  return absl::InvalidArgumentError(absl::StrCat("--tls-cert ", files.cert, ": ", e.message()));
}

}  // namespace

TlsContext::TlsContext(const access::TlsFiles& files)
    : files_(files), cert_(files.cert), key_(files.key), ca_(files.ca) {}

absl::Status TlsContext::Load() {
  SA_ASSIGN_OR_RETURN(context_, MakeContext(files_));
  return absl::OkStatus();
}

std::shared_ptr<ssl::context> TlsContext::Current() {
  const std::lock_guard<std::mutex> hold(mutex_);
  // All three are asked: each remembers what it has seen.
  const bool cert = cert_.Changed(), key = key_.Changed(), ca = ca_.Changed();
  if (cert || key || ca) {
    if (const absl::Status status = Load(); !status.ok()) {
      spdlog::error("TLS: {}; the certificate in use stays", std::string(status.message()));
    }
  }
  return context_;
}

PeerNames NamesOfPeer(SSL* ssl) {
  PeerNames names;
  X509* certificate = SSL_get0_peer_certificate(ssl);
  if (certificate == nullptr || SSL_get_verify_result(ssl) != X509_V_OK) return names;
  const std::unique_ptr<GENERAL_NAMES, decltype(&GENERAL_NAMES_free)> alternatives(
      static_cast<GENERAL_NAMES*>(
          X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr)),
      GENERAL_NAMES_free);
  for (int i = 0; alternatives != nullptr && i < sk_GENERAL_NAME_num(alternatives.get()); ++i) {
    const GENERAL_NAME* name = sk_GENERAL_NAME_value(alternatives.get(), i);
    if (name->type != GEN_URI) continue;
    const ASN1_IA5STRING* uri = name->d.uniformResourceIdentifier;
    names.uri.assign(reinterpret_cast<const char*>(ASN1_STRING_get0_data(uri)),
                     static_cast<size_t>(ASN1_STRING_length(uri)));
    break;
  }
  const std::unique_ptr<BIO, decltype(&BIO_free)> bio(BIO_new(BIO_s_mem()), BIO_free);
  X509_NAME_print_ex(bio.get(), X509_get_subject_name(certificate), 0, XN_FLAG_RFC2253);
  char* text = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &text);  // NOLINT: OpenSSL's type
  if (size > 0) names.subject.assign(text, static_cast<size_t>(size));
  return names;
}

}  // namespace shiftadd::http
