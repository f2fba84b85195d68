#include "services/rpc/call_limit.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "services/rpc/security.h"

namespace shiftadd::rpc {
namespace {

using grpc::experimental::InterceptionHookPoints;

class CallCounting : public grpc::experimental::Interceptor {
 public:
  CallCounting(grpc::ServerContextBase* context, CallLimit* limit, access::Access* access)
      : context_(context), limit_(limit), access_(access) {}
  // Of a call that ends without a status, as when its client has gone.
  ~CallCounting() override { End(); }

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_INITIAL_METADATA)) {
      const absl::StatusOr<access::Caller> caller = CallerOf(*context_, access_);
      // It was let in a moment ago: else its token has been withdrawn since.
      if (caller.ok()) limit_->Begin(caller_ = caller->name);
    }
    // Before the client can know of the end: his next call finds room.
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_STATUS)) End();
    methods->Proceed();
  }

 private:
  void End() {
    if (!caller_.empty()) limit_->End(std::exchange(caller_, ""));
  }

  grpc::ServerContextBase* const context_;
  CallLimit* const limit_;
  access::Access* const access_;
  std::string caller_;  // while its call is counted
};

class CountingFactory : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  CountingFactory(std::shared_ptr<CallLimit> limit, std::shared_ptr<access::Access> access)
      : limit_(std::move(limit)), access_(std::move(access)) {}
  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* info) override {
    if (!IsCounted(info->method())) return nullptr;
    return new CallCounting(info->server_context(), limit_.get(), access_.get());
  }

 private:
  const std::shared_ptr<CallLimit> limit_;
  const std::shared_ptr<access::Access> access_;
};

}  // namespace

absl::Status CallLimit::Admit(const std::string& caller, absl::Time now) {
  if (calls_ <= 0) return absl::OkStatus();
  const std::lock_guard<std::mutex> hold(mutex_);
  Calls& own = of_[caller];
  while (!own.admitted.empty() && own.admitted.front() + kForgotten <= now) {
    own.admitted.pop_front();
  }
  if (own.running + static_cast<int>(own.admitted.size()) >= calls_) {
    return absl::ResourceExhaustedError(
        absl::StrCat(caller, " has ", calls_,
                     " calls running, as many as one name may (--calls-at-once): try again when "
                     "one has ended"));
  }
  own.admitted.push_back(now);
  return absl::OkStatus();
}

void CallLimit::Begin(const std::string& caller) {
  const std::lock_guard<std::mutex> hold(mutex_);
  Calls& own = of_[caller];
  ++own.running;
  if (!own.admitted.empty()) own.admitted.pop_front();
}

void CallLimit::End(const std::string& caller) {
  const std::lock_guard<std::mutex> hold(mutex_);
  --of_[caller].running;
}

bool IsCounted(absl::string_view method) {
  const access::MethodRule* rule = access::FindRule(method);
  return rule != nullptr && !rule->everybody;
}

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeCallCounting(
    std::shared_ptr<CallLimit> limit, std::shared_ptr<access::Access> access) {
  return std::make_unique<CountingFactory>(std::move(limit), std::move(access));
}

}  // namespace shiftadd::rpc
