// At most so many calls of one name run at the same time, whatever connections they come on.
#ifndef SHIFTADD_SERVICES_RPC_CALL_LIMIT_H_
#define SHIFTADD_SERVICES_RPC_CALL_LIMIT_H_

#include <grpcpp/support/server_interceptor.h>

#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "services/access/access.h"

namespace shiftadd::rpc {

// A call is admitted when its metadata have come, counts as such until its handler begins, and then
// until that ends: a thousand calls that come together cannot all pass before the first has begun.
// Not every one that is admitted begins: gRPC tells nobody of a call whose client has gone before
// its handler was looked for. So it is forgotten after a while, long enough for what begins at all;
// who cancels many calls is refused for no longer than that.
// Thread-safe. Callers are those that were identified.
class CallLimit {
 public:
  static constexpr absl::Duration kForgotten = absl::Seconds(1);

  // 0: no limit.
  explicit CallLimit(int calls) : calls_(calls) {}
  // RESOURCE_EXHAUSTED: as many run already.
  absl::Status Admit(const std::string& caller, absl::Time now);
  // Of a call that was admitted. Each Begin has its End.
  void Begin(const std::string& caller);
  void End(const std::string& caller);

 private:
  struct Calls {
    int running = 0;
    std::deque<absl::Time> admitted;  // and not begun
  };
  const int calls_;
  std::mutex mutex_;
  std::map<std::string, Calls> of_;  // under mutex_
};

// Whether calls of this method count: of those that everybody may call, nobody is asked who he is.
bool IsCounted(absl::string_view method);

// Begins and ends each call of a server whose credentials admit by the same limit.
std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeCallCounting(
    std::shared_ptr<CallLimit> limit, std::shared_ptr<access::Access> access);

}  // namespace shiftadd::rpc

#endif  // SHIFTADD_SERVICES_RPC_CALL_LIMIT_H_
