#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "services/base/shutdown.h"
#include "services/base/status_macros.h"
#include "services/cli/child_process.h"
#include "services/cli/commands.h"
#include "services/cli/endpoints.h"
#include "services/cli/files.h"
#include "services/cli/http_probe.h"
#include "services/cli/reference.h"
#include "services/cli/security.h"
#include "services/cli/servers.h"
#include "services/packaging/package_client.h"
#include "services/rpc/security.h"

namespace shiftadd::cli {
namespace {

namespace fs = std::filesystem;

struct ServeOptions {
  std::string package;
  int port = 8000;
  int grpc_port = 7072;
  std::string blobs;
  std::string device;
  bool batch_invariant = false;
  int threads = 0;
  int64_t cache_mib = 0;
  bool detach = false;
  int timeout_seconds = 120;  // until /ready
};

// A server of this program's has TLS if the cluster has.
const char* Scheme() { return rpc::ClientTls().empty() ? "http://" : "https://"; }

// How a start is tried: what to run, where its log is, and who it will be.
struct Start {
  ServerInfo server;
  ChildOptions child;
  std::string port_file;
  std::string data_dir;
};

absl::StatusOr<Start> Prepare(const Context& context, const ServeOptions& options) {
  Start start;
  start.data_dir = DataDir(context);
  SA_ASSIGN_OR_RETURN(start.server.reference, NormalizeReference(options.package));
  SA_ASSIGN_OR_RETURN(const std::string packager, PackagerAddress(context));
  SA_ASSIGN_OR_RETURN(start.server.digest,
                      PackageClient::Connect(packager)->Resolve(start.server.reference));
  std::string blobs = options.blobs, certs = context.certs, tokens;
  const absl::StatusOr<ClusterInfo> cluster = ReadCluster(start.data_dir);
  if (blobs.empty()) blobs = cluster.ok() ? cluster->blobs : start.data_dir + "/store";
  if (cluster.ok() && (certs.empty() || certs == cluster->certs)) {
    certs = cluster->certs;
    tokens = cluster->tokens;
  }
  if (!certs.empty()) SA_RETURN_IF_ERROR(CheckCerts(certs, {"server"}));
  std::error_code error;
  if (!absl::StrContains(blobs, "://")) blobs = AbsolutePath(blobs);  // no registry
  for (const char* folder : {"/logs", "/run"})
    fs::create_directories(start.data_dir + folder, error);
  // Of several servers that take any port at the same time each has its own.
  const std::string place = options.port != 0 ? absl::StrCat("server-", options.port)
                                              : absl::StrCat("server-0-", getpid());
  start.port_file = absl::StrCat(start.data_dir, "/run/", place, ".ports");
  fs::remove(start.port_file, error);
  SA_ASSIGN_OR_RETURN(const std::string binary, FindBinary(kServerBinary));
  start.child.command = {binary,
                         "--package",
                         start.server.reference,
                         "--packager",
                         packager,
                         "--blobs",
                         blobs,
                         "--http",
                         absl::StrCat("127.0.0.1:", options.port),
                         "--listen",
                         absl::StrCat("127.0.0.1:", options.grpc_port),
                         "--port-file",
                         start.port_file};
  const auto pass = [&start](std::initializer_list<std::string> words) {
    start.child.command.insert(start.child.command.end(), words);
  };
  for (const std::string& argument : SecurityArguments(certs, tokens, "server")) pass({argument});
  if (!options.device.empty()) pass({"--device", options.device});
  if (options.batch_invariant) pass({"--batch-invariant"});
  if (options.threads > 0) pass({"--threads", absl::StrCat(options.threads)});
  if (options.cache_mib > 0) pass({"--cache-mib", absl::StrCat(options.cache_mib)});
  if (options.detach) start.child.log = absl::StrCat(start.data_dir, "/logs/", place, ".log");
  start.child.dies_with_parent = !options.detach;
  return start;
}

// The port file has the gRPC port, then the HTTP port.
bool ReadPorts(Start& start) {
  const absl::StatusOr<std::string> text = ReadFile(start.port_file, 256);
  if (!text.ok()) return false;
  const std::vector<std::string> lines = absl::StrSplit(*text, '\n', absl::SkipWhitespace());
  int port = 0;
  if (lines.size() != 2 || !absl::SimpleAtoi(lines[0], &port) || !absl::SimpleAtoi(lines[1], &port))
    return false;
  start.server.grpc = absl::StrCat("127.0.0.1:", lines[0]);
  start.server.http = absl::StrCat("127.0.0.1:", lines[1]);
  return true;
}

absl::Status AwaitReady(Start& start, absl::Duration timeout) {
  const auto failure = [&start](const std::string& what) {
    const std::string tail = start.child.log.empty()
                                 ? ""
                                 : absl::StrCat("; the end of ", start.child.log, ":\n",
                                                TailOfFile(start.child.log, 15));
    return absl::InternalError(absl::StrCat("shiftadd-server ", what, tail));
  };
  absl::Status last = absl::UnavailableError("it has not told its ports");
  for (const absl::Time deadline = absl::Now() + timeout; absl::Now() < deadline;) {
    int wait_status = 0;
    if (waitpid(start.server.pid, &wait_status, WNOHANG) == start.server.pid) {
      return failure(absl::StrCat("ended with ", DescribeExit(wait_status), " while starting"));
    }
    if (ReadPorts(start)) {
      last = ProbeReady(start.server.http);
      if (last.ok()) return last;
    }
    if (WaitForShutdown(absl::Milliseconds(100))) {
      kill(start.server.pid, SIGTERM);
      return absl::CancelledError("stopped while starting");
    }
  }
  kill(start.server.pid, SIGKILL);
  return failure(absl::StrCat("is not ready after ", absl::FormatDuration(timeout), " (",
                              last.message(), ")"));
}

// Waits for the child, handing SIGINT and SIGTERM on.
int StayWith(Context& context, const Start& start) {
  int wait_status = 0;
  bool asked = false;
  while (waitpid(start.server.pid, &wait_status, WNOHANG) == 0) {
    if (asked) {
      absl::SleepFor(absl::Milliseconds(50));
    } else if (WaitForShutdown(absl::Milliseconds(200))) {
      kill(start.server.pid, SIGTERM);
      asked = true;
    }
  }
  RemoveServer(start.data_dir, start.server);
  if (asked) return kExitOk;
  return Report(context, absl::InternalError(absl::StrCat("shiftadd-server ended with ",
                                                          DescribeExit(wait_status))));
}

// A server that `serve` has on the port already: serves what is wanted (true; it follows the tag by
// itself), or does not answer and is stopped (false). FAILED_PRECONDITION if it serves something
// else.
absl::StatusOr<bool> IsServed(Context& context, const Start& start, int port) {
  const std::string wanted = absl::StrCat("127.0.0.1:", port);
  for (const ServerInfo& running : RunningServers(start.data_dir)) {
    if (port == 0 || running.http != wanted) continue;
    if (running.reference != start.server.reference) {
      return absl::FailedPreconditionError(
          absl::StrCat("port ", port, " is in use by the server of ", running.reference, " (pid ",
                       running.pid, "): stop it, or name another --port"));
    }
    if (ProbeReady(running.http).ok()) {
      context.out << "already serving " << running.reference << " at " << Scheme() << running.http
                  << "\n";
      return true;
    }
    context.out << "the server of " << running.reference << " (pid " << running.pid
                << ") is not ready: it is replaced\n";
    StopProcess(running.pid, kServerBinary, absl::Seconds(15));
    RemoveServer(start.data_dir, running);
  }
  return false;
}

int Serve(Context& context, const ServeOptions& options) {
  absl::StatusOr<Start> start = Prepare(context, options);
  if (!start.ok()) return Report(context, start.status());
  const absl::StatusOr<bool> served = IsServed(context, *start, options.port);
  if (!served.ok() || *served) return Report(context, served.status());
  BlockShutdownSignals();
  absl::StatusOr<pid_t> pid = StartChild(start->child);
  if (!pid.ok()) return Report(context, pid.status());
  start->server.pid = *pid;
  absl::Status status = AwaitReady(*start, absl::Seconds(options.timeout_seconds));
  std::error_code error;
  if (options.port == 0) fs::remove(start->port_file, error);  // nobody else's name again
  if (status.ok()) {
    status = WriteServer(start->data_dir, start->server);
    // One that nobody knows of could not be stopped by `shiftadd down`.
    if (!status.ok()) StopProcess(*pid, kServerBinary, absl::Seconds(15));
  }
  if (!status.ok()) return Report(context, status);
  context.out << "serving " << start->server.reference << " at " << Scheme() << start->server.http
              << " (OpenAI API) and " << start->server.grpc << " (gRPC), pid " << *pid << "\n"
              << std::flush;
  return options.detach ? kExitOk : StayWith(context, *start);
}

}  // namespace

void AddServeCommand(CLI::App& app, Context& context) {
  auto options = std::make_shared<ServeOptions>();
  CLI::App* serve = app.add_subcommand("serve", "Serve a package: OpenAI HTTP and gRPC");
  serve->add_option("package", options->package, "NAME[:TAG]")->required();
  serve->add_option("--port", options->port, "HTTP port; 0: any")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str();
  serve->add_option("--grpc-port", options->grpc_port, "gRPC port; 0: any")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str();
  serve->add_option("--blobs", options->blobs,
                    "Folder of the blob store (else the local cluster's)");
  serve
      ->add_option("--device", options->device,
                   "What computes: cpu (default), cuda, or auto: cuda if it can be used")
      ->check(CLI::IsMember({"cpu", "cuda", "auto"}));
  serve->add_flag("--batch-invariant", options->batch_invariant,
                  "On a GPU: an answer's numbers do not depend on what runs beside it");
  serve->add_option("--threads", options->threads, "Threads of the model (default: one a core)")
      ->check(CLI::Range(1, 1024));
  serve
      ->add_option("--cache-mib", options->cache_mib,
                   "Memory for keys and values of all sequences, MiB (default 512)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 24));
  serve->add_flag("--detach", options->detach,
                  "Go to the background once it is ready; `shiftadd down` stops it");
  serve->add_option("--timeout", options->timeout_seconds, "Seconds to wait until it is ready")
      ->check(CLI::Range(1, 86400))
      ->capture_default_str();
  AddPackagerFlag(serve, context);
  serve->callback([&context, options] {
    context.action = [&context, options] { return Serve(context, *options); };
  });
}

}  // namespace shiftadd::cli
