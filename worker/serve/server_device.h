// Which device a server computes on, and what it says about itself.
#ifndef SHIFTADD_WORKER_SERVE_SERVER_DEVICE_H_
#define SHIFTADD_WORKER_SERVE_SERVER_DEVICE_H_

#include <string>

#include "absl/status/status.h"

namespace shiftadd {

// Whether the GPU can serve. FAILED_PRECONDITION says what stands in the way and what to do.
absl::Status CudaServes();

// The JSON of --probe (worker/machine/probe.h). Call it while there is one thread.
std::string ServerProbe();

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_SERVE_SERVER_DEVICE_H_
