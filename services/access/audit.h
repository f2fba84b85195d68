// Who did what: one log line for everything that changes something others see.
#ifndef SHIFTADD_SERVICES_ACCESS_AUDIT_H_
#define SHIFTADD_SERVICES_ACCESS_AUDIT_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace shiftadd::access {

// "audit: by=ann action=CancelJob object=job-1 outcome=OK", at level info. `object`: a
// job, a reference, a worker; what is no graphic character is replaced, and 200 are kept.
void Audit(absl::string_view caller, absl::string_view action, absl::string_view object,
           const absl::Status& outcome);

}  // namespace shiftadd::access

#endif  // SHIFTADD_SERVICES_ACCESS_AUDIT_H_
