#include "services/cli/clients.h"

#include "services/base/status_macros.h"
#include "services/cli/endpoints.h"

namespace shiftadd::cli {

absl::StatusOr<JobClient> ConnectJobs(const Context& context) {
  SA_ASSIGN_OR_RETURN(std::string address, CoordinatorAddress(context));
  return JobClient("coordinator", std::move(address));
}

absl::StatusOr<std::unique_ptr<PackageClient>> ConnectPackages(const Context& context,
                                                               absl::Duration timeout) {
  SA_ASSIGN_OR_RETURN(const std::string address, PackagerAddress(context));
  PackageClientOptions options;
  options.timeout = timeout;
  return PackageClient::Connect(address, options);
}

}  // namespace shiftadd::cli
