// The documents that go with a package: services/packaging/package_format.h says what they hold.
#ifndef SHIFTADD_SERVICES_COORDINATOR_PACKAGE_CONFIG_H_
#define SHIFTADD_SERVICES_COORDINATOR_PACKAGE_CONFIG_H_

#include <string>

#include "absl/status/statusor.h"
#include "services/coordinator/job_view.h"

namespace shiftadd::coordinator {

// The config blob of `variant`: canonical JSON, a function of the job's inputs alone. Without
// `quality` (null) it is what an executor needs before anything was measured.
absl::StatusOr<std::string> ComposeConfig(const JobView& view, const v1::Variant& variant,
                                          const v1::Quality* quality);

// Job, times, workers: everything that the config must not say.
std::string ComposeProvenance(const JobView& view);

}  // namespace shiftadd::coordinator

#endif  // SHIFTADD_SERVICES_COORDINATOR_PACKAGE_CONFIG_H_
