#include "services/cli/clients.h"

#include "services/base/status_macros.h"
#include "services/cli/endpoints.h"

namespace shiftadd::cli {

absl::StatusOr<JobClient> ConnectJobs(const Context& context) {
  SA_ASSIGN_OR_RETURN(std::string address, CoordinatorAddress(context));
  return JobClient("coordinator", std::move(address));
}

absl::StatusOr<PackageClient> ConnectPackages(const Context& context) {
  SA_ASSIGN_OR_RETURN(std::string address, PackagerAddress(context));
  return PackageClient("packager", std::move(address));
}

}  // namespace shiftadd::cli
