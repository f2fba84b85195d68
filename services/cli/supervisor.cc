#include "services/cli/supervisor.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <set>
#include <system_error>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "services/base/memory_room.h"
#include "services/base/shutdown.h"
#include "services/base/status_macros.h"
#include "services/cli/child_process.h"
#include "services/cli/files.h"
#include "services/cli/http_probe.h"
#include "services/cli/security.h"

namespace shiftadd::cli {
namespace {

namespace fs = std::filesystem;

constexpr absl::Duration kTick = absl::Milliseconds(100);
constexpr absl::Duration kStopGrace = absl::Seconds(20);
constexpr int kCoordinatorPort = 7070;
constexpr int kPackagerPort = 7071;
constexpr int kHttpPort = 9470;  // coordinator, packager, workers from here on

std::string Loopback(int port) { return absl::StrCat("127.0.0.1:", port); }

int Threads(const UpOptions& options) {
  if (options.threads > 0) return options.threads;
  const int cores = std::max<int>(1, static_cast<int>(std::thread::hardware_concurrency()));
  return std::max(1, cores / std::max(1, options.workers));
}

// A worker's share of the memory that the machine and our control group allow.
uint64_t MemoryMib(const UpOptions& options) {
  const uint64_t bytes = static_cast<uint64_t>(MemoryLimit());
  return std::max<uint64_t>(1, (bytes >> 20) / static_cast<uint64_t>(std::max(1, options.workers)));
}

// worker-1 is a worker.
std::string RoleOf(const std::string& daemon) { return daemon.substr(0, daemon.find('-')); }

// `address` if it is known, else any loopback port.
std::string Or(const std::string& address) { return address.empty() ? Loopback(0) : address; }

}  // namespace

absl::StatusOr<int> PickPort(int wanted, int usual) {
  const int candidate = wanted < 0 ? usual : wanted;
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return absl::InternalError(absl::StrCat("socket: ", std::strerror(errno)));
  const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on,
             sizeof(on));  // a port that only waits out old connections is free
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(candidate));
  // Not listened at: whoever binds it at this moment shall not find it taken by who only asks.
  const bool free = bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
  close(fd);
  if (free) return candidate;
  if (wanted < 0) return 0;
  return absl::FailedPreconditionError(
      absl::StrCat("port ", wanted, " is in use: name another one, or 0 for any"));
}

Supervisor::Supervisor(UpOptions options, RestartPolicy policy, Say say)
    : options_(std::move(options)),
      policy_(policy),
      say_(std::move(say)),
      blobs_(options_.blobs.empty() ? options_.data_dir + "/store" : options_.blobs) {}

Supervisor::~Supervisor() { Stop(); }

std::string Supervisor::LogOf(const Daemon& daemon) const {
  return absl::StrCat(options_.data_dir, "/logs/", daemon.info.name, ".log");
}

std::string Supervisor::PortFileOf(const Daemon& daemon) const {
  return absl::StrCat(options_.data_dir, "/run/", daemon.info.name, ".ports");
}

