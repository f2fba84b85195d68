#include <grpcpp/security/auth_metadata_processor.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>

#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "services/rpc/caller_certificate.h"
#include "services/rpc/security.h"

namespace shiftadd::rpc {
namespace {

absl::string_view View(grpc::string_ref text) { return {text.data(), text.size()}; }

template <typename Metadata>
absl::string_view Find(const Metadata& metadata, const char* key) {
  const auto found = metadata.find(key);
  return found == metadata.end() ? absl::string_view() : View(found->second);
}

absl::string_view Property(const grpc::AuthContext& context, const char* name) {
  const std::vector<grpc::string_ref> values = context.FindPropertyValues(name);
  return values.size() == 1 ? View(values[0]) : absl::string_view();
}

template <typename Metadata>
access::Credentials Shown(const Metadata& metadata, const grpc::AuthContext* context) {
  access::Credentials shown;
  shown.authorization = Find(metadata, "authorization");
  if (context != nullptr) {
    shown.certificate_uri = Property(*context, GRPC_PEER_SPIFFE_ID_PROPERTY_NAME);
    shown.certificate_subject = Property(*context, GRPC_X509_SUBJECT_PROPERTY_NAME);
  }
  return shown;
}

// Called before a call's message is read. The connection's AuthContext is left alone: what is added
// to it stays for all of its calls.
class Processor : public grpc::AuthMetadataProcessor {
 public:
  Processor(std::shared_ptr<access::Access> access, std::shared_ptr<CallLimit> limit)
      : access_(std::move(access)), limit_(std::move(limit)) {}
  bool IsBlocking() const override { return false; }

  grpc::Status Process(const InputMetadata& metadata, grpc::AuthContext* context, OutputMetadata*,
                       OutputMetadata*) override {
    const absl::string_view method = Find(metadata, ":path");
    const absl::StatusOr<access::Caller> caller = access_->Check(method, Shown(metadata, context));
    if (!caller.ok()) return ToGrpc(caller.status());
    return ToGrpc(IsCounted(method) ? limit_->Admit(caller->name, absl::Now()) : absl::OkStatus());
  }

 private:
  const std::shared_ptr<access::Access> access_;
  const std::shared_ptr<CallLimit> limit_;
};

std::shared_ptr<grpc::ServerCredentials> TlsCredentials(const access::TlsFiles& tls) {
  using grpc::experimental::FileWatcherCertificateProvider;
  grpc::experimental::TlsServerCredentialsOptions options(
      std::make_shared<FileWatcherCertificateProvider>(tls.key, tls.cert, tls.ca,
                                                       access::kTlsRefreshSeconds));
  options.watch_identity_key_cert_pairs();
  if (!tls.ca.empty()) {
    options.watch_root_certs();
    // Whoever has no certificate may have a token.
    options.set_cert_request_type(GRPC_SSL_REQUEST_CLIENT_CERTIFICATE_AND_VERIFY);
  }
  return grpc::experimental::TlsServerCredentials(options);
}

}  // namespace

std::shared_ptr<grpc::ServerCredentials> MakeServerCredentials(
    const access::TlsFiles& tls, const std::shared_ptr<access::Access>& access,
    const std::shared_ptr<CallLimit>& limit) {
  const bool required = access != nullptr && access->required();
  std::shared_ptr<grpc::ServerCredentials> credentials;
  if (!tls.cert.empty()) {
    credentials = TlsCredentials(tls);
  } else if (required) {
    // Plain text too, but a processor can be set.
    credentials = grpc::experimental::LocalServerCredentials(LOCAL_TCP);
  } else {
    return grpc::InsecureServerCredentials();
  }
  if (required) {
    credentials->SetAuthMetadataProcessor(std::make_shared<Processor>(access, limit));
  }
  return credentials;
}

absl::StatusOr<access::Caller> CallerOf(const grpc::ServerContextBase& context,
                                        access::Access* access) {
  if (access == nullptr) {
    return access::Caller{"local", access::Roles{access::Role::kAdmin}.Implied()};
  }
  return access->Identify(Shown(context.client_metadata(), context.auth_context().get()));
}

std::string CertificateOf(const grpc::ServerContextBase& context) {
  const auto auth = context.auth_context();
  const access::Credentials shown = Shown(context.client_metadata(), auth.get());
  return std::string(shown.certificate_uri.empty() ? shown.certificate_subject
                                                   : shown.certificate_uri);
}

}  // namespace shiftadd::rpc
