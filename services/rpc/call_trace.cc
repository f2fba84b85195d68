#include "services/rpc/call_trace.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>

#include "absl/random/random.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "services/base/call_notes.h"
#include "services/base/ids.h"

namespace shiftadd::rpc {
namespace {

using grpc::experimental::InterceptionHookPoints;
using grpc::experimental::InterceptorBatchMethods;

constexpr size_t kMaxRequestId = 128;

thread_local const CallTrace* current = nullptr;

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

bool IsHex(absl::string_view text, size_t size) {
  return text.size() == size && std::all_of(text.begin(), text.end(), [](unsigned char c) {
           return absl::ascii_isdigit(c) || (c >= 'a' && c <= 'f');
         });
}

std::string RandomHex(int words) {
  thread_local absl::BitGen random;
  std::string text;
  for (int i = 0; i < words; ++i) {
    absl::StrAppendFormat(&text, "%016x", absl::Uniform<uint64_t>(random) | 1);  // never all zero
  }
  return text;
}

// Logs quote it: whoever sends it must not be able to forge lines or to flood them.
bool IsRequestId(absl::string_view id) {
  return !id.empty() && id.size() <= kMaxRequestId &&
         std::all_of(id.begin(), id.end(), [](unsigned char c) { return absl::ascii_isgraph(c); });
}

LogFields FieldsOf(const CallTrace& trace) {
  return {{"trace_id", trace.trace_id}, {"request_id", trace.request_id}};
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

std::string TraceIdOf(absl::string_view traceparent) {
  const std::vector<absl::string_view> parts = absl::StrSplit(traceparent, '-');
  if (parts.size() < 4 || !IsHex(parts[0], 2) || parts[0] == "ff" || !IsHex(parts[1], 32) ||
      !IsHex(parts[2], 16) || !IsHex(parts[3], 2) ||
      parts[1].find_first_not_of('0') == absl::string_view::npos) {
    return "";
  }
  return std::string(parts[1]);
}

CallTrace NewCallTrace() {
  CallTrace trace;
  if (const char* parent = std::getenv("TRACEPARENT")) trace.trace_id = TraceIdOf(parent);
  if (trace.trace_id.empty()) trace.trace_id = RandomHex(2);
  trace.request_id = NewId("request");
  return trace;
}

std::string TraceParent(const CallTrace& trace) {
  return absl::StrCat("00-", trace.trace_id, "-", RandomHex(1), "-01");
}

TraceScope::TraceScope(CallTrace trace)
    : trace_(std::move(trace)), outer_(current), fields_(FieldsOf(trace_)) {
  current = &trace_;
}
TraceScope::~TraceScope() { current = outer_; }
const CallTrace* TraceScope::Current() { return current; }

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeServerTracing() {
  return std::make_unique<ServerFactory>();
}
std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface> MakeClientTracing() {
  return std::make_unique<ClientFactory>();
}

}  // namespace shiftadd::rpc
