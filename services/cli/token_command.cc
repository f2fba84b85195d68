#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/access/tokens.h"
#include "services/access/watched_file.h"
#include "services/base/digest.h"
#include "services/base/status_macros.h"
#include "services/cli/commands.h"

namespace shiftadd::cli {
namespace {

struct TokenOptions {
  std::string name;
  std::vector<std::string> roles;
  std::string file;
};

absl::StatusOr<access::Roles> ParseRoles(const std::vector<std::string>& names) {
  access::Roles roles;
  for (const std::string& name : names) {
    const auto role = access::FindRole(name);
    if (!role.has_value()) {
      return absl::InvalidArgumentError(
          absl::StrCat("--role ", name, ": expected one of ", access::RoleNames()));
    }
    roles.Add(*role);
  }
  return roles;
}

// One write, so that a daemon that reads meanwhile sees the line whole or not at all.
absl::Status Append(const std::string& path, const std::string& line) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (fd < 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("--tokens ", path, ": cannot be written: ", std::strerror(errno)));
  }
  const bool written = write(fd, line.data(), line.size()) == static_cast<ssize_t>(line.size());
  return close(fd) == 0 && written
             ? absl::OkStatus()
             : absl::InternalError(absl::StrCat("--tokens ", path, ": not all could be written"));
}

absl::Status MakeToken(Context& context, const TokenOptions& options) {
  if (!access::IsCallerName(options.name)) {
    return absl::InvalidArgumentError(
        "NAME: expected 1 to 100 letters, digits, '.', '_', '-', '@'");
  }
  SA_ASSIGN_OR_RETURN(const access::Roles roles, ParseRoles(options.roles));
  if (::access(options.file.c_str(), F_OK) == 0) {
    SA_ASSIGN_OR_RETURN(const std::string text, access::ReadSmallFile(options.file));
    // What the daemons could not read they would go on without.
    SA_RETURN_IF_ERROR(access::ParseTokens(text, options.file).status());
    if (!text.empty() && text.back() != '\n') SA_RETURN_IF_ERROR(Append(options.file, "\n"));
  }
  const std::string token = access::NewToken();
  const access::TokenEntry entry = {options.name, roles, Sha256Digest(token)};
  SA_RETURN_IF_ERROR(Append(options.file, access::FormatToken(entry) + "\n"));
  context.out << token << "\n";
  return absl::OkStatus();
}

}  // namespace

void AddTokenCommand(CLI::App& app, Context& context) {
  auto options = std::make_shared<TokenOptions>();
  CLI::App* token = app.add_subcommand(
      "token",
      "Make a bearer token: it is printed once, its hash is added to the file that daemons are "
      "given by --tokens (which notice within seconds; to withdraw it, delete its line)");
  token->add_option("name", options->name, "Whose it is: the owner of his jobs, a name in logs")
      ->required();
  token
      ->add_option("--role", options->roles,
                   absl::StrCat("What it may, repeatable: ", access::RoleNames()))
      ->required();
  token->add_option("--tokens", options->file, "The file of hashes; made if absent")
      ->envname("SHIFTADD_TOKENS")
      ->required();
  token->callback([&context, options] {
    context.action = [&context, options] { return Report(context, MakeToken(context, *options)); };
  });
}

}  // namespace shiftadd::cli
