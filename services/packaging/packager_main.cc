// shiftadd-packager: PackageService over a database and an OCI image layout or registry.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <string>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "services/access/security_flags.h"
#include "services/base/logging.h"
#include "services/base/shutdown.h"
#include "services/base/status_macros.h"
#include "services/base/version.h"
#include "services/blob/posix_file.h"
#include "services/http/protect.h"
#include "services/packaging/package_service.h"
#include "services/store/await_server.h"

namespace shiftadd::packaging {
namespace {

constexpr int kOk = 0, kFailed = 1, kUsage = 2;

struct Flags {
  std::string listen = "127.0.0.1:7071";
  std::string http = "127.0.0.1:9471";
  std::string data_dir;
  std::string blobs;
  std::string store;
  std::string backup;
  std::string port_file;
  std::string log_level = "info";
  std::string log_format = "text";
  int64_t gc_grace_seconds = 3600;
  access::SecurityFlags security;
};

std::string DefaultDataDir() {
  const char* home = std::getenv("HOME");
  return absl::StrCat(home != nullptr && *home != '\0' ? home : "/var/lib",
                      "/.local/share/shiftadd");
}

void Define(CLI::App* app, Flags* flags) {
  flags->data_dir = DefaultDataDir();
  app->set_version_flag("--version", VersionLine());
  app->add_option("--listen", flags->listen, "HOST:PORT of gRPC; port 0 picks one")
      ->envname("SHIFTADD_PACKAGER_LISTEN")
      ->capture_default_str();
  app->add_option("--http", flags->http, "HOST:PORT of /metrics, /health and /ready")
      ->envname("SHIFTADD_PACKAGER_HTTP")
      ->capture_default_str();
  app->add_option("--data-dir", flags->data_dir, "Folder of packager.sqlite")
      ->envname("SHIFTADD_PACKAGER_DATA_DIR")
      ->capture_default_str();
  app->add_option("--blobs", flags->blobs,
                  "Folder of blobs, an OCI image layout, or http[s]://HOST[:PORT]/PREFIX, an OCI "
                  "registry [DATA_DIR/blobs]")
      ->envname("SHIFTADD_PACKAGER_BLOBS");
  app->add_option("--store", flags->store,
                  "Database instead of packager.sqlite: postgres://USER@HOST/DATABASE; give its "
                  "password by the variable, or leave it to ~/.pgpass")
      ->envname("SHIFTADD_STORE");
  app->add_option("--backup", flags->backup,
                  "Copy packager.sqlite to this file, also while a packager runs, and end");
  app->add_option("--port-file", flags->port_file,
                  "File to write the gRPC and the HTTP port to, one a line, once both listen")
      ->envname("SHIFTADD_PACKAGER_PORT_FILE");
  app->add_option("--gc-grace-seconds", flags->gc_grace_seconds,
                  "Blobs stored less long ago are never collected")
      ->envname("SHIFTADD_PACKAGER_GC_GRACE_SECONDS")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 40))
      ->capture_default_str();
  app->add_option("--log-level", flags->log_level, "What to log")
      ->envname("SHIFTADD_PACKAGER_LOG_LEVEL")
      ->check(CLI::IsMember({"trace", "debug", "info", "warn", "error"}))
      ->capture_default_str();
  app->add_option("--log-format", flags->log_format, "text, or json: an object a line")
      ->envname("SHIFTADD_LOG_FORMAT")
      ->check(CLI::IsMember({"text", "json"}))
      ->capture_default_str();
  access::AddServerSecurityFlags(app, &flags->security);
  app->add_flag("--insecure-i-know", flags->security.insecure,
                "Listen beyond this machine although nothing protects the service")
      ->envname("SHIFTADD_PACKAGER_INSECURE_I_KNOW");
}

