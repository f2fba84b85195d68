// PackageService over a Packager: translates, calls, translates back.
#ifndef SHIFTADD_SERVICES_PACKAGING_PACKAGE_SERVICE_H_
#define SHIFTADD_SERVICES_PACKAGING_PACKAGE_SERVICE_H_

#include <grpcpp/impl/service_type.h>

#include <memory>

#include "services/packaging/packager.h"
#include "services/rpc/rpc.h"

namespace shiftadd::packaging {

// `packager` and `access` must outlive it; `access` (who calls, for the log) may be null.
// Thread-safe.
std::unique_ptr<grpc::Service> MakePackageService(Packager* packager,
                                                  access::Access* access = nullptr);

}  // namespace shiftadd::packaging

#endif  // SHIFTADD_SERVICES_PACKAGING_PACKAGE_SERVICE_H_
