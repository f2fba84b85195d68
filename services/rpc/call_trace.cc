#include "services/rpc/call_trace.h"

#include <algorithm>
#include <map>
#include <memory>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "services/base/call_notes.h"

namespace shiftadd::rpc {
namespace {

using grpc::experimental::InterceptionHookPoints;
using grpc::experimental::InterceptorBatchMethods;

constexpr size_t kMaxRequestId = 128;

// What a server's thread stands in while a handler runs on it.
struct ServedCall {
  ServedCall(CallTrace trace, const char* method)
      : scope(std::move(trace)), fields(LogFields{{"method", method}}) {}
  const CallNotes notes;
  const TraceScope scope;
  const LogScope fields;
};
std::unique_ptr<ServedCall>& ServedByThread() {
  thread_local std::unique_ptr<ServedCall> call;
  return call;
}

// Logs quote it: whoever sends it must not be able to forge lines or to flood them.
bool IsRequestId(absl::string_view id) {
  return !id.empty() && id.size() <= kMaxRequestId &&
         std::all_of(id.begin(), id.end(), [](unsigned char c) { return absl::ascii_isgraph(c); });
}

class ServerTracing : public grpc::experimental::Interceptor {
 public:
  explicit ServerTracing(const char* method) : method_(method) {}

  // A synchronous handler runs between these two points, on the same thread.
  void Intercept(InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_INITIAL_METADATA)) {
      Begin(*methods->GetRecvInitialMetadata());
    }
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_STATUS)) {
      const grpc::Status status = methods->GetSendStatus();
      spdlog::debug("{}: {} {}", method_, static_cast<int>(status.error_code()),
                    status.error_message());
      if (const CallTrace* trace = TraceScope::Current(); trace != nullptr) {
        methods->GetSendTrailingMetadata()->insert({kRequestIdKey, trace->request_id});
      }
      ServedByThread().reset();
    }
    methods->Proceed();
  }

 private:
  void Begin(const std::multimap<grpc::string_ref, grpc::string_ref>& metadata) {
    const auto value = [&](const char* key) -> absl::string_view {
      const auto found = metadata.find(key);
      if (found == metadata.end()) return "";
      return {found->second.data(), found->second.size()};
    };
    CallTrace trace = NewCallTrace();
    if (const std::string id = TraceIdOf(value(kTraceParentKey)); !id.empty()) trace.trace_id = id;
    if (IsRequestId(value(kRequestIdKey))) trace.request_id = std::string(value(kRequestIdKey));
    // A call that ended without a status, if there is such a thing, must not stay in force; and the
    // fields that it ends with must outlive it at the thread's end.
    {
      const LogScope fields_first(LogFields{});
      const CallNotes notes_first;
    }
    ServedByThread().reset();
    ServedByThread() = std::make_unique<ServedCall>(std::move(trace), method_);
  }

  const char* const method_;
};

class ClientTracing : public grpc::experimental::Interceptor {
 public:
  void Intercept(InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_INITIAL_METADATA)) {
      const CallTrace* trace = TraceScope::Current();
      const CallTrace fresh = trace != nullptr ? *trace : NewCallTrace();
      auto* metadata = methods->GetSendInitialMetadata();
      metadata->insert({kTraceParentKey, TraceParent(fresh)});
      metadata->insert({kRequestIdKey, fresh.request_id});
    }
    methods->Proceed();
  }
};

class ServerFactory : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* info) override {
    // Handlers of gRPC's own services (health, reflection) may change their thread.
    if (!absl::StartsWith(info->method(), "/shiftadd.")) return nullptr;
    return new ServerTracing(info->method());
  }
};

class ClientFactory : public grpc::experimental::ClientInterceptorFactoryInterface {
 public:
  grpc::experimental::Interceptor* CreateClientInterceptor(
      grpc::experimental::ClientRpcInfo*) override {
    return new ClientTracing();
  }
};

}  // namespace

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeServerTracing() {
  return std::make_unique<ServerFactory>();
}
std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface> MakeClientTracing() {
  return std::make_unique<ClientFactory>();
}

}  // namespace shiftadd::rpc
