#include <algorithm>
#include <nlohmann/json.hpp>

#include "services/base/version.h"
#include "services/cli/commands.h"
#include "services/cli/security.h"
#include "services/flags/values.h"

namespace shiftadd::cli {

void AddCoordinatorFlag(CLI::App* command, Context& context) {
  command->add_option(
      "--coordinator", context.coordinator,
      "Coordinator's HOST:PORT, or several with commas: one that is there is used (else "
      "SHIFTADD_COORDINATOR, else the local cluster's)");
  AddDataDirFlag(command, context);
}

void AddPackagerFlag(CLI::App* command, Context& context) {
  command->add_option(
      "--packager", context.packager,
      "Packager's HOST:PORT, or several with commas (else SHIFTADD_PACKAGER, else the "
      "local cluster's)");
  if (command->get_option_no_throw("--data-dir") == nullptr) AddDataDirFlag(command, context);
}

void AddDataDirFlag(CLI::App* command, Context& context) {
  command->add_option(
      "--data-dir", context.data_dir,
      "The local cluster's folder (else SHIFTADD_DATA_DIR, else ~/.local/share/shiftadd)");
}

void AddJsonFlag(CLI::App* command, Context& context) {
  command->add_flag("--json", context.json, "Print JSON");
}

namespace {

// What is typed ends up in messages of protobuf and JSON, and both are UTF-8.
bool IsUtf8(const std::string& text) {
  try {
    nlohmann::json(text).dump();
    return true;
  } catch (const nlohmann::json::type_error&) {
    return false;
  }
}

}  // namespace

int Run(std::vector<std::string> arguments, Context& context) {
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (IsUtf8(arguments[i])) continue;
    context.err << "shiftadd: argument " << i + 1 << ": expected UTF-8\n";
    return kExitUsage;
  }
  CLI::App app{"Quantizes language models to binary planes, publishes and serves them.",
               "shiftadd"};
  app.set_version_flag("--version", VersionLine());
  app.require_subcommand(1);
  app.footer(
      "Exit codes: 0 ok, 1 failed, 2 usage, 3 a daemon or a store is unreachable. `shiftadd "
      "COMMAND --help` tells more.");
  // The security flags may stand behind the command too.
  app.fallthrough();
  AddSecurityFlags(app, context);
  AddClusterCommands(app, context);
  AddStatusCommand(app, context);
  AddDoctorCommand(app, context);
  AddSubmitCommand(app, context);
  AddJobCommands(app, context);
  AddReportCommand(app, context);
  AddPlanCommand(app, context);
  AddCompareCommand(app, context);
  AddEvalCommand(app, context);
  AddPackageCommands(app, context);
  AddServeCommand(app, context);
  AddGenerateCommand(app, context);
  AddTransferCommands(app, context);
  AddSignCommands(app, context);
  AddExportCommand(app, context);
  AddBenchCommand(app, context);
  AddTokenCommand(app, context);
  std::reverse(arguments.begin(), arguments.end());  // as CLI11 wants them
  try {
    app.parse(arguments);
    CheckValues(&app);
  } catch (const CLI::ParseError& e) {
    const int code = app.exit(e, context.out, context.err);
    return code == 0 ? kExitOk : kExitUsage;
  }
  if (const absl::Status status = ApplySecurity(context); !status.ok()) {
    return Report(context, status);
  }
  return context.action();
}

}  // namespace shiftadd::cli