// By rename, so that a reader never sees half of it.
absl::Status WritePortFile(const std::string& path, int grpc_port, int http_port) {
  if (path.empty()) return absl::OkStatus();
  const std::string temp = path + ".tmp";
  std::ofstream out(temp, std::ios::trunc);
  out << grpc_port << "\n" << http_port << "\n";
  out.close();
  if (!out || std::rename(temp.c_str(), path.c_str()) != 0) {
    return absl::FailedPreconditionError(absl::StrCat("--port-file ", path, ": cannot write"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<PackageStore>> OpenStore(const Flags& flags) {
  if (flags.store.empty()) {
    SA_RETURN_IF_ERROR(blob::MakeDirectories(flags.data_dir));
    return OpenSqlitePackageStore(flags.data_dir + "/packager.sqlite");
  }
  return sql::AwaitServer(
      [&] { return OpenPostgresPackageStore(flags.store, flags.blobs + "/packager"); });
}

void RefreshDisk(const std::string& blobs, PackagerMetrics* metrics) {
  if (IsRegistry(blobs)) return;
  std::error_code error;
  const std::filesystem::space_info space = std::filesystem::space(blobs, error);
  if (error) return;
  metrics->store_size.Set(static_cast<double>(space.capacity));
  metrics->store_available.Set(static_cast<double>(space.available));
}

absl::Status Run(Flags flags) {
  if (flags.blobs.empty()) flags.blobs = flags.data_dir + "/blobs";
  if (!flags.backup.empty()) {
    if (!flags.store.empty()) return sql::UsePgDump();
    return BackUpSqlitePackageStore(flags.data_dir + "/packager.sqlite", flags.backup);
  }
  SA_ASSIGN_OR_RETURN(const access::Protection protection, access::Protect(flags.security));
  SA_ASSIGN_OR_RETURN(const auto blobs, OpenBlobStore(flags.blobs));
  SA_ASSIGN_OR_RETURN(const auto store, OpenStore(flags));

  const auto registry = std::make_shared<prometheus::Registry>();
  metrics::AddBuildInfo(registry.get(), "packager");
  PackagerMetrics packager_metrics(registry.get());
  PackagerOptions options;
  options.grace = absl::Seconds(flags.gc_grace_seconds);
  options.metrics = &packager_metrics;
  options.verify_layers = !IsRegistry(flags.blobs);
  SA_ASSIGN_OR_RETURN(const auto packager, Packager::Start(store.get(), blobs.get(), options));

  const auto service = MakePackageService(packager.get(), protection.access.get());
  SA_ASSIGN_OR_RETURN(
      const auto server,
      rpc::Server::Start(rpc::Protected(flags.listen, protection), {service.get()}));
  http::HttpServerOptions http_options;
  http::Protect(flags.http, protection, &http_options);
  SA_ASSIGN_OR_RETURN(
      const auto http_server,
      http::HttpServer::Start(http_options, metrics::DaemonRoutes(registry, nullptr, [&] {
                                packager->RefreshMetrics();
                                RefreshDisk(flags.blobs, &packager_metrics);
                              })));
  SA_RETURN_IF_ERROR(WritePortFile(flags.port_file, server->port(), http_server->port()));
  spdlog::info("gRPC on port {}, HTTP on port {}, blobs in {}", server->port(), http_server->port(),
               flags.blobs);
  WaitForShutdown();
  spdlog::info("stopping");
  packager->EndWaits();
  server->Shutdown(absl::Seconds(5));
  http_server->Shutdown();
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  BlockShutdownSignals();
  CLI::App app("Publishes, names, finds and collects packages.", "shiftadd-packager");
  Flags flags;
  Define(&app, &flags);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? kOk : kUsage;
  }
  InitLogging("packager", flags.log_level, flags.log_format);
  const absl::Status status = Run(flags);
  if (status.ok()) return kOk;
  std::cerr << "shiftadd-packager: " << status.message() << "\n";
  return kFailed;
}

}  // namespace
}  // namespace shiftadd::packaging

int main(int argc, char** argv) { return shiftadd::packaging::Main(argc, argv); }
