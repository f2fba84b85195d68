// `shiftadd status`: what an operator asks first, of the local cluster or of one that is named.
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "services/cli/child_process.h"
#include "services/cli/cluster_lock.h"
#include "services/cli/cluster_status.h"
#include "services/cli/commands.h"
#include "services/cli/endpoints.h"
#include "services/cli/http_probe.h"
#include "services/cli/running_cluster.h"
#include "services/cli/servers.h"
#include "services/cli/table.h"

namespace shiftadd::cli {
namespace {

using OrderedJson = nlohmann::ordered_json;

std::string HealthOf(const DaemonInfo& daemon) {
  if (daemon.given_up) return "given up";
  if (!RunsBinary(daemon.pid, BinaryOf(daemon))) return "down";
  return ProbeReady(daemon.http).ok() ? "ready" : "not ready";
}

bool IsNamed(const std::string& flag, const char* variable) {
  const char* value = std::getenv(variable);
  return !flag.empty() || (value != nullptr && *value != '\0');
}

void Print(Context& context, const OrderedJson& json, const std::string& text) {
  if (context.json) {
    context.out << json.dump(2) << "\n";
  } else {
    context.out << text;
  }
}

// Whoever is not named is not asked: a local cluster's packager has nothing to do with another
// cluster's coordinator.
int StatusOfNamed(Context& context, bool coordinator, bool packager) {
  std::string coordinators, packagers;
  if (coordinator) {
    const absl::StatusOr<std::string> found = CoordinatorAddress(context);
    if (!found.ok()) return Report(context, found.status());
    coordinators = *found;
  }
  if (packager) {
    const absl::StatusOr<std::string> found = PackagerAddress(context);
    if (!found.ok()) return Report(context, found.status());
    packagers = *found;
  }
  const ClusterStatus status = AskCluster(coordinators, packagers);
  Print(context, ClusterStatusJson(status), FormatClusterStatus(status));
  return EachKindAnswers(status) && StoresAnswer(status) ? kExitOk : kExitUnreachable;
}

int StatusOfLocal(Context& context) {
  const std::string data_dir = DataDir(context);
  const absl::StatusOr<ClusterInfo> cluster = ReadCluster(data_dir);
  if (ClusterLock::Holder(data_dir) == 0 || !cluster.ok()) {
    return Report(context, absl::UnavailableError(absl::StrCat(
                               "no cluster runs in ", data_dir,
                               ": start one with `shiftadd up`, or name another cluster's daemons "
                               "with --coordinator and --packager")));
  }
  Table table({"DAEMON", "STATE", ">PID", "GRPC", "HTTP", ">RESTARTS"});
  OrderedJson json = {{"data_dir", data_dir},
                      {"pid", cluster->pid},
                      {"coordinator", cluster->coordinator},
                      {"packager", cluster->packager},
                      {"daemons", OrderedJson::array()},
                      {"servers", OrderedJson::array()}};
  bool all_ready = true;
  for (const DaemonInfo& daemon : cluster->daemons) {
    const std::string health = HealthOf(daemon);
    all_ready = all_ready && health == "ready";
    table.Add({daemon.name, health, absl::StrCat(daemon.pid),
               daemon.grpc.empty() ? "-" : daemon.grpc, daemon.http,
               absl::StrCat(daemon.restarts)});
    json["daemons"].push_back({{"name", daemon.name},
                               {"state", health},
                               {"pid", daemon.pid},
                               {"grpc", daemon.grpc},
                               {"http", daemon.http},
                               {"restarts", daemon.restarts}});
  }
  for (const ServerInfo& server : RunningServers(data_dir)) {
    const std::string health = ProbeReady(server.http).ok() ? "ready" : "not ready";
    table.Add({absl::StrCat("server ", server.reference), health, absl::StrCat(server.pid),
               server.grpc, server.http, "-"});
    json["servers"].push_back({{"reference", server.reference},
                               {"state", health},
                               {"pid", server.pid},
                               {"grpc", server.grpc},
                               {"http", server.http}});
  }
  const ClusterStatus status = AskCluster(cluster->coordinator, cluster->packager);
  json.update(ClusterStatusJson(status));
  Print(context, json,
        absl::StrCat("data in ", data_dir, ", supervisor pid ", cluster->pid, "\n",
                     table.ToString(), FormatClusterStatus(status)));
  // First: where a store is away its daemon is not ready.
  if (!StoresAnswer(status)) return kExitUnreachable;
  return all_ready ? kExitOk : kExitFailed;
}

int Status(Context& context) {
  const bool coordinator = IsNamed(context.coordinator, "SHIFTADD_COORDINATOR");
  const bool packager = IsNamed(context.packager, "SHIFTADD_PACKAGER");
  return coordinator || packager ? StatusOfNamed(context, coordinator, packager)
                                 : StatusOfLocal(context);
}

}  // namespace

void AddStatusCommand(CLI::App& app, Context& context) {
  CLI::App* status = app.add_subcommand(
      "status",
      "Show a cluster: its coordinators and packagers, stores, jobs, tasks, workers and replicas; "
      "of the local cluster each daemon too");
  AddCoordinatorFlag(status, context);
  AddPackagerFlag(status, context);
  AddJsonFlag(status, context);
  status->callback([&context] { context.action = [&context] { return Status(context); }; });
}

}  // namespace shiftadd::cli
