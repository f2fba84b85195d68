// PACKAGING: from a job to what the packager is asked to publish.
#ifndef SHIFTADD_SERVICES_COORDINATOR_PUBLISH_H_
#define SHIFTADD_SERVICES_COORDINATOR_PUBLISH_H_

#include "absl/status/statusor.h"
#include "services/coordinator/job_view.h"
#include "services/coordinator/publisher.h"

namespace shiftadd::coordinator {

// A job in PACKAGING. Layers in model order, then head, unquantized, documents; sizes are the
// packager's.
absl::StatusOr<v1::PublishPackageRequest> ComposePublish(const JobView& view, Publisher* publisher);

// Config and layers.
uint64_t PackageBytes(const v1::PublishPackageRequest& request);

}  // namespace shiftadd::coordinator

#endif  // SHIFTADD_SERVICES_COORDINATOR_PUBLISH_H_
