#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/resource_quota.h>

#include <chrono>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "services/http/listen_address.h"
#include "services/rpc/call_limit.h"
#include "services/rpc/call_trace.h"
#include "services/rpc/grpc_log.h"
#include "services/rpc/limits.h"
#include "services/rpc/rpc.h"
#include "services/rpc/security.h"

namespace shiftadd::rpc {
namespace {

class ServerImpl : public Server {
 public:
  ServerImpl(std::unique_ptr<grpc::Server> server, int port)
      : server_(std::move(server)), port_(port) {}
  ~ServerImpl() override { Shutdown(absl::ZeroDuration()); }

  int port() const override { return port_; }

  void Shutdown(absl::Duration grace) override {
    std::call_once(once_, [&] {
      if (auto* health = server_->GetHealthCheckService()) health->Shutdown();
      server_->Shutdown(std::chrono::system_clock::now() + absl::ToChronoMilliseconds(grace));
      server_->Wait();
    });
  }

 private:
  std::unique_ptr<grpc::Server> server_;
  const int port_;
  std::once_flag once_;
};

void EnablePlugins() {
  static std::once_flag once;
  std::call_once(once, [] {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  });
}

int Millis(absl::Duration d) { return static_cast<int>(absl::ToInt64Milliseconds(d)); }

void AddArguments(const ConnectionLimits& limits, grpc::ServerBuilder* builder) {
  builder->SetMaxReceiveMessageSize(kMaxMessageBytes);
  builder->SetMaxSendMessageSize(kMaxMessageBytes);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, limits.streams);
  builder->AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, kMaxMetadataBytes);
  builder->AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, Millis(limits.handshake));
  grpc::ResourceQuota quota("server");
  quota.SetMaxThreads(kMaxThreads);
  builder->SetResourceQuota(quota);
  // By default two servers can share a port, each with half of the calls: here that is a mistake.
  builder->AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, Millis(limits.ping_after));
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, Millis(limits.ping_answer));
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                              kKeepAliveMillis / 2);
}

bool IsProtected(const ServerOptions& options) {
  return !options.tls.cert.empty() && options.access != nullptr && options.access->required();
}

}  // namespace

ServerOptions Protected(const std::string& address, const access::Protection& protection) {
  ServerOptions options{address, protection.insecure, protection.tls, protection.access};
  options.limits.calls_of_name = protection.calls_at_once;
  return options;
}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServerOptions& options,
                                                      const std::vector<grpc::Service*>& services) {
  // gRPC itself only logs why a port cannot be had.
  SA_RETURN_IF_ERROR(
      CheckListenAddress(options.address, options.insecure_beyond_loopback || IsProtected(options))
          .status());
  LogGrpcThroughOurs();
  EnablePlugins();
  grpc::ServerBuilder builder;
  AddArguments(options.limits, &builder);
  int port = 0;
  const auto limit = std::make_shared<CallLimit>(options.limits.calls_of_name);
  builder.AddListeningPort(options.address,
                           MakeServerCredentials(options.tls, options.access, limit), &port);
  for (grpc::Service* service : services) builder.RegisterService(service);
  std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> interceptors;
  interceptors.push_back(MakeServerTracing());
  if (options.access != nullptr && options.access->required()) {
    interceptors.push_back(MakeCallCounting(limit, options.access));
  }
  builder.experimental().SetInterceptorCreators(std::move(interceptors));
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr || port <= 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("address ", options.address, " is in use or cannot be bound"));
  }
  return std::unique_ptr<Server>(new ServerImpl(std::move(server), port));
}

}  // namespace shiftadd::rpc
