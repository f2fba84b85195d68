// How the program shows itself to the daemons.
#ifndef SHIFTADD_SERVICES_CLI_SECURITY_H_
#define SHIFTADD_SERVICES_CLI_SECURITY_H_

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "services/cli/context.h"

namespace shiftadd::cli {

// --certs, --tls-cert, --tls-key, --tls-ca and --token-file, for every command.
void AddSecurityFlags(CLI::App& app, Context& context);

// From the flags or their variables; where there are none and the local cluster is asked, from the
// folder that `up --certs` was given. Of a folder's certificates the first of admin, user, client
// and viewer that can be read. To be called before a daemon is.
absl::Status ApplySecurity(Context& context);

// What a daemon of this role is given: --tls-cert and so on of its files in `certs`, and --tokens.
// Nothing if both are empty.
std::vector<std::string> SecurityArguments(const std::string& certs, const std::string& tokens,
                                           const std::string& role);

// INVALID_ARGUMENT names a file of `certs` that is missing for one of these roles.
absl::Status CheckCerts(const std::string& certs, const std::vector<std::string>& roles);

}  // namespace shiftadd::cli

#endif  // SHIFTADD_SERVICES_CLI_SECURITY_H_
