// Zero-shot figures of lm-eval's results file as an evaluation of a package.
#ifndef SHIFTADD_SERVICES_CLI_TASK_RESULTS_H_
#define SHIFTADD_SERVICES_CLI_TASK_RESULTS_H_

#include <string>

#include "absl/status/statusor.h"
#include "shiftadd/v1/job.pb.h"

namespace shiftadd::cli {

// Reads the text of such a file: every figure of every task, with its standard error, rows and
// shots; what else is in it is left alone. `reference`: name:tag that the figures are to be of; it
// must be the model that the file names, if it names one (a name@digest is not compared).
// INVALID_ARGUMENT, naming `file` and the fault: no JSON, which NaN and Infinity are not, no
// figures, a standard error below 0, another model.
absl::StatusOr<v1::PackageEvaluation> ParseTaskResults(const std::string& text,
                                                       const std::string& file,
                                                       const std::string& reference);

// The document that is stored with the package: the same results again are the same document.
std::string TaskResultsJson(const v1::PackageEvaluation& evaluation);

}  // namespace shiftadd::cli

#endif  // SHIFTADD_SERVICES_CLI_TASK_RESULTS_H_
