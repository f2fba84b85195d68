// Calls to the daemons, with deadlines and messages that say who did not answer.
#ifndef SHIFTADD_SERVICES_CLI_CLIENTS_H_
#define SHIFTADD_SERVICES_CLI_CLIENTS_H_

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "services/cli/context.h"
#include "services/packaging/package_client.h"
#include "services/rpc/failover.h"
#include "services/rpc/rpc.h"
#include "shiftadd/v1/generate.grpc.pb.h"
#include "shiftadd/v1/job.grpc.pb.h"

namespace shiftadd::cli {

// Thread-safe. Connects on the first call.
template <typename Service>
class Client {
 public:
  using Stub = typename Service::Stub;

  using Target = typename rpc::Failover<Service>::Target;

  // `what`: "coordinator", "packager", "server". `addresses`: one, or several with commas.
  Client(std::string what, absl::string_view addresses)
      : what_(std::move(what)),
        daemons_(std::make_unique<rpc::Failover<Service>>(addresses)),
        address_(daemons_->names()) {}

  // One unary call, e.g. Call(&Stub::GetJob, request); of the daemons one that is there answers.
  template <typename Request, typename Response>
  absl::StatusOr<Response> Call(grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                                             Response*),
                                const Request& request,
                                absl::Duration timeout = absl::Seconds(30)) const {
    Response response;
    const absl::Status status = Explain(daemons_->Call(method, request, &response, timeout));
    if (!status.ok()) return status;
    return response;
  }

  // A status of this daemon, with its name and address where it could not be reached.
  absl::Status Explain(absl::Status result) const {
    // Whom the daemon itself could not reach it names first; it is there.
    if (absl::IsUnavailable(result) && absl::StartsWith(result.message(), "packager: ")) {
      return absl::UnavailableError(
          absl::StrCat("the ", what_, " at ", address_, " cannot reach its ", result.message()));
    }
    if (absl::IsUnavailable(result) || absl::IsDeadlineExceeded(result)) {
      return absl::Status(result.code(), absl::StrCat("the ", what_, " at ", address_,
                                                      " cannot be reached: ", result.message()));
    }
    if (absl::IsUnimplemented(result) && result.message().empty()) {
      return absl::UnimplementedError(
          absl::StrCat("the ", what_, " at ", address_,
                       " does not know this call: is it older than this program?"));
    }
    return result;
  }

  // For streams: the daemon to call; then Note how that ended.
  Target target() const { return daemons_->target(); }
  // True: another daemon is worth trying at once.
  bool Note(const Target& target, const absl::Status& status) const {
    return daemons_->Note(target, status);
  }
  const std::string& address() const { return address_; }

 private:
  std::string what_;
  std::unique_ptr<rpc::Failover<Service>> daemons_;
  std::string address_;
};

using JobClient = Client<v1::JobService>;
using GenerateClient = Client<v1::GenerateService>;

// UNAVAILABLE if no address is known.
absl::StatusOr<JobClient> ConnectJobs(const Context& context);
// `timeout`: of one call.
absl::StatusOr<std::unique_ptr<PackageClient>> ConnectPackages(
    const Context& context, absl::Duration timeout = absl::Seconds(30));

}  // namespace shiftadd::cli

#endif  // SHIFTADD_SERVICES_CLI_CLIENTS_H_
