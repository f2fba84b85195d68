#include <sys/wait.h>

#include <cerrno>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "services/cli/child_process.h"
#include "services/cli/commands.h"
#include "services/cli/endpoints.h"
#include "services/cli/reference.h"

namespace shiftadd::cli {
namespace {

struct ExportFlags {
  std::string package, format, dir, blobs;
};

absl::StatusOr<std::vector<std::string>> Command(const Context& context, const ExportFlags& flags) {
  SA_ASSIGN_OR_RETURN(const std::string binary, FindBinary("shiftadd-export"));
  SA_ASSIGN_OR_RETURN(const std::string reference, NormalizeReference(flags.package));
  SA_ASSIGN_OR_RETURN(const std::string packager, PackagerAddress(context));
  std::vector<std::string> command = {binary,       reference,    flags.dir, "--format",
                                      flags.format, "--packager", packager};
  std::string blobs = flags.blobs;
  if (blobs.empty()) {
    const absl::StatusOr<ClusterInfo> cluster = ReadCluster(DataDir(context));
    if (cluster.ok() && cluster->packager == packager) blobs = cluster->blobs;
  }
  if (!blobs.empty()) command.insert(command.end(), {"--blobs", blobs});
  return command;
}

// The program that knows weights does it; what it says and how it ends are handed on.
int Export(Context& context, const ExportFlags& flags) {
  absl::StatusOr<std::vector<std::string>> command = Command(context, flags);
  if (!command.ok()) return Report(context, command.status());
  context.out << std::flush;
  ChildOptions options;
  options.command = *std::move(command);
  const absl::StatusOr<pid_t> pid = StartChild(options);
  if (!pid.ok()) return Report(context, pid.status());
  int status = 0;
  while (waitpid(*pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status)) return WEXITSTATUS(status);
  return Report(context, absl::InternalError(
                             absl::StrCat("shiftadd-export ended with ", DescribeExit(status))));
}

}  // namespace

void AddExportCommand(CLI::App& app, Context& context) {
  auto flags = std::make_shared<ExportFlags>();
  CLI::App* command =
      app.add_subcommand("export", "Write a package as a model that other programs load");
  command->add_option("package", flags->package, "NAME[:TAG] or NAME@DIGEST")->required();
  command->add_option("dir", flags->dir, "New or empty folder to write to")->required();
  command
      ->add_option("--format", flags->format,
                   "hf-fp16: a Hugging Face directory; gguf: one F16 file for llama.cpp")
      ->check(CLI::IsMember({"hf-fp16", "gguf"}))
      ->required();
  command->add_option("--blobs", flags->blobs,
                      "Folder of the blob store (else the local cluster's)");
  AddPackagerFlag(command, context);
  command->callback([&context, flags] {
    context.action = [&context, flags] { return Export(context, *flags); };
  });
}

}  // namespace shiftadd::cli
