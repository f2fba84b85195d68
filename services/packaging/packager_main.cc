// shiftadd-packager: PackageService over a database and an OCI image layout or registry.
#include <CLI/CLI.hpp>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "services/base/logging.h"
#include "services/base/open_files.h"
#include "services/base/shutdown.h"
#include "services/base/status_macros.h"
#include "services/base/version.h"
#include "services/blob/posix_file.h"
#include "services/daemon/daemon_flags.h"
#include "services/http/listen_address.h"
#include "services/http/protect.h"
#include "services/packaging/package_service.h"
#include "services/store/await_server.h"

namespace shiftadd::packaging {
namespace {

struct Flags {
  std::string listen = "127.0.0.1:7071";
  std::string http = "127.0.0.1:9471";
  std::string data_dir;
  std::string blobs;
  std::string store;
  std::string backup;
  int64_t gc_grace_seconds = 3600;
  DaemonFlags daemon;
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
      ->check(ListenAddressFault)
      ->capture_default_str();
  app->add_option("--http", flags->http, "HOST:PORT of /metrics, /health and /ready")
      ->envname("SHIFTADD_PACKAGER_HTTP")
      ->check(ListenAddressFault)
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
  app->add_option(
      "--backup", flags->backup,
      "Copy packager.sqlite to this file, also while a packager runs, and end; after the "
      "coordinator's backup, so that what jobs have published is in this copy");
  app->add_option("--gc-grace-seconds", flags->gc_grace_seconds,
                  "Blobs stored less long ago are never collected")
      ->envname("SHIFTADD_PACKAGER_GC_GRACE_SECONDS")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 40))
      ->capture_default_str();
  AddDaemonFlags(app, "packager", &flags->daemon);
}

absl::StatusOr<std::unique_ptr<PackageStore>> OpenStore(const Flags& flags) {
  if (flags.store.empty()) {
    SA_RETURN_IF_ERROR(blob::MakeDirectories(flags.data_dir));
    return OpenSqlitePackageStore(flags.data_dir + "/packager.sqlite");
  }
  // Beside the blobs, so that a second packager of the same ones finds it, whatever its data
  // folder. A registry has no room for it.
  const std::string& lock_dir = IsRegistry(flags.blobs) ? flags.data_dir : flags.blobs;
  SA_RETURN_IF_ERROR(blob::MakeDirectories(lock_dir));
  return sql::AwaitServer(
      [&] { return OpenPostgresPackageStore(flags.store, lock_dir + "/packager"); });
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
  SA_ASSIGN_OR_RETURN(const access::Protection protection, access::Protect(flags.daemon.security));
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
  SA_RETURN_IF_ERROR(WritePortFile(flags.daemon.port_file, {server->port(), http_server->port()}));
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
  RaiseOpenFileLimit();
  CLI::App app("Publishes, names, finds and collects packages.", "shiftadd-packager");
  Flags flags;
  Define(&app, &flags);
  if (const auto code = ParseFlags(&app, argc, argv); code.has_value()) return *code;
  InitLogging("packager", flags.daemon.log_level, flags.daemon.log_format);
  return ExitCode("shiftadd-packager", Run(flags));
}

}  // namespace
}  // namespace shiftadd::packaging

int main(int argc, char** argv) { return shiftadd::packaging::Main(argc, argv); }
