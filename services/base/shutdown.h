// Orderly end of a daemon on SIGINT or SIGTERM.
#ifndef SHIFTADD_SERVICES_BASE_SHUTDOWN_H_
#define SHIFTADD_SERVICES_BASE_SHUTDOWN_H_

#include "absl/time/time.h"

namespace shiftadd {

// Blocks SIGINT and SIGTERM in this thread and every thread it will start. Call in main before any
// other thread exists, and only if WaitForShutdown will be called: else nothing but SIGKILL ends
// the process. Also ignores SIGPIPE.
void BlockShutdownSignals();

// Waits until SIGINT or SIGTERM arrives, or `timeout` passes. True if a signal arrived (it stays
// recorded: later calls return true at once).
bool WaitForShutdown(absl::Duration timeout = absl::InfiniteDuration());

}  // namespace shiftadd

#endif  // SHIFTADD_SERVICES_BASE_SHUTDOWN_H_
