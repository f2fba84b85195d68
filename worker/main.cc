// shiftadd-worker: leases tasks from the coordinator and runs them.
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <optional>
#include <thread>

#include "absl/strings/str_cat.h"
#include "kernels/build_info.h"
#include "services/base/ids.h"
#include "services/base/logging.h"
#include "services/base/memory_room.h"
#include "services/base/open_files.h"
#include "services/base/shutdown.h"
#include "services/base/version.h"
#include "services/blob/blob_store.h"
#include "services/daemon/daemon_flags.h"
#include "services/http/listen_address.h"
#include "services/http/protect.h"
#include "services/metrics/metrics.h"
#include "services/rpc/address_fault.h"
#include "services/rpc/failover.h"
#include "services/rpc/security.h"
#include "worker/machine/bench.h"
#include "worker/machine/bench_flags.h"
#include "worker/machine/device_metrics.h"
#include "worker/machine/gpu.h"
#include "worker/model/model_source.h"
#include "worker/reference/source_bench.h"
#include "worker/tasks/lease_loop.h"
#include "worker/tasks/task_runner.h"
#include "worker/worker_device.h"

namespace shiftadd {
namespace {

struct Flags {
  std::string coordinator = "127.0.0.1:7070";
  std::string blobs;
  std::string http = "127.0.0.1:9472";
  std::vector<std::string> source_roots;
  std::string worker_id;
  std::string device = "cpu";
  int threads = 0;
  uint64_t memory_mib = 0;
  std::string bench;
  BenchOptions bench_options;
  int share_device = 0;
  DaemonFlags daemon;
};

std::string HostName() {
  char name[256] = {};
  gethostname(name, sizeof(name) - 1);
  return name;
}

void AddFlags(CLI::App* app, Flags* flags) {
  app->add_option("--coordinator", flags->coordinator,
                  "host:port of the coordinator, or of several of one database, with commas")
      ->envname("SHIFTADD_COORDINATOR")
      ->check(rpc::AddressFault)
      ->capture_default_str();
  app->add_option("--blobs", flags->blobs,
                  "The blob store: an OCI image layout's folder, or http[s]://HOST[:PORT]/PREFIX, "
                  "an OCI registry")
      ->envname("SHIFTADD_WORKER_BLOBS");
  app->add_option("--source-root", flags->source_roots,
                  "Folder that model sources must lie under; repeatable")
      ->envname("SHIFTADD_WORKER_SOURCE_ROOT")
      ->check(CLI::ExistingDirectory);
  app->add_option("--http", flags->http,
                  "host:port of /metrics, /health and /ready; port 0 picks one")
      ->envname("SHIFTADD_WORKER_HTTP")
      ->check(ListenAddressFault)
      ->capture_default_str();
  app->add_option("--threads", flags->threads, "Threads of work; 0 = one a core")
      ->envname("SHIFTADD_WORKER_THREADS")
      ->check(CLI::Range(0, 1024));
  app->add_option("--memory-mib", flags->memory_mib,
                  "Memory this worker may use, MiB; 0 = the machine's, or what its control group "
                  "allows if that is less")
      ->envname("SHIFTADD_WORKER_MEMORY_MIB");
  app->add_option("--device", flags->device,
                  "Where models run: cpu, cuda (the first GPU that no worker uses), or auto: cuda "
                  "if there is a GPU")
      ->envname("SHIFTADD_WORKER_DEVICE")
      ->check(CLI::IsMember({"cpu", "cuda", "auto"}))
      ->capture_default_str();
  app->add_option("--share-device", flags->share_device,
                  "Use the first GPU even if other workers do, and of its memory as much as one of "
                  "so many workers may; 0 = a GPU of its own")
      ->envname("SHIFTADD_WORKER_SHARE_DEVICE")
      ->check(CLI::Range(0, 1024));
  app->add_flag_callback(
      "--probe",
      [] {
        std::printf("%s\n", WorkerProbe().c_str());
        throw CLI::Success();
      },
      "Print what was found and what would be used, as JSON, and end");
  app->add_option("--worker-id", flags->worker_id,
                  "Name shown to users; default: host, process and a random part");
  AddDaemonFlags(app, "worker", &flags->daemon);
  app->set_version_flag("--version", VersionLine() + "\n" + kernels::KernelsBuildInfo());
}

void AddBenchFlags(CLI::App* app, Flags* flags) {
  auto* bench = app->add_option("--bench", flags->bench,
                                "Measure the speed of this model in full precision, print JSON "
                                "and end");
  AddBenchLengthFlags(app, bench, &flags->bench_options);
}

int Threads(const Flags& flags) {
  if (flags.threads > 0) return flags.threads;
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

int Fail(const absl::Status& status) { return ExitCode("shiftadd-worker", status); }

int Bench(const Flags& flags) {
  InitLogging("worker", flags.daemon.log_level, flags.daemon.log_format);
  // Beside whoever uses the GPU: the figures tell.
  const auto device = ChooseDevice(flags.device, /*share=*/true);
  if (!device.ok()) return Fail(device.status());
  const auto source = ModelSource::Open(flags.bench);
  if (!source.ok()) return Fail(source.status());
  const auto figures =
      reference::BenchSource(**source, device->device, Threads(flags), flags.bench_options);
  if (!figures.ok()) return Fail(figures.status());
  std::printf("%s\n", ToJson(*figures, flags.bench_options).c_str());
  return 0;
}

int Run(const Flags& flags) {
  if (flags.blobs.empty() || flags.source_roots.empty()) {
    std::fprintf(stderr, "shiftadd-worker: %s is required\n",
                 flags.blobs.empty() ? "--blobs" : "--source-root");
    return 2;
  }
  InitLogging("worker", flags.daemon.log_level, flags.daemon.log_format);
  const auto protection = access::Protect(flags.daemon.security);
  if (!protection.ok()) return Fail(protection.status());
  if (const absl::Status status =
          rpc::SetClientSecurity({flags.daemon.security.tls, flags.daemon.security.token_file});
      !status.ok()) {
    return Fail(status);
  }
  const auto device = ChooseDevice(flags.device, flags.share_device > 0);
  if (!device.ok()) return Fail(device.status());
  auto store = OpenBlobStore(flags.blobs);
  if (!store.ok()) return Fail(store.status());

  auto registry = std::make_shared<prometheus::Registry>();
  metrics::AddBuildInfo(registry.get(), "worker");
  WorkerMetrics worker_metrics(registry.get());
  const bool on_gpu = device->device == Device::kCuda;
  DeviceMetrics device_metrics(registry.get(), DeviceMeter(on_gpu), on_gpu ? "gpu" : "cpu",
                               /*energy=*/nullptr);

  TaskRunnerOptions options;
  options.threads = Threads(flags);
  options.source_roots = flags.source_roots;
  options.device = device->device;
  options.memory_bytes =
      flags.memory_mib > 0 ? flags.memory_mib << 20 : static_cast<uint64_t>(MemoryLimit());
  const std::optional<Gpu> gpu = on_gpu ? FindGpu() : std::nullopt;
  if (gpu.has_value())
    options.gpu_memory_bytes = gpu->memory_bytes / std::max(1, flags.share_device);
  TaskRunner runner(options, store->get(), &worker_metrics);

  WorkerIdentity identity;
  identity.worker_id =
      flags.worker_id.empty() ? NewId(absl::StrCat(HostName(), "-", getpid())) : flags.worker_id;
  identity.device_class = DeviceClass(device->device);
  identity.memory_bytes = options.memory_bytes;
  const rpc::Failover<v1::TaskService> coordinators(flags.coordinator);
  LeaseLoop loop(identity, &coordinators, &runner, &worker_metrics);

  http::HttpServerOptions http_options;
  http::Protect(flags.http, *protection, &http_options);
  auto server =
      http::HttpServer::Start(http_options, metrics::DaemonRoutes(
                                                registry, [&loop] { return loop.NotReadyReason(); },
                                                [&device_metrics] { device_metrics.Refresh(); }));
  if (!server.ok()) return Fail(server.status());
  if (const absl::Status status = WritePortFile(flags.daemon.port_file, {(*server)->port()});
      !status.ok()) {
    return Fail(status);
  }
  spdlog::info("worker {} ({}, {} threads), metrics on port {}", identity.worker_id,
               identity.device_class, options.threads, (*server)->port());

  absl::Status ended;
  std::thread work([&loop, &ended] {
    ended = loop.Run();
    if (!ended.ok()) kill(getpid(), SIGTERM);  // the same way out as when it is asked to end
  });
  WaitForShutdown();
  spdlog::info("draining");
  loop.Stop();
  work.join();
  (*server)->Shutdown();
  if (ended.ok()) return 0;
  // The device is lost: what LibTorch and CUDA still hold of it is not to be taken down, which may
  // throw or wait for ever.
  const int code = Fail(ended);
  std::fflush(nullptr);
  _exit(code);
}

}  // namespace
}  // namespace shiftadd

int main(int argc, char** argv) {
  CLI::App app("Runs quantization tasks for a shiftadd coordinator.", "shiftadd-worker");
  shiftadd::Flags flags;
  shiftadd::AddFlags(&app, &flags);
  shiftadd::AddBenchFlags(&app, &flags);
  if (const auto code = shiftadd::ParseFlags(&app, argc, argv); code.has_value()) return *code;
  // Measuring has nothing to finish: a signal ends it at once.
  if (!flags.bench.empty()) return shiftadd::Bench(flags);
  shiftadd::BlockShutdownSignals();
  shiftadd::RaiseOpenFileLimit();
  return shiftadd::Run(flags);
}
