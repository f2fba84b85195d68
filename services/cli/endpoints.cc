#include "services/cli/endpoints.h"

#include <pwd.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "services/cli/files.h"
#include "services/rpc/address_fault.h"

namespace shiftadd::cli {
namespace {

using Json = nlohmann::ordered_json;

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::string Home() {
  if (std::string home = Environment("HOME"); !home.empty()) return home;
  const passwd* user = getpwuid(getuid());
  return user == nullptr ? "/" : user->pw_dir;
}

// Flag, then variable, then the cluster's file.
absl::StatusOr<std::string> Find(const Context& context, const std::string& flag, const char* what,
                                 const char* variable, std::string ClusterInfo::*field) {
  const std::string value = flag.empty() ? Environment(variable) : flag;
  if (const std::string fault = rpc::AddressFault(value); !value.empty() && !fault.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(flag.empty() ? variable : absl::StrCat("--", what), ": ", fault));
  }
  if (!value.empty()) return value;
  const std::string dir = DataDir(context);
  absl::StatusOr<ClusterInfo> cluster = ReadCluster(dir);
  if (absl::IsNotFound(cluster.status())) {
    return absl::UnavailableError(absl::StrCat(
        "no ", what, " is known: start a local cluster with `shiftadd up`", ", or name one with --",
        what, " HOST:PORT or ", variable, " (no cluster runs in ", dir, ")"));
  }
  if (!cluster.ok()) return cluster.status();
  return (*cluster).*field;
}

}  // namespace

std::string DataDir(const Context& context) {
  std::string dir = context.data_dir;
  if (dir.empty()) dir = Environment("SHIFTADD_DATA_DIR");
  if (dir.empty()) dir = Home() + "/.local/share/shiftadd";
  std::filesystem::path path = std::filesystem::path(AbsolutePath(dir)).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();  // a trailing slash
  return path.string();
}

std::string ClusterFile(const std::string& data_dir) { return data_dir + "/cluster.json"; }

std::string StartAgainFile(const std::string& data_dir) { return data_dir + "/run/start_again"; }

absl::Status WriteCluster(const std::string& data_dir, const ClusterInfo& cluster) {
  Json json = {{"pid", cluster.pid},           {"coordinator", cluster.coordinator},
               {"packager", cluster.packager}, {"blobs", cluster.blobs},
               {"certs", cluster.certs},       {"tokens", cluster.tokens},
               {"daemons", Json::array()}};
  for (const DaemonInfo& daemon : cluster.daemons) {
    json["daemons"].push_back({{"name", daemon.name},
                               {"pid", daemon.pid},
                               {"grpc", daemon.grpc},
                               {"http", daemon.http},
                               {"restarts", daemon.restarts},
                               {"given_up", daemon.given_up}});
  }
  return WriteFileAtomically(ClusterFile(data_dir), json.dump(2) + "\n");
}

absl::StatusOr<ClusterInfo> ReadCluster(const std::string& data_dir) {
  const std::string path = ClusterFile(data_dir);
  SA_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, 1 << 20));
  ClusterInfo cluster;
  try {
    const Json json = Json::parse(text);
    cluster.pid = json.at("pid").get<int>();
    cluster.coordinator = json.at("coordinator").get<std::string>();
    cluster.packager = json.at("packager").get<std::string>();
    cluster.blobs = json.at("blobs").get<std::string>();
    cluster.certs = json.value("certs", "");
    cluster.tokens = json.value("tokens", "");
    for (const Json& item : json.at("daemons")) {
      DaemonInfo daemon;
      daemon.name = item.at("name").get<std::string>();
      daemon.pid = item.at("pid").get<int>();
      daemon.grpc = item.at("grpc").get<std::string>();
      daemon.http = item.at("http").get<std::string>();
      daemon.restarts = item.at("restarts").get<int>();
      daemon.given_up = item.at("given_up").get<bool>();
      cluster.daemons.push_back(std::move(daemon));
    }
  } catch (const nlohmann::json::exception& e) {
    return absl::DataLossError(absl::StrCat(path, " is not what `shiftadd up` writes: ", e.what()));
  }
  return cluster;
}

absl::StatusOr<std::string> CoordinatorAddress(const Context& context) {
  return Find(context, context.coordinator, "coordinator", "SHIFTADD_COORDINATOR",
              &ClusterInfo::coordinator);
}

absl::StatusOr<std::string> PackagerAddress(const Context& context) {
  return Find(context, context.packager, "packager", "SHIFTADD_PACKAGER", &ClusterInfo::packager);
}

}  // namespace shiftadd::cli