void Supervisor::AddDaemons() {
  const auto add = [this](std::string name, std::string binary, bool has_grpc) -> Daemon& {
    Daemon daemon;
    daemon.info.name = std::move(name);
    daemon.binary = std::move(binary);
    daemon.has_grpc = has_grpc;
    return daemons_.emplace_back(std::move(daemon));
  };
  daemons_.reserve(static_cast<size_t>(options_.workers) + 2);  // references below stay valid
  Daemon& packager = add("packager", "shiftadd-packager", true);
  packager.wanted_port = options_.packager_port;
  packager.usual_port = kPackagerPort;
  packager.usual_http = kHttpPort + 1;
  packager.arguments = [this, &packager] {
    return std::vector<std::string>{
        "--listen",   Or(packager.info.grpc),          "--http",  Or(packager.info.http),
        "--data-dir", options_.data_dir + "/packager", "--blobs", blobs_};
  };
  Daemon& coordinator = add("coordinator", "shiftadd-coordinator", true);
  coordinator.wanted_port = options_.coordinator_port;
  coordinator.usual_port = kCoordinatorPort;
  coordinator.usual_http = kHttpPort;
  coordinator.arguments = [this, &coordinator, &packager] {
    return std::vector<std::string>{"--listen",   Or(coordinator.info.grpc),
                                    "--http",     Or(coordinator.info.http),
                                    "--data-dir", options_.data_dir + "/coordinator",
                                    "--packager", packager.info.grpc,
                                    "--blobs",    blobs_};
  };
  for (int i = 1; i <= options_.workers; ++i) {
    Daemon& worker = add(absl::StrCat("worker-", i), "shiftadd-worker", false);
    worker.usual_http = kHttpPort + 1 + i;
    worker.arguments = [this, &worker, &coordinator] {
      std::vector<std::string> arguments = {"--coordinator", coordinator.info.grpc,
                                            "--blobs",       blobs_,
                                            "--http",        Or(worker.info.http),
                                            "--threads",     absl::StrCat(Threads(options_)),
                                            "--memory-mib",  absl::StrCat(MemoryMib(options_))};
      if (!options_.device.empty()) {
        arguments.insert(arguments.end(), {"--device", options_.device});
      }
      for (const std::string& root : options_.source_roots) {
        arguments.insert(arguments.end(), {"--source-root", root});
      }
      if (options_.source_roots.empty()) arguments.insert(arguments.end(), {"--source-root", "/"});
      return arguments;
    };
  }
}

absl::Status Supervisor::Launch(Daemon& daemon) {
  ChildOptions child;
  SA_ASSIGN_OR_RETURN(std::string binary, FindBinary(daemon.binary));
  child.command.push_back(std::move(binary));
  for (std::string& argument : daemon.arguments()) child.command.push_back(std::move(argument));
  for (std::string& argument :
       SecurityArguments(options_.certs, options_.tokens, RoleOf(daemon.info.name))) {
    child.command.push_back(std::move(argument));
  }
  child.command.insert(child.command.end(), {"--port-file", PortFileOf(daemon)});
  child.log = LogOf(daemon);
  std::error_code error;
  fs::remove(PortFileOf(daemon), error);
  daemon.next_start = absl::InfiniteFuture();
  SA_ASSIGN_OR_RETURN(daemon.info.pid, StartChild(child));
  daemon.started = absl::Now();
  return absl::OkStatus();
}

absl::Status Supervisor::Failure(const Daemon& daemon, const std::string& what) const {
  return absl::InternalError(absl::StrCat(daemon.info.name, " ", what, "; the end of ",
                                          LogOf(daemon), ":\n", TailOfFile(LogOf(daemon), 15)));
}

absl::Status Supervisor::ReadPorts(Daemon& daemon) {
  SA_ASSIGN_OR_RETURN(const std::string text, ReadFile(PortFileOf(daemon), 256));
  const std::vector<std::string> lines = absl::StrSplit(text, '\n', absl::SkipWhitespace());
  const size_t expected = daemon.has_grpc ? 2 : 1;
  std::vector<int> ports(lines.size());
  bool good = lines.size() == expected;
  for (size_t i = 0; good && i < lines.size(); ++i) good = absl::SimpleAtoi(lines[i], &ports[i]);
  if (!good) return absl::UnavailableError("the port file is not whole yet");
  if (daemon.has_grpc) daemon.info.grpc = Loopback(ports[0]);
  daemon.info.http = Loopback(ports.back());
  return absl::OkStatus();
}

absl::Status Supervisor::AwaitReady(Daemon& daemon) {
  const absl::Time deadline = absl::Now() + policy_.start_timeout;
  absl::Status last = absl::UnavailableError("it has not told its ports");
  while (absl::Now() < deadline) {
    int wait_status = 0;
    if (waitpid(daemon.info.pid, &wait_status, WNOHANG) == daemon.info.pid) {
      daemon.info.pid = 0;
      return Failure(daemon,
                     absl::StrCat("ended with ", DescribeExit(wait_status), " while starting"));
    }
    if (ReadPorts(daemon).ok()) {
      last = ProbeReady(daemon.info.http);
      if (last.ok()) return last;
    }
    if (WaitForShutdown(kTick)) return absl::CancelledError("stopped while starting");
  }
  return Failure(
      daemon, absl::StrCat("is not ready after ", absl::FormatDuration(policy_.start_timeout), " (",
                           last.message(), ")"));
}

