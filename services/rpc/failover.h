// Stubs of one service at several addresses.
#ifndef SHIFTADD_SERVICES_RPC_FAILOVER_H_
#define SHIFTADD_SERVICES_RPC_FAILOVER_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "services/rpc/addresses.h"
#include "services/rpc/rpc.h"
#include "services/rpc/security.h"

namespace shiftadd::rpc {

// Thread-safe. Connects on the first call.
template <typename Service>
class Failover {
 public:
  using Stub = typename Service::Stub;
  // One daemon: call its stub, then Note what came of it.
  struct Target {
    size_t index;
    Stub* stub;
    const std::string& address;
  };

  // `addresses`: host:port, or several with commas; one that is empty stands for no daemon, and
  // every call fails.
  explicit Failover(absl::string_view addresses)
      : addresses_(Split(addresses)), rotation_(addresses_.size()) {
    for (const std::string& address : addresses_) {
      stubs_.push_back(Service::NewStub(MakeChannel(address)));
    }
  }

  Target target() const {
    const size_t index = rotation_.current();
    return {index, stubs_[index].get(), addresses_[index]};
  }
  // As Rotation::Note.
  bool Note(const Target& target, const absl::Status& status) const {
    return rotation_.Note(target.index, status);
  }

  // One unary call, e.g. Call(&Stub::GetJob, request, &response, timeout). A daemon that is away is
  // UNAVAILABLE; then the others are asked, each once, while there is time. So a call may be made
  // twice: it has to be one that can be.
  template <typename Request, typename Response>
  absl::Status Call(grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                    const Request& request, Response* response, absl::Duration timeout) const {
    const absl::Time end = absl::Now() + timeout;
    absl::Status status;
    std::string called;
    for (size_t i = 0; i < addresses_.size(); ++i) {
      const Target to = target();
      called = to.address;
      grpc::ClientContext context;
      SetDeadline(&context, end - absl::Now());
      response->Clear();
      status = FromGrpc((to.stub->*method)(&context, request, response));
      Note(to, status);
      if (!absl::IsUnavailable(status) || absl::Now() >= end) break;
    }
    return ExplainTls(called, status);
  }

  size_t size() const { return addresses_.size(); }
  // As a message names them.
  std::string names() const {
    std::string all = addresses_[0];
    for (size_t i = 1; i < addresses_.size(); ++i) all += ", " + addresses_[i];
    return all;
  }

 private:
  static std::vector<std::string> Split(absl::string_view list) {
    std::vector<std::string> addresses = SplitAddresses(list);
    if (addresses.empty()) addresses.emplace_back();
    return addresses;
  }

  const std::vector<std::string> addresses_;
  std::vector<std::unique_ptr<Stub>> stubs_;
  mutable Rotation rotation_;
};

}  // namespace shiftadd::rpc

#endif  // SHIFTADD_SERVICES_RPC_FAILOVER_H_
