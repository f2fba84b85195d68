// The command groups. Each adds its subcommands to the app; the one that is parsed sets
// context->action.
#ifndef SHIFTADD_SERVICES_CLI_COMMANDS_H_
#define SHIFTADD_SERVICES_CLI_COMMANDS_H_

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "services/cli/context.h"

namespace shiftadd::cli {

void AddClusterCommands(CLI::App& app, Context& context);  // up, down
void AddStatusCommand(CLI::App& app, Context& context);    // status
void AddDoctorCommand(CLI::App& app, Context& context);    // doctor
void AddBenchCommand(CLI::App& app, Context& context);     // bench
void AddSubmitCommand(CLI::App& app, Context& context);    // submit
void AddPlanCommand(CLI::App& app, Context& context);      // plan
void AddCompareCommand(CLI::App& app, Context& context);   // compare
void AddJobCommands(CLI::App& app,
                    Context& context);                      // jobs, watch, cancel, retry, workers
void AddReportCommand(CLI::App& app, Context& context);     // report
void AddEvalCommand(CLI::App& app, Context& context);       // eval
void AddPackageCommands(CLI::App& app, Context& context);   // packages, inspect, tag, rm, gc
void AddServeCommand(CLI::App& app, Context& context);      // serve
void AddGenerateCommand(CLI::App& app, Context& context);   // generate
void AddTransferCommands(CLI::App& app, Context& context);  // push, pull
void AddSignCommands(CLI::App& app, Context& context);      // sign, verify
void AddExportCommand(CLI::App& app, Context& context);     // export
void AddTokenCommand(CLI::App& app, Context& context);      // token

// Flags that several groups share.
void AddCoordinatorFlag(CLI::App* command, Context& context);
void AddPackagerFlag(CLI::App* command, Context& context);
void AddDataDirFlag(CLI::App* command, Context& context);
void AddJsonFlag(CLI::App* command, Context& context);

// Parses and runs; `arguments` without the program's name. Returns the exit code.
int Run(std::vector<std::string> arguments, Context& context);

}  // namespace shiftadd::cli

#endif  // SHIFTADD_SERVICES_CLI_COMMANDS_H_
