// One file with what somebody who helps from afar asks for first.
#ifndef SHIFTADD_SERVICES_CLI_DOCTOR_BUNDLE_H_
#define SHIFTADD_SERVICES_CLI_DOCTOR_BUNDLE_H_

#include <string>

#include "absl/status/status.h"
#include "services/cli/context.h"

namespace shiftadd::cli {

// Writes `file`, a gzipped tar: doctor.json (given), version.txt, cluster.json (daemons, pids,
// addresses, restarts, readiness), workers.json and jobs.json (the newest 100) as the coordinator
// tells them, variables.txt (names of the SHIFTADD_* variables that are set, never their values),
// and the end of every log of the local cluster. What cannot be had is said in missing.txt; the
// bundle is made all the same. No weights, texts, keys or tokens. ALREADY_EXISTS if the file does.
absl::Status WriteBundle(const Context& context, const std::string& doctor_json,
                         const std::string& file);

}  // namespace shiftadd::cli

#endif  // SHIFTADD_SERVICES_CLI_DOCTOR_BUNDLE_H_
