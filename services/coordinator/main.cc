// shiftadd-coordinator: JobService for users, TaskService for workers.
#include <CLI/CLI.hpp>
#include <filesystem>
#include <thread>

#include "absl/strings/str_cat.h"
#include "services/base/disk_room.h"
#include "services/base/logging.h"
#include "services/base/open_files.h"
#include "services/base/shutdown.h"
#include "services/base/status_macros.h"
#include "services/base/version.h"
#include "services/blob/blob_store.h"
#include "services/coordinator/coordinator.h"
#include "services/coordinator/coordinator_metrics.h"
#include "services/coordinator/grpc_publisher.h"
#include "services/coordinator/services.h"
#include "services/daemon/daemon_flags.h"
#include "services/http/http_server.h"
#include "services/http/listen_address.h"
#include "services/http/protect.h"
#include "services/metrics/metrics.h"
#include "services/rpc/address_fault.h"
#include "services/rpc/rpc.h"
#include "services/rpc/security.h"
#include "services/store/await_server.h"
#include "services/store/job_store.h"
#include "services/store/timed_job_store.h"

namespace shiftadd::coordinator {
namespace {

struct Flags {
  std::string listen = "127.0.0.1:7070";
  std::string http = "127.0.0.1:9470";
  std::string data_dir;
  std::string packager = "127.0.0.1:7071";
  std::string blobs;
  std::string store;
  std::string backup;
  double lease_seconds = 30;
  int max_jobs = 1000;
  int max_jobs_per_owner = 500;
  int max_attempts = 4;
  DaemonFlags daemon;
};

void DefineFlags(CLI::App* app, Flags* f) {
  app->set_version_flag("--version", VersionLine());
  app->add_option("--listen", f->listen, "gRPC address; port 0 picks a free one")
      ->envname("SHIFTADD_COORDINATOR_LISTEN")
      ->check(ListenAddressFault)
      ->capture_default_str();
  app->add_option("--http", f->http, "Address of /metrics, /health, /ready; port 0 picks one")
      ->envname("SHIFTADD_COORDINATOR_HTTP")
      ->check(ListenAddressFault)
      ->capture_default_str();
  auto* data_dir =
      app->add_option("--data-dir", f->data_dir, "Folder of the SQLite file; made if absent")
          ->envname("SHIFTADD_COORDINATOR_DATA_DIR");
  auto* store = app->add_option(
      "--store", f->store,
      "Database that several coordinators may share, instead of a file of one's own: "
      "postgres://USER@HOST/DATABASE; give its password by the variable, or leave it to ~/.pgpass");
  store->envname("SHIFTADD_STORE");
  app->add_option(
      "--backup", f->backup,
      "Copy the SQLite file to this one, also while a coordinator runs, and end; back up "
      "the packager after it, so that what jobs have published is in that copy");
  app->callback([=] {
    if (data_dir->empty() && store->empty()) {
      throw CLI::RequiredError("--data-dir or --store");
    }
  });
  app->add_option("--packager", f->packager,
                  "The packager's gRPC address, or several of one database with commas")
      ->envname("SHIFTADD_PACKAGER")
      ->check(rpc::AddressFault)
      ->capture_default_str();
  app->add_option(
         "--blobs", f->blobs,
         "OCI image layout or registry that workers write to; scratch of ended jobs is deleted "
         "there")
      ->envname("SHIFTADD_BLOBS");
  app->add_option("--lease-seconds", f->lease_seconds, "A worker's lease on a task")
      ->envname("SHIFTADD_LEASE_SECONDS")
      ->check(CLI::Range(1.0, 3600.0))
      ->capture_default_str();
  app->add_option("--max-jobs", f->max_jobs, "Jobs that may wait or run; 0: no limit")
      ->envname("SHIFTADD_MAX_JOBS")
      ->check(CLI::Range(0, 1'000'000))
      ->capture_default_str();
  app->add_option("--max-jobs-per-owner", f->max_jobs_per_owner,
                  "The same of one certificate's or token's name; 0: no limit")
      ->envname("SHIFTADD_MAX_JOBS_PER_OWNER")
      ->check(CLI::Range(0, 1'000'000))
      ->capture_default_str();
  app->add_option("--max-attempts", f->max_attempts,
                  "Lost attempts after which a task fails its job; more where machines go away "
                  "often")
      ->envname("SHIFTADD_MAX_ATTEMPTS")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  AddDaemonFlags(app, "coordinator", &f->daemon);
}

// Changes that follow each other so closely are looked at together.
constexpr absl::Duration kTickPause = absl::Milliseconds(5);

// Ticks after every change, and at least once a second for leases and progress.
void Drive(Coordinator* core, const StopFlag* stop) {
  uint64_t seen = 0;
  while (!stop->load()) {
    seen = core->store()->AwaitChange(seen, absl::ZeroDuration());
    if (const absl::Status status = core->Tick(); !status.ok()) {
      spdlog::error("store: {}", status.ToString());
      absl::SleepFor(absl::Seconds(1));
    }
    absl::SleepFor(kTickPause);
    core->store()->AwaitChange(seen, absl::Seconds(1));
  }
}

std::string HostOf(const std::string& address) { return address.substr(0, address.rfind(':')); }

std::string FileOf(const Flags& flags) { return flags.data_dir + "/coordinator.db"; }

absl::StatusOr<std::unique_ptr<JobStore>> OpenStore(const Flags& flags, const StorePolicy& policy) {
  if (!flags.store.empty()) {
    return sql::AwaitServer([&] { return OpenPostgresJobStore(flags.store, nullptr, policy); });
  }
  std::error_code error;
  std::filesystem::create_directories(flags.data_dir, error);
  if (error) {
    return absl::FailedPreconditionError(
        absl::StrCat("--data-dir ", flags.data_dir, ": ", error.message()));
  }
  return OpenSqliteJobStore(FileOf(flags), std::make_shared<SystemClock>(), policy);
}

absl::Status BackUp(const Flags& flags) {
  return flags.store.empty() ? BackUpSqliteJobStore(FileOf(flags), flags.backup) : sql::UsePgDump();
}

absl::Status Serve(const Flags& flags) {
  SA_ASSIGN_OR_RETURN(const access::Protection protection, access::Protect(flags.daemon.security));
  SA_RETURN_IF_ERROR(
      rpc::SetClientSecurity({flags.daemon.security.tls, flags.daemon.security.token_file}));
  StorePolicy policy;
  policy.lease = absl::Seconds(flags.lease_seconds);
  policy.max_attempts = flags.max_attempts;
  const auto registry = std::make_shared<prometheus::Registry>();
  metrics::AddBuildInfo(registry.get(), "coordinator");
  CoordinatorMetrics metrics(registry);
  SA_ASSIGN_OR_RETURN(auto untimed, OpenStore(flags, policy));
  const auto store = NewTimedJobStore(std::move(untimed), metrics.MakeStoreTimer());
  const StoreClock clock(store.get());
  std::unique_ptr<BlobStore> scratch;
  if (!flags.blobs.empty()) {
    SA_ASSIGN_OR_RETURN(scratch, OpenBlobStore(flags.blobs));
  }
  const auto publisher = MakeGrpcPublisher(flags.packager);

  CoordinatorOptions options;
  options.lease = policy.lease;
  options.max_jobs = flags.max_jobs;
  options.max_jobs_per_owner = flags.max_jobs_per_owner;
  options.owners_are_known = protection.access->required();
  options.observer = metrics.MakeObserver();
  Coordinator core(store.get(), publisher.get(), scratch.get(), &clock, options);

  StopFlag stop = false;
  JobServiceHandler jobs(&core, &metrics, &stop, protection.access.get());
  TaskServiceHandler tasks(&core, &metrics, &stop);
  SA_ASSIGN_OR_RETURN(
      auto server, rpc::Server::Start(rpc::Protected(flags.listen, protection), {&jobs, &tasks}));
  http::HttpServerOptions http_options;
  http::Protect(flags.http, protection, &http_options);
  const auto ready = [&]() -> std::string {
    const auto counts = store->CountJobs();
    if (!counts.ok()) return counts.status().ToString();
    // What is read answers on a full disk; no job and no lease could be written.
    return flags.store.empty() ? DiskFault(flags.data_dir) : "";
  };
  SA_ASSIGN_OR_RETURN(
      auto http, http::HttpServer::Start(http_options, metrics::DaemonRoutes(registry, ready, [&] {
                                           metrics.Refresh(&core);
                                         })));
  std::thread driver(Drive, &core, &stop);
  const absl::Status status = WritePortFile(flags.daemon.port_file, {server->port(), http->port()});
  if (status.ok()) {
    spdlog::info("listening on {}:{}", HostOf(flags.listen), server->port());
    spdlog::info("metrics on http://{}:{}/metrics", HostOf(flags.http), http->port());
    WaitForShutdown();
    spdlog::info("shutting down");
  }
  stop = true;
  store->StopWaiting();
  server->Shutdown(absl::Seconds(5));
  http->Shutdown();
  driver.join();
  return status;
}

}  // namespace
}  // namespace shiftadd::coordinator

int main(int argc, char** argv) {
  shiftadd::BlockShutdownSignals();
  shiftadd::RaiseOpenFileLimit();
  CLI::App app(
      "shiftadd-coordinator: queues jobs, leases their tasks to workers, publishes results");
  shiftadd::coordinator::Flags flags;
  shiftadd::coordinator::DefineFlags(&app, &flags);
  if (const auto code = shiftadd::ParseFlags(&app, argc, argv); code.has_value()) return *code;
  shiftadd::InitLogging("coordinator", flags.daemon.log_level, flags.daemon.log_format);
  return shiftadd::ExitCode("shiftadd-coordinator", flags.backup.empty()
                                                        ? shiftadd::coordinator::Serve(flags)
                                                        : shiftadd::coordinator::BackUp(flags));
}
