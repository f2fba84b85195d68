// A JobStore that tells how long each of its methods took.
#ifndef SHIFTADD_SERVICES_STORE_TIMED_JOB_STORE_H_
#define SHIFTADD_SERVICES_STORE_TIMED_JOB_STORE_H_

#include <functional>
#include <memory>
#include <string>

#include "services/store/job_store.h"

namespace shiftadd {

// Called after each method but the waits, from whatever thread called it: the method's name, the
// code it answered, and its seconds.
using StoreTimer = std::function<void(const char* method, absl::StatusCode code, double seconds)>;

std::unique_ptr<JobStore> NewTimedJobStore(std::unique_ptr<JobStore> store, StoreTimer timer);

}  // namespace shiftadd

#endif  // SHIFTADD_SERVICES_STORE_TIMED_JOB_STORE_H_
