#include "services/cli/servers.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "services/cli/child_process.h"
#include "services/cli/files.h"

namespace shiftadd::cli {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

std::string Folder(const std::string& data_dir) { return data_dir + "/servers"; }

std::string FileOf(const std::string& data_dir, const ServerInfo& server) {
  return absl::StrCat(Folder(data_dir), "/", server.http.substr(server.http.rfind(':') + 1),
                      ".json");
}

}  // namespace

absl::Status WriteServer(const std::string& data_dir, const ServerInfo& server) {
  std::error_code error;
  fs::create_directories(Folder(data_dir), error);
  if (error) return absl::InternalError(absl::StrCat(Folder(data_dir), ": ", error.message()));
  const Json json = {{"pid", server.pid},
                     {"reference", server.reference},
                     {"digest", server.digest},
                     {"http", server.http},
                     {"grpc", server.grpc}};
  return WriteFileAtomically(FileOf(data_dir, server), json.dump(2) + "\n");
}

void RemoveServer(const std::string& data_dir, const ServerInfo& server) {
  std::error_code error;
  fs::remove(FileOf(data_dir, server), error);
}

std::vector<ServerInfo> RunningServers(const std::string& data_dir) {
  std::vector<ServerInfo> servers;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(Folder(data_dir), error)) {
    if (entry.path().extension() != ".json") continue;
    const auto text = ReadFile(entry.path().string(), 1 << 16);
    const Json json = Json::parse(text.ok() ? *text : "", nullptr, false);
    ServerInfo server;
    try {
      if (json.is_object()) {
        server.reference = json.value("reference", "");
        server.digest = json.value("digest", "");
        server.http = json.value("http", "");
        server.grpc = json.value("grpc", "");
        server.pid = json.value("pid", 0);
      }
    } catch (const nlohmann::json::exception&) {
      server.pid = 0;  // nobody's file
    }
    if (RunsBinary(server.pid, kServerBinary)) {
      servers.push_back(std::move(server));
    } else {
      fs::remove(entry.path(), error);
    }
  }
  std::sort(servers.begin(), servers.end(),
            [](const auto& a, const auto& b) { return a.http < b.http; });
  return servers;
}

}  // namespace shiftadd::cli
