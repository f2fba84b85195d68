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
#include "services/rpc/rpc.h"
#include "shiftadd/v1/generate.grpc.pb.h"
#include "shiftadd/v1/job.grpc.pb.h"

namespace shiftadd::cli {

// Thread-safe. Connects on the first call.
template <typename Service>
class Client {
 public:
  using Stub = typename Service::Stub;

  // `what`: "coordinator", "packager", "server".
  Client(std::string what, std::string address)
      : what_(std::move(what)),
        address_(std::move(address)),
        stub_(Service::NewStub(rpc::MakeChannel(address_))) {}

  // One unary call, e.g. Call(&Stub::GetJob, request).
  template <typename Request, typename Response>
  absl::StatusOr<Response> Call(grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                                             Response*),
                                const Request& request,
                                absl::Duration timeout = absl::Seconds(30)) const {
    grpc::ClientContext context;
    rpc::SetDeadline(&context, timeout);
    Response response;
    const absl::Status status = Explain((stub_.get()->*method)(&context, request, &response));
    if (!status.ok()) return status;
    return response;
  }

  // A status of this daemon, with its name and address where it could not be reached.
  absl::Status Explain(const grpc::Status& status) const {
    absl::Status result = rpc::FromGrpc(status);
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

  Stub* stub() const { return stub_.get(); }
  const std::string& address() const { return address_; }

 private:
  std::string what_;
  std::string address_;
  std::unique_ptr<Stub> stub_;
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
