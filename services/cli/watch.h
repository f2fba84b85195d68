// Follows a job to its end.
#ifndef SHIFTADD_SERVICES_CLI_WATCH_H_
#define SHIFTADD_SERVICES_CLI_WATCH_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "services/cli/clients.h"
#include "services/cli/context.h"

namespace shiftadd::cli {

struct WatchOptions {
  absl::Duration patience = absl::Minutes(2);            // without an answer, before giving up
  absl::Duration first_pause = absl::Milliseconds(250);  // between attempts; doubles up to 5 s
  absl::Duration quiet = absl::Seconds(3);  // without an event, before workers are looked at
};

// Shows events until the job has ended, or Ctrl-C. A coordinator that goes away is tried again from
// the last sequence number seen. Returns the exit code: 0 succeeded or detached, 1 failed or
// cancelled, 3 unreachable.
int WatchJob(Context& context, const JobClient& client, const std::string& job_id,
             const WatchOptions& options = {});

// The same without showing anything (dry runs): the job as it ended. CANCELLED after Ctrl-C.
absl::StatusOr<v1::Job> AwaitJob(const JobClient& client, const std::string& job_id,
                                 const WatchOptions& options = {});

}  // namespace shiftadd::cli

#endif  // SHIFTADD_SERVICES_CLI_WATCH_H_
