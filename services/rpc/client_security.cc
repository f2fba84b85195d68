#include <grpcpp/security/credentials.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>

#include <map>
#include <mutex>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "services/access/watched_file.h"
#include "services/base/status_macros.h"
#include "services/rpc/security.h"
#include "services/rpc/tls_probe.h"

namespace shiftadd::rpc {
namespace {

absl::StatusOr<std::string> ReadToken(const std::string& path) {
  SA_ASSIGN_OR_RETURN(const std::string text, access::ReadSmallFile(path));
  std::string token(absl::StripAsciiWhitespace(text));
  for (const char c : token) {
    if (absl::ascii_isgraph(static_cast<unsigned char>(c))) continue;
    return absl::InvalidArgumentError(absl::StrCat(path, ": expected one token and nothing else"));
  }
  if (token.empty()) return absl::InvalidArgumentError(absl::StrCat(path, ": holds no token"));
  return token;
}

// Sends the file's token with every call.
class TokenPlugin : public grpc::MetadataCredentialsPlugin {
 public:
  explicit TokenPlugin(const std::string& path) : file_(path) {}
  bool IsBlocking() const override { return false; }

  grpc::Status GetMetadata(grpc::string_ref, grpc::string_ref, const grpc::AuthContext&,
                           std::multimap<grpc::string, grpc::string>* metadata) override {
    const std::lock_guard<std::mutex> hold(mutex_);
    if (file_.Changed()) {
      absl::StatusOr<std::string> token = ReadToken(file_.path());
      if (token.ok()) token_ = *std::move(token);
      if (token_.empty()) {
        return ToGrpc(
            absl::UnauthenticatedError(absl::StrCat("--token-file ", token.status().message())));
      }
    }
    metadata->insert({"authorization", absl::StrCat("Bearer ", token_)});
    return grpc::Status::OK;
  }

 private:
  std::mutex mutex_;
  access::WatchedFile file_;
  std::string token_;
};

std::shared_ptr<grpc::ChannelCredentials> TlsCredentials(const access::TlsFiles& tls) {
  using grpc::experimental::FileWatcherCertificateProvider;
  grpc::experimental::TlsChannelCredentialsOptions options;
  options.set_certificate_provider(std::make_shared<FileWatcherCertificateProvider>(
      tls.key, tls.cert, tls.ca, access::kTlsRefreshSeconds));
  // Without a CA those of the system are used.
  if (!tls.ca.empty()) options.watch_root_certs();
  if (!tls.cert.empty()) options.watch_identity_key_cert_pairs();
  return grpc::experimental::TlsCredentials(options);
}

struct Process {
  std::mutex mutex;
  ClientSecurity security;
  // Made when first asked for: gRPC starts threads with them, which a process that forks after
  // reading its flags must not have yet.
  std::shared_ptr<grpc::ChannelCredentials> credentials;
};
Process& ThisProcess() {
  static Process& process = *new Process;
  return process;
}

}  // namespace

std::shared_ptr<grpc::ChannelCredentials> MakeClientCredentials(const ClientSecurity& security) {
  if (security.tls.empty() && security.token_file.empty()) {
    return grpc::InsecureChannelCredentials();
  }
  // Local credentials are plain text, to this machine only: a token does not leave it.
  std::shared_ptr<grpc::ChannelCredentials> channel =
      security.tls.empty() ? grpc::experimental::LocalCredentials(LOCAL_TCP)
                           : TlsCredentials(security.tls);
  if (security.token_file.empty()) return channel;
  return grpc::CompositeChannelCredentials(
      channel, grpc::experimental::MetadataCredentialsFromPlugin(
                   std::make_unique<TokenPlugin>(security.token_file),
                   security.tls.empty() ? GRPC_SECURITY_NONE : GRPC_PRIVACY_AND_INTEGRITY));
}

absl::Status SetClientSecurity(const ClientSecurity& security) {
  SA_RETURN_IF_ERROR(access::CheckTlsFiles(security.tls));
  if (!security.token_file.empty()) {
    SA_RETURN_IF_ERROR(Annotate(ReadToken(security.token_file).status(), "--token-file"));
  }
  Process& process = ThisProcess();
  const std::lock_guard<std::mutex> hold(process.mutex);
  process.security = security;
  process.credentials = nullptr;
  return absl::OkStatus();
}

std::shared_ptr<grpc::ChannelCredentials> ClientCredentials() {
  Process& process = ThisProcess();
  const std::lock_guard<std::mutex> hold(process.mutex);
  if (process.credentials == nullptr) {
    process.credentials = MakeClientCredentials(process.security);
  }
  return process.credentials;
}

access::TlsFiles ClientTls() {
  Process& process = ThisProcess();
  const std::lock_guard<std::mutex> hold(process.mutex);
  return process.security.tls;
}

absl::Status ExplainTls(const std::string& address, const absl::Status& status) {
  if (!absl::IsUnavailable(status)) return status;
  const bool tls = !ClientTls().empty();
  if (!tls && SpeaksTls(address)) {
    return absl::UnavailableError(
        absl::StrCat(address,
                     " speaks TLS and this program was not told to: give --tls-ca, and --tls-cert "
                     "with --tls-key or --token-file (or SHIFTADD_CERTS, the folder of "
                     "deploy/certs.sh)"));
  }
  if (tls && absl::StrContains(status.message(), "wrong version number")) {
    return absl::UnavailableError(absl::StrCat(
        address, " does not speak TLS: leave out --tls-ca, --tls-cert and SHIFTADD_CERTS"));
  }
  if (tls &&
      absl::StrContains(absl::AsciiStrToLower(status.message()), "certificate verify failed")) {
    return absl::UnavailableError(absl::StrCat(
        address, " shows a certificate that --tls-ca does not vouch for, or of another host"));
  }
  return status;
}

}  // namespace shiftadd::rpc
