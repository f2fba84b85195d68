// Publisher over the packager's PackageService.
#ifndef SHIFTADD_SERVICES_COORDINATOR_GRPC_PUBLISHER_H_
#define SHIFTADD_SERVICES_COORDINATOR_GRPC_PUBLISHER_H_

#include <memory>
#include <string>

#include "services/coordinator/publisher.h"

namespace shiftadd::coordinator {

// `addresses`: of the packager, or of several with commas. Connects when it is first used; a
// packager that is not there is UNAVAILABLE.
std::unique_ptr<Publisher> MakeGrpcPublisher(const std::string& addresses);

}  // namespace shiftadd::coordinator

#endif  // SHIFTADD_SERVICES_COORDINATOR_GRPC_PUBLISHER_H_
