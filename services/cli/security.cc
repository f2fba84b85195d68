#include "services/cli/security.h"

#include <unistd.h>

#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "services/cli/endpoints.h"
#include "services/cli/files.h"
#include "services/flags/values.h"
#include "services/rpc/security.h"

namespace shiftadd::cli {
namespace {

bool IsSet(const char* variable) {
  const char* value = std::getenv(variable);
  return value != nullptr && *value != '\0';
}

// The files of whom the folder's reader may be.
absl::StatusOr<access::TlsFiles> ReadableIdentity(const std::string& dir) {
  for (const char* role : {"admin", "user", "client", "viewer"}) {
    access::TlsFiles files = access::TlsFilesIn(dir, role);
    if (::access(files.key.c_str(), R_OK) == 0) return files;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--certs ", dir,
                   ": expected ca.crt and a key of admin, user, client or viewer that can be "
                   "read, as deploy/certs.sh writes them"));
}

// Empty: it has none, or another cluster is asked.
std::string CertsOfLocalCluster(const Context& context) {
  if (!context.coordinator.empty() || !context.packager.empty() || IsSet("SHIFTADD_COORDINATOR") ||
      IsSet("SHIFTADD_PACKAGER")) {
    return "";
  }
  const absl::StatusOr<ClusterInfo> cluster = ReadCluster(DataDir(context));
  return cluster.ok() ? cluster->certs : "";
}

}  // namespace

void AddSecurityFlags(CLI::App& app, Context& context) {
  NoEmptyVariable(
      app.add_option("--certs", context.certs,
                     "Folder of deploy/certs.sh: TLS with its CA, as its admin, or user, client or "
                     "viewer (the first whose key can be read); `up` gives each daemon its own")
          ->envname("SHIFTADD_CERTS"));
  access::AddClientSecurityFlags(&app, &context.security);
}

absl::Status ApplySecurity(Context& context) {
  access::SecurityFlags& flags = context.security;
  context.certs = AbsolutePath(context.certs);
  if (flags.tls.empty()) {
    std::string certs = context.certs;
    if (certs.empty() && flags.token_file.empty()) certs = CertsOfLocalCluster(context);
    if (!certs.empty()) {
      SA_ASSIGN_OR_RETURN(flags.tls, ReadableIdentity(certs));
    }
  }
  return rpc::SetClientSecurity({flags.tls, flags.token_file});
}

std::vector<std::string> SecurityArguments(const std::string& certs, const std::string& tokens,
                                           const std::string& role) {
  std::vector<std::string> arguments;
  if (!certs.empty()) {
    const access::TlsFiles files = access::TlsFilesIn(certs, role);
    arguments = {"--tls-cert", files.cert, "--tls-key", files.key, "--tls-ca", files.ca};
  }
  if (!tokens.empty()) arguments.insert(arguments.end(), {"--tokens", tokens});
  return arguments;
}

absl::Status CheckCerts(const std::string& certs, const std::vector<std::string>& roles) {
  for (const std::string& role : roles) {
    if (const absl::Status status = access::CheckTlsFiles(access::TlsFilesIn(certs, role));
        !status.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("--certs ", certs, ": ", status.message(),
                                                     " (deploy/certs.sh makes the folder)"));
    }
  }
  return absl::OkStatus();
}

}  // namespace shiftadd::cli
