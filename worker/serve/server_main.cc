// shiftadd-server: serves a package.
#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/service_type.h>

#include <algorithm>
#include <fstream>
#include <iostream>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kernels/cpu_linear.h"
#include "services/base/logging.h"
#include "services/base/shutdown.h"
#include "services/base/status_macros.h"
#include "services/http/http_server.h"
#include "services/metrics/metrics.h"
#include "services/rpc/rpc.h"
#include "worker/serve/engine.h"
#include "worker/serve/generate_service.h"
#include "worker/serve/openai_api.h"
#include "worker/serve/package_config.h"
#include "worker/serve/package_source.h"
#include "worker/serve/server_flags.h"

namespace shiftadd {
namespace {

constexpr int64_t kDefaultContext = 8192;

// A model in memory with its tokenizer and its names.
struct Loaded {
  std::unique_ptr<PackedModel> model;
  std::unique_ptr<Tokenizer> tokenizer;
  ServedModel served;
};

absl::StatusOr<Loaded> Load(const ServerFlags& flags) {
  const absl::Time start = absl::Now();
  SA_ASSIGN_OR_RETURN(const ResolvedPackage package, ResolvePackage(flags.package));
  SA_ASSIGN_OR_RETURN(const PackageConfig config, ParsePackageConfig(package.config_json));
  Loaded out;
  SA_ASSIGN_OR_RETURN(out.model, PackedModel::Load(package.config_json, package.read, flags.model));
  SA_ASSIGN_OR_RETURN(const std::string tokenizer_json, package.read(config.tokenizer));
  SA_ASSIGN_OR_RETURN(out.tokenizer, Tokenizer::FromJson(tokenizer_json));
  ServedModel& served = out.served;
  served.name = package.name;
  served.digest = package.digest;
  served.created = package.created > 0 ? package.created : absl::ToUnixSeconds(start);
  served.context =
      flags.context > 0 ? flags.context : std::min(config.spec.context, kDefaultContext);
  served.model = out.model.get();
  served.tokenizer = out.tokenizer.get();
  served.info = ReadTokenizerInfo(tokenizer_json, *out.tokenizer, config.spec);
  served.longest_token = LongestToken(*out.tokenizer);
  if (served.context > config.spec.context) {
    spdlog::warn("--context {} is beyond the trained length of {} tokens", served.context,
                 config.spec.context);
  }
  spdlog::info("loaded {} ({}) in {:.2f} s: {:.1f} MB of weights, {} kernels, {} threads",
               served.name, served.digest, absl::ToDoubleSeconds(absl::Now() - start),
               static_cast<double>(out.model->weight_bytes()) / 1e6,
               kernels::IsaName(out.model->isa()), out.model->threads());
  return out;
}

absl::Status WritePortFile(const std::string& path, int grpc_port, int http_port) {
  if (path.empty()) return absl::OkStatus();
  // Written aside and renamed: a reader never sees half of it.
  const std::string temp = path + ".tmp";
  std::ofstream file(temp, std::ios::trunc);
  file << grpc_port << "\n" << http_port << "\n";
  file.close();
  if (!file || std::rename(temp.c_str(), path.c_str()) != 0) {
    return absl::FailedPreconditionError(absl::StrCat(path, ": cannot write the port file"));
  }
  return absl::OkStatus();
}

absl::Status Serve(const ServerFlags& flags) {
  SA_ASSIGN_OR_RETURN(const Loaded loaded, Load(flags));
  const auto registry = std::make_shared<prometheus::Registry>();
  metrics::AddBuildInfo(registry.get(), "shiftadd-server");
  ServerMetrics server_metrics(registry.get());
  server_metrics.SetPackage(loaded.served.name, loaded.served.digest,
                            kernels::IsaName(loaded.model->isa()));
  Engine engine(loaded.model.get(), loaded.tokenizer.get(),
                {loaded.served.context, flags.queue, flags.sequences}, &server_metrics);
  openai::Api api(&loaded.served, &engine, &server_metrics);
  http::HttpServer::Routes routes = api.Routes();
  const auto ready = [&engine] {
    return engine.draining() ? std::string("shutting down") : std::string();
  };
  for (auto& [path, methods] : metrics::DaemonRoutes(registry, ready, nullptr)) {
    routes[path] = std::move(methods);
  }

  const std::unique_ptr<grpc::Service> service =
      NewGenerateService(&loaded.served, &engine, &server_metrics);
  SA_ASSIGN_OR_RETURN(const std::unique_ptr<rpc::Server> rpc_server,
                      rpc::Server::Start({flags.listen, flags.insecure}, {service.get()}));
  http::HttpServerOptions http_options;
  http_options.address = flags.http;
  http_options.insecure_beyond_loopback = flags.insecure;
  SA_ASSIGN_OR_RETURN(const std::unique_ptr<http::HttpServer> http_server,
                      http::HttpServer::Start(http_options, std::move(routes)));
  SA_RETURN_IF_ERROR(WritePortFile(flags.port_file, rpc_server->port(), http_server->port()));
  spdlog::info("serving {}: HTTP on port {}, gRPC on port {}", loaded.served.name,
               http_server->port(), rpc_server->port());

  WaitForShutdown();
  spdlog::info("shutting down: running requests have {} s", flags.drain_seconds);
  engine.Drain(absl::Seconds(flags.drain_seconds));
  rpc_server->Shutdown(absl::Seconds(1));
  http_server->Shutdown();
  return absl::OkStatus();
}

}  // namespace
}  // namespace shiftadd

int main(int argc, char** argv) {
  shiftadd::BlockShutdownSignals();
  shiftadd::ServerFlags flags;
  if (const int code = shiftadd::ParseServerFlags(argc, argv, &flags); code >= 0) return code;
  shiftadd::InitLogging("shiftadd-server");
  if (const absl::Status status = shiftadd::Serve(flags); !status.ok()) {
    std::cerr << "shiftadd-server: " << status.message() << std::endl;
    return 1;
  }
  return 0;
}
