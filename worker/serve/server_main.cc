// shiftadd-server: serves a package.
#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/service_type.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/cpu_linear.h"
#include "services/base/ids.h"
#include "services/base/logging.h"
#include "services/base/open_files.h"
#include "services/base/shutdown.h"
#include "services/base/status_macros.h"
#include "services/http/http_server.h"
#include "services/http/listen_address.h"
#include "services/http/protect.h"
#include "services/metrics/metrics.h"
#include "services/rpc/rpc.h"
#include "services/rpc/security.h"
#include "worker/machine/device_metrics.h"
#include "worker/serve/api_keys.h"
#include "worker/serve/generate_service.h"
#include "worker/serve/model_follower.h"
#include "worker/serve/model_loader.h"
#include "worker/serve/model_registry.h"
#include "worker/serve/openai_api.h"
#include "worker/serve/openai_response.h"
#include "worker/serve/server_bench.h"
#include "worker/serve/server_flags.h"

namespace shiftadd {
namespace {

// Who has no key may ask whether the server lives, nothing else.
http::Guard KeyGuard(const ApiKeys* keys) {
  if (keys == nullptr) return nullptr;
  return [keys](const http::Request& head) -> std::optional<http::Response> {
    if (head.path == "/health" || head.path == "/ready") return std::nullopt;
    const auto found = head.headers.find("authorization");
    const absl::Status status =
        keys->Check(found == head.headers.end() ? absl::string_view() : found->second);
    if (status.ok()) return std::nullopt;
    return openai::ErrorResponse(status);
  };
}

http::Response Health(const ModelRegistry& registry) {
  nlohmann::json models = nlohmann::json::array();
  bool well = true;
  for (const ModelState& state : registry.States()) {
    well = well && state.error.empty();
    models.push_back({{"id", state.reference},
                      {"digest", state.digest},
                      {"state", state.state},
                      {"error", state.error}});
  }
  return openai::JsonResponse(200, {{"status", well ? "ok" : "degraded"}, {"models", models}});
}

// Empty if every model has a version that serves: else why a request would wait or fail here.
std::string WithoutVersion(const ModelRegistry& registry) {
  for (const ModelState& state : registry.States()) {
    if (!state.digest.empty()) continue;
    return absl::StrCat(state.reference, ": no version is loaded",
                        state.error.empty() ? "" : ": " + state.error);
  }
  return "";
}

void RefreshGauges(const ModelRegistry& registry, ServerMetrics* metrics) {
  for (const ModelPtr& model : registry.All()) {
    const EngineStats stats = model->engine->Stats();
    metrics->SetModel(
        model->served.name,
        {static_cast<double>(stats.waiting), static_cast<double>(stats.running),
         static_cast<double>(stats.pages_used), static_cast<double>(stats.pages_total),
         static_cast<double>(model->model->cache_page_bytes()),
         static_cast<double>(model->model->weight_bytes())});
  }
}

http::HttpServer::Routes Routes(openai::Api* api, const ModelRegistry* registry,
                                const std::shared_ptr<prometheus::Registry>& prometheus,
                                ServerMetrics* metrics, DeviceMetrics* device,
                                const std::atomic<bool>* draining) {
  http::HttpServer::Routes routes = api->Routes();
  const auto ready = [registry, draining] {
    return draining->load() ? "shutting down" : WithoutVersion(*registry);
  };
  for (auto& [path, methods] :
       metrics::DaemonRoutes(prometheus, ready, [registry, metrics, device] {
         RefreshGauges(*registry, metrics);
         device->Refresh();
       })) {
    routes[path] = std::move(methods);
  }
  routes["/health"]["GET"] = [registry](const http::Request&, http::StreamWriter*) {
    return Health(*registry);
  };
  return routes;
}

// What runs may end and be answered to its last byte, all models at once.
void Drain(const ModelRegistry& registry, absl::Duration grace) {
  const absl::Time end = absl::Now() + grace;
  std::vector<std::thread> threads;
  for (const ModelPtr& model : registry.All()) {
    threads.emplace_back([model, grace, end] {
      model->engine->Drain(grace);
      // The registry's and this thread's own aside, it is requests that hold a version.
      AwaitUnused(model, /*others=*/1, std::max(absl::Seconds(1), end - absl::Now()));
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// Where others reach a port.
std::string Advertised(const std::string& host, const std::string& listen, int port) {
  std::string name = host.empty() ? listen.substr(0, listen.rfind(':')) : host;
  if (name == "0.0.0.0" || name == "[::]" || name == "*") {
    char own[256] = "";
    gethostname(own, sizeof(own) - 1);
    name = own;
  }
  return absl::StrCat(name, ":", port);
}

using Followers = std::vector<std::unique_ptr<ModelFollower>>;

absl::StatusOr<Followers> Follow(const ServerFlags& flags, const ReplicaAddress& address,
                                 ModelRegistry* registry, ServerMetrics* metrics) {
  FollowOptions options;
  options.load = flags.load;
  options.replacing = flags.replacing;
  options.drain = absl::Seconds(flags.drain_seconds);
  options.address = address;
  Followers followers;
  for (PackageLocation location : flags.Locations()) {
    SA_ASSIGN_OR_RETURN(location.reference, NormalReference(location.reference));
    followers.push_back(std::make_unique<ModelFollower>(location, options, registry, metrics));
  }
  return followers;
}

// Before a package is loaded, which takes long: what would keep the server from listening then.
absl::Status CheckAddresses(const ServerFlags& flags, const access::Protection& protection) {
  const bool anywhere = protection.insecure || protection.complete();
  SA_RETURN_IF_ERROR(Annotate(CheckListenAddress(flags.listen, anywhere).status(), "--listen"));
  return Annotate(CheckListenAddress(flags.http, anywhere).status(), "--http");
}

absl::Status Serve(ServerFlags flags) {
  std::unique_ptr<ApiKeys> keys;
  if (!flags.api_key_file.empty()) {
    SA_ASSIGN_OR_RETURN(keys, ApiKeys::FromFile(flags.api_key_file));
  }
  std::function<bool(absl::string_view)> is_client_key;
  if (keys != nullptr) {
    is_client_key = [&keys](absl::string_view sent) { return keys->Check(sent).ok(); };
  }
  SA_ASSIGN_OR_RETURN(const access::Protection protection,
                      access::Protect(flags.daemon.security, is_client_key));
  SA_RETURN_IF_ERROR(
      rpc::SetClientSecurity({flags.daemon.security.tls, flags.daemon.security.token_file}));
  // Where everybody is asked who he is, a key is one way among others to say it.
  const ApiKeys* only_keys = protection.access->required() ? nullptr : keys.get();
  SA_RETURN_IF_ERROR(CheckAddresses(flags, protection));
  const auto prometheus = std::make_shared<prometheus::Registry>();
  metrics::AddBuildInfo(prometheus.get(), "shiftadd-server");
  ServerMetrics server_metrics(prometheus.get());
  // A model that is lost ends the server, as nothing but a new process can use the device again.
  std::mutex lost_mutex;
  absl::Status lost;
  flags.load.on_lost = [&](const absl::Status& status) {
    {
      const std::lock_guard<std::mutex> lock(lost_mutex);
      lost.Update(Annotate(status, "the model is lost"));
    }
    kill(getpid(), SIGTERM);  // the same way out as when it is asked to end
  };
  ModelRegistry registry;
  for (const PackageLocation& location : flags.Locations()) {
    SA_ASSIGN_OR_RETURN(const ModelPtr model, LoadModel(location, flags.load, &server_metrics));
    server_metrics.SetPackage(model->served.name, model->served.digest,
                              kernels::IsaName(model->model->isa()));
    registry.Put(model);
  }
  const bool on_gpu = registry.All()[0]->model->device() != "cpu";
  DeviceMetrics device_metrics(prometheus.get(), DeviceMeter(on_gpu), on_gpu ? "gpu" : "cpu",
                               server_metrics.energy);
  const bool keys_checked = only_keys != nullptr || protection.access->required();
  access::RateLimit client_rates(flags.client_requests_per_second);
  access::RateLimit* const rates = flags.client_requests_per_second > 0 ? &client_rates : nullptr;
  openai::Api api(&registry, &server_metrics, keys_checked, rates);
  std::atomic<bool> draining{false};

  const std::unique_ptr<grpc::Service> service =
      NewGenerateService(&registry, only_keys, &server_metrics, keys_checked, rates);
  SA_ASSIGN_OR_RETURN(
      const std::unique_ptr<rpc::Server> rpc_server,
      rpc::Server::Start(rpc::Protected(flags.listen, protection), {service.get()}));
  http::HttpServerOptions http_options;
  http::Protect(flags.http, protection, &http_options);
  if (http_options.guard == nullptr) http_options.guard = KeyGuard(only_keys);
  http_options.cors_origins = flags.cors_origins;
  http_options.parting = [&draining] { return draining.load(); };
  SA_ASSIGN_OR_RETURN(
      const std::unique_ptr<http::HttpServer> http_server,
      http::HttpServer::Start(http_options, Routes(&api, &registry, prometheus, &server_metrics,
                                                   &device_metrics, &draining)));
  const ReplicaAddress address = {NewId("srv"),
                                  Advertised(flags.advertise, flags.http, http_server->port()),
                                  Advertised(flags.advertise, flags.listen, rpc_server->port())};
  SA_ASSIGN_OR_RETURN(const Followers followers,
                      Follow(flags, address, &registry, &server_metrics));
  SA_RETURN_IF_ERROR(
      WritePortFile(flags.daemon.port_file, {rpc_server->port(), http_server->port()}));
  spdlog::info("serving {}: HTTP on port {}, gRPC on port {}",
               absl::StrJoin(registry.References(), ", "), http_server->port(), rpc_server->port());

  WaitForShutdown();
  spdlog::info("shutting down: requests are taken for {} s, then those that run have {} s",
               flags.drain_delay_seconds, flags.drain_seconds);
  draining = true;
  for (const auto& follower : followers) follower->Retire();
  absl::SleepFor(absl::Seconds(flags.drain_delay_seconds));
  Drain(registry, absl::Seconds(flags.drain_seconds));
  rpc_server->Shutdown(absl::Seconds(1));
  http_server->Shutdown();
  const std::lock_guard<std::mutex> lock(lost_mutex);
  return lost;
}

absl::Status Bench(const ServerFlags& flags) {
  SA_ASSIGN_OR_RETURN(const std::string json,
                      BenchPackage(flags.Locations()[0], flags.load, flags.bench_options));
  std::cout << json << std::endl;
  return absl::OkStatus();
}

}  // namespace
}  // namespace shiftadd

int main(int argc, char** argv) {
  shiftadd::ServerFlags flags;
  if (const auto code = shiftadd::ParseServerFlags(argc, argv, &flags); code.has_value())
    return *code;
  // Measuring has nothing to finish: a signal ends it at once.
  if (!flags.bench) {
    shiftadd::BlockShutdownSignals();
    shiftadd::RaiseOpenFileLimit();
  }
  shiftadd::InitLogging("shiftadd-server", flags.daemon.log_level, flags.daemon.log_format);
  return shiftadd::ExitCode("shiftadd-server",
                            flags.bench ? shiftadd::Bench(flags) : shiftadd::Serve(flags));
}
