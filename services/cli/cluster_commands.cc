#include <signal.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/base/shutdown.h"
#include "services/base/status_macros.h"
#include "services/cli/child_process.h"
#include "services/cli/cluster_lock.h"
#include "services/cli/commands.h"
#include "services/cli/detach.h"
#include "services/cli/endpoints.h"
#include "services/cli/files.h"
#include "services/cli/running_cluster.h"
#include "services/cli/security.h"
#include "services/cli/servers.h"
#include "services/cli/supervisor.h"
#include "services/rpc/security.h"

namespace shiftadd::cli {
namespace {

namespace fs = std::filesystem;

constexpr absl::Duration kDownTimeout = absl::Seconds(90);

// Children of a supervisor that was killed: they get SIGTERM from the kernel, but may need a
// moment.
void StopLeftOvers(const std::string& data_dir) {
  const absl::StatusOr<ClusterInfo> cluster = ReadCluster(data_dir);
  if (!cluster.ok()) return;
  for (auto daemon = cluster->daemons.rbegin(); daemon != cluster->daemons.rend(); ++daemon) {
    StopProcess(daemon->pid, BinaryOf(*daemon), absl::Seconds(15));
  }
  std::error_code error;
  fs::remove(ClusterFile(data_dir), error);
}

void Supervise(const UpOptions& options, Reporter& reporter) {
  BlockShutdownSignals();
  absl::StatusOr<ClusterLock> lock = ClusterLock::Acquire(options.data_dir);
  if (!lock.ok()) return reporter.Failed(std::string(lock.status().message()));
  StopLeftOvers(options.data_dir);
  Supervisor supervisor(options, RestartPolicy(),
                        [&](const std::string& text) { reporter.Say(text); });
  absl::Status status = supervisor.Start();
  if (status.ok()) {
    reporter.Say(absl::StrCat("up, in ", options.data_dir,
                              "; stop it with: ", DownCommand(options.data_dir)));
    reporter.Ready();
    status = supervisor.Run();
    reporter.Say("stopping");
  }
  supervisor.Stop();
  if (!status.ok()) reporter.Failed(std::string(status.message()));
}

int SuperviseHere(Context& context, const UpOptions& options) {
  BlockShutdownSignals();
  absl::StatusOr<ClusterLock> lock = ClusterLock::Acquire(options.data_dir);
  if (!lock.ok()) return Report(context, lock.status());
  StopLeftOvers(options.data_dir);
  const auto say = [&](const std::string& text) { context.out << text << "\n" << std::flush; };
  Supervisor supervisor(options, RestartPolicy(), say);
  absl::Status status = supervisor.Start();
  if (status.ok()) {
    say("up; Ctrl-C stops it");
    status = supervisor.Run();
  }
  say("stopping");
  supervisor.Stop();
  return Report(context, status);
}

// `workers`: what was asked for, if anything was.
int Up(Context& context, UpOptions options, std::optional<int> workers, bool foreground) {
  options.data_dir = DataDir(context);
  for (std::string& root : options.source_roots) root = AbsolutePath(root);
  if (!options.blobs.empty() && !absl::StrContains(options.blobs, "://")) {
    options.blobs = AbsolutePath(options.blobs);
  }
  options.certs = context.certs;
  if (!options.tokens.empty()) {
    options.tokens = AbsolutePath(options.tokens);
    if (options.certs.empty()) {
      return Report(context, absl::InvalidArgumentError(
                                 "--tokens: expected --certs DIR too, which `deploy/certs.sh DIR` "
                                 "makes: the daemons themselves have certificates and no tokens"));
    }
  }
  if (!options.certs.empty() && options.source_roots.empty()) {
    return Report(context,
                  absl::InvalidArgumentError(
                      "--source-root: expected the folder of the models, as with --certs others "
                      "than you may name files for this machine's workers to read"));
  }
  if (!options.certs.empty()) {
    const absl::Status certs = CheckCerts(options.certs, {"coordinator", "packager", "worker"});
    if (!certs.ok()) return Report(context, certs);
  }
  if (ClusterLock::Holder(options.data_dir) > 0) {
    return AlreadyUp(context, options.data_dir, workers);
  }
  // The cluster's own, not that of one which was here before.
  if (const absl::Status status =
          rpc::SetClientSecurity(options.certs.empty() ? rpc::ClientSecurity()
                                                       : rpc::ClientSecurity{context.security.tls});
      !status.ok()) {
    return Report(context, status);
  }
  std::error_code error;
  fs::create_directories(options.data_dir + "/logs", error);
  if (error)
    return Report(context,
                  absl::InternalError(absl::StrCat(options.data_dir, ": ", error.message())));
  for (const char* binary : {"shiftadd-packager", "shiftadd-coordinator", "shiftadd-worker"}) {
    if (const auto found = FindBinary(binary); !found.ok()) return Report(context, found.status());
  }
  if (foreground) return SuperviseHere(context, options);
  return Detach(context, options.data_dir + "/logs/up.log",
                [&options](Reporter& reporter) { Supervise(options, reporter); });
}

int Down(Context& context) {
  const std::string data_dir = DataDir(context);
  for (const ServerInfo& server : RunningServers(data_dir)) {
    context.out << "stopping the server of " << server.reference << " (pid " << server.pid << ")\n"
                << std::flush;
    StopProcess(server.pid, kServerBinary, absl::Seconds(15));
    RemoveServer(data_dir, server);
  }
  const int pid = ClusterLock::Holder(data_dir);
  if (pid == 0) {
    StopLeftOvers(data_dir);
    context.out << "no cluster runs in " << data_dir << "\n";
    return kExitOk;
  }
  context.out << "stopping the cluster in " << data_dir << " (pid " << pid << ")\n" << std::flush;
  if (kill(pid, SIGTERM) != 0) {
    return Report(context, absl::InternalError(
                               absl::StrCat("signalling pid ", pid, ": ", std::strerror(errno))));
  }
  for (const absl::Time deadline = absl::Now() + kDownTimeout;
       ClusterLock::Holder(data_dir) == pid;) {
    if (absl::Now() > deadline) {
      return Report(context, absl::DeadlineExceededError(
                                 absl::StrCat("pid ", pid, " does not stop; see ", data_dir,
                                              "/logs/up.log, or: kill -9 ", pid)));
    }
    absl::SleepFor(absl::Milliseconds(50));
  }
  context.out << "stopped\n";
  return kExitOk;
}

}  // namespace

void AddClusterCommands(CLI::App& app, Context& context) {
  auto options = std::make_shared<UpOptions>();
  auto foreground = std::make_shared<bool>(false);
  auto detach = std::make_shared<bool>(true);  // what happens anyway; the flag says so in scripts
  CLI::App* up = app.add_subcommand("up", "Start a whole cluster on this machine");
  auto* workers = up->add_option("--workers", options->workers, "Worker processes");
  workers->check(CLI::Range(1, 256))->capture_default_str();
  up->add_option("--threads", options->threads, "Threads of each worker (default: cores / workers)")
      ->check(CLI::Range(1, 4096));
  up->add_option("--device", options->device, "What workers compute on: cpu, cuda or auto")
      ->check(CLI::IsMember({"cpu", "cuda", "auto"}));
  up->add_option("--coordinator-port", options->coordinator_port,
                 "gRPC port (default 7070, or any if that is taken; 0: any)")
      ->check(CLI::Range(0, 65535));
  up->add_option("--packager-port", options->packager_port,
                 "gRPC port (default 7071, or any if that is taken; 0: any)")
      ->check(CLI::Range(0, 65535));
  up->add_option("--source-root", options->source_roots,
                 "Folder that workers may read models from, repeatable (default /, as whoever "
                 "submits is a user of this machine; with --certs one has to be named)")
      ->check(CLI::ExistingDirectory);
  up->add_option("--blobs", options->blobs,
                 "Blob store: a folder, or http[s]://HOST[:PORT]/PREFIX, an OCI registry (default "
                 "DATA_DIR/store)")
      ->envname("SHIFTADD_UP_BLOBS");
  up->add_option("--tokens", options->tokens,
                 "File of hashed tokens that are let in besides certificates (`shiftadd token` "
                 "writes it); needs --certs");
  auto* fore = up->add_flag("--foreground", *foreground, "Stay, and stop the cluster at the end");
  up->add_flag("--detach", *detach, "Go to the background once all is ready (default)")
      ->excludes(fore);
  AddDataDirFlag(up, context);
  up->callback([&context, options, workers, foreground, detach] {
    const std::optional<int> asked =
        workers->count() > 0 ? std::optional<int>(options->workers) : std::nullopt;
    context.action = [&context, options, asked, foreground] {
      return Up(context, *options, asked, *foreground);
    };
  });

  CLI::App* down = app.add_subcommand("down", "Stop the local cluster and its servers");
  AddDataDirFlag(down, context);
  down->callback([&context] { context.action = [&context] { return Down(context); }; });
}

}  // namespace shiftadd::cli