absl::Status Supervisor::ChoosePorts(Daemon& daemon, bool any) {
  if (daemon.has_grpc) {
    const int wanted = any && daemon.wanted_port < 0 ? 0 : daemon.wanted_port;
    SA_ASSIGN_OR_RETURN(const int port, PickPort(wanted, daemon.usual_port));
    daemon.info.grpc = Loopback(port);
  }
  SA_ASSIGN_OR_RETURN(const int http, PickPort(any ? 0 : -1, daemon.usual_http));
  daemon.info.http = Loopback(http);
  return absl::OkStatus();
}

bool Supervisor::LostItsPorts(const Daemon& daemon) {
  const auto lost = [](const std::string& address, int usual) {
    return address == Loopback(usual) && PickPort(-1, usual).value_or(usual) != usual;
  };
  return lost(daemon.info.http, daemon.usual_http) ||
         (daemon.has_grpc && daemon.wanted_port < 0 && lost(daemon.info.grpc, daemon.usual_port));
}

// A port that was free may be another cluster's by the time the daemon binds it. The daemon itself
// binds what the system gives it, so the second choice cannot be lost.
absl::Status Supervisor::StartFirst(Daemon& daemon) {
  SA_RETURN_IF_ERROR(Launch(daemon));
  const absl::Status status = AwaitReady(daemon);
  if (status.ok() || daemon.info.pid != 0 || !LostItsPorts(daemon)) return status;
  say_(absl::StrCat(daemon.info.name, " found its port taken; it gets another one"));
  SA_RETURN_IF_ERROR(ChoosePorts(daemon, /*any=*/true));
  SA_RETURN_IF_ERROR(Launch(daemon));
  return AwaitReady(daemon);
}

absl::Status Supervisor::Start() {
  std::error_code error;
  for (const char* folder : {"logs", "run", "packager", "coordinator", "store"}) {
    fs::create_directories(absl::StrCat(options_.data_dir, "/", folder), error);
    if (error)
      return absl::InternalError(
          absl::StrCat(options_.data_dir, "/", folder, ": ", error.message()));
  }
  AddDaemons();
  for (Daemon& daemon : daemons_) {
    // Said at once, not when it is the daemon's turn.
    SA_RETURN_IF_ERROR(ChoosePorts(daemon, /*any=*/false));
  }
  for (Daemon& daemon : daemons_) {
    SA_RETURN_IF_ERROR(StartFirst(daemon));
    say_(absl::StrCat(daemon.info.name,
                      " is ready: ", daemon.has_grpc ? absl::StrCat(daemon.info.grpc, ", ") : "",
                      options_.certs.empty() ? "http://" : "https://", daemon.info.http, ", pid ",
                      daemon.info.pid));
  }
  return WriteEndpoints();
}

absl::Status Supervisor::WriteEndpoints() const {
  ClusterInfo cluster;
  cluster.pid = getpid();
  cluster.packager = daemons_[0].info.grpc;
  cluster.coordinator = daemons_[1].info.grpc;
  cluster.blobs = blobs_;
  cluster.certs = options_.certs;
  cluster.tokens = options_.tokens;
  for (const Daemon& daemon : daemons_) cluster.daemons.push_back(daemon.info);
  return WriteCluster(options_.data_dir, cluster);
}

