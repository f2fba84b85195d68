// Publisher over the packager's PackageService.
#ifndef SHIFTADD_SERVICES_COORDINATOR_GRPC_PUBLISHER_H_
#define SHIFTADD_SERVICES_COORDINATOR_GRPC_PUBLISHER_H_

#include <grpcpp/grpcpp.h>

#include <memory>

#include "services/coordinator/publisher.h"

namespace shiftadd::coordinator {

// Connects when it is first used; a packager that is not there is UNAVAILABLE.
std::unique_ptr<Publisher> MakeGrpcPublisher(std::shared_ptr<grpc::Channel> channel);

}  // namespace shiftadd::coordinator

#endif  // SHIFTADD_SERVICES_COORDINATOR_GRPC_PUBLISHER_H_
