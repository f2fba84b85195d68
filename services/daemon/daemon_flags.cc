#include "services/daemon/daemon_flags.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <system_error>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "services/flags/values.h"

namespace shiftadd {
namespace {

// CLI11 lets a file win over variables; here it comes last, as what a whole fleet shares.
class FileAfterVariables : public CLI::ConfigTOML {
 public:
  explicit FileAfterVariables(const CLI::App* app) : app_(app) {}

  std::vector<CLI::ConfigItem> from_config(std::istream& input) const override {
    std::vector<CLI::ConfigItem> items = CLI::ConfigTOML::from_config(input);
    items.erase(std::remove_if(items.begin(), items.end(),
                               [this](const CLI::ConfigItem& item) { return IsVariable(item); }),
                items.end());
    return items;
  }

 private:
  bool IsVariable(const CLI::ConfigItem& item) const {
    const CLI::Option* option = app_->get_option_no_throw("--" + item.name);
    if (option == nullptr || option->get_envname().empty()) return false;
    const char* value = std::getenv(option->get_envname().c_str());
    return value != nullptr && *value != '\0';
  }

  const CLI::App* const app_;
};

}  // namespace

void AddDaemonFlags(CLI::App* app, absl::string_view daemon, DaemonFlags* flags) {
  const std::string own = absl::StrCat("SHIFTADD_", absl::AsciiStrToUpper(daemon), "_");
  app->set_config("--config", "", "Read flags from this file (TOML); variables win over it");
  app->config_formatter(std::make_shared<FileAfterVariables>(app));
  app->allow_config_extras(CLI::config_extras_mode::error);
  app->add_option("--port-file", flags->port_file,
                  "Write the ports to this file, gRPC's before HTTP's, one a line, once serving")
      ->envname(own + "PORT_FILE");
  app->add_option("--log-level", flags->log_level, "trace, debug, info, warn or error")
      ->envname("SHIFTADD_LOG_LEVEL")
      ->check(CLI::IsMember({"trace", "debug", "info", "warn", "error"}))
      ->capture_default_str();
  app->add_option("--log-format", flags->log_format, "text, or json: an object a line")
      ->envname("SHIFTADD_LOG_FORMAT")
      ->check(CLI::IsMember({"text", "json"}))
      ->capture_default_str();
  access::AddServerSecurityFlags(app, &flags->security);
  app->add_flag("--insecure-i-know", flags->security.insecure,
                "Listen beyond loopback without TLS: whoever reaches the port may do anything")
      ->envname(own + "INSECURE_I_KNOW");
}

std::optional<int> ParseFlags(CLI::App* app, int argc, const char* const* argv) {
  try {
    app->parse(argc, argv);
    CheckValues(app);
  } catch (const CLI::ParseError& e) {
    return app->exit(e, std::cout, std::cerr) == 0 ? 0 : 2;
  }
  return std::nullopt;
}

absl::Status WritePortFile(const std::string& path, std::initializer_list<int> ports) {
  if (path.empty()) return absl::OkStatus();
  const std::string temporary = path + ".tmp";  // renamed: whoever waits for it never reads half
  std::ofstream out(temporary, std::ios::trunc);
  for (const int port : ports) out << port << "\n";
  out.close();
  std::error_code error;
  if (out) std::filesystem::rename(temporary, path, error);
  if (out && !error) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("--port-file ", path, ": ", error ? error.message() : "cannot be written"));
}

int ExitCode(absl::string_view daemon, const absl::Status& status) {
  if (status.ok() || absl::IsCancelled(status)) return 0;
  std::cerr << daemon << ": " << status.message() << std::endl;
  return 1;
}

}  // namespace shiftadd