absl::Status Supervisor::OnDeath(Daemon& daemon, int wait_status) {
  daemon.info.pid = 0;
  if (absl::Now() - daemon.started > policy_.calm) daemon.deaths = 0;
  ++daemon.deaths;
  const std::string what =
      absl::StrCat(daemon.info.name, " ended with ", DescribeExit(wait_status));
  if (daemon.deaths > policy_.limit) {
    daemon.info.given_up = true;
    say_(absl::StrCat(what, ", ", daemon.deaths, " times in a row: given up"));
    // Without these two nothing works; a worker that cannot live leaves the others at work.
    if (daemon.has_grpc) return Failure(daemon, "died again and again");
    return absl::OkStatus();
  }
  absl::Duration pause = policy_.first_pause;
  for (int i = 1; i < daemon.deaths; ++i) pause = std::min(pause * 2, policy_.longest_pause);
  daemon.next_start = absl::Now() + pause;
  say_(absl::StrCat(what, "; it is started again in ", absl::FormatDuration(pause)));
  return absl::OkStatus();
}

absl::Status Supervisor::Reap() {
  for (Daemon& daemon : daemons_) {
    int wait_status = 0;
    if (daemon.info.pid <= 0 || waitpid(daemon.info.pid, &wait_status, WNOHANG) != daemon.info.pid)
      continue;
    SA_RETURN_IF_ERROR(OnDeath(daemon, wait_status));
    SA_RETURN_IF_ERROR(WriteEndpoints());
  }
  return absl::OkStatus();
}

void Supervisor::RestartDue() {
  for (Daemon& daemon : daemons_) {
    if (absl::Now() < daemon.next_start) continue;
    ++daemon.info.restarts;
    if (const absl::Status status = Launch(daemon); !status.ok()) {
      say_(std::string(status.message()));
      daemon.next_start = absl::Now() + policy_.longest_pause;
    }
    if (const absl::Status status = WriteEndpoints(); !status.ok())
      say_(std::string(status.message()));
  }
}

void Supervisor::StartAgainIfAsked() {
  const std::string file = StartAgainFile(options_.data_dir);
  std::error_code error;
  if (!fs::exists(file, error)) return;
  for (Daemon& daemon : daemons_) {
    if (!daemon.info.given_up) continue;
    daemon.info.given_up = false;
    daemon.deaths = 0;
    daemon.next_start = absl::Now();
    say_(absl::StrCat(daemon.info.name, " is started again, as was asked for"));
  }
  if (const absl::Status status = WriteEndpoints(); !status.ok())
    say_(std::string(status.message()));
  fs::remove(file, error);
}

absl::Status Supervisor::Run() {
  while (!WaitForShutdown(kTick)) {
    SA_RETURN_IF_ERROR(Reap());
    StartAgainIfAsked();
    RestartDue();
  }
  return absl::OkStatus();
}

void Supervisor::StopDaemon(Daemon& daemon) {
  daemon.next_start = absl::InfiniteFuture();
  if (daemon.info.pid <= 0) return;
  const absl::Time deadline = absl::Now() + kStopGrace;
  bool killed = false;
  while (waitpid(daemon.info.pid, nullptr, WNOHANG) == 0) {
    if (!killed && absl::Now() > deadline) {
      say_(absl::StrCat(daemon.info.name, " does not stop: killed"));
      kill(daemon.info.pid, SIGKILL);
      killed = true;
    }
    absl::SleepFor(absl::Milliseconds(20));
  }
  daemon.info.pid = 0;
}

void Supervisor::Stop() {
  if (daemons_.empty()) return;
  // Workers first and together, while the coordinator can still take their tasks back.
  const auto each = [this](bool has_grpc, const std::function<void(Daemon&)>& act) {
    for (auto daemon = daemons_.rbegin(); daemon != daemons_.rend(); ++daemon) {
      if (daemon->has_grpc == has_grpc) act(*daemon);
    }
  };
  const auto term = [](Daemon& daemon) {
    if (daemon.info.pid > 0) kill(daemon.info.pid, SIGTERM);
  };
  each(false, term);
  each(false, [this](Daemon& daemon) { StopDaemon(daemon); });
  each(true, [&](Daemon& daemon) {
    term(daemon);
    StopDaemon(daemon);
  });
  daemons_.clear();
  std::error_code error;
  fs::remove(ClusterFile(options_.data_dir), error);
}

}  // namespace shiftadd::cli
