// From window scores to the figures of a package's evaluation; no I/O.
#ifndef SHIFTADD_SERVICES_COORDINATOR_EVALUATION_FIGURES_H_
#define SHIFTADD_SERVICES_COORDINATOR_EVALUATION_FIGURES_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "shiftadd/v1/task.pb.h"

namespace shiftadd::coordinator {

// Fills the figures over all windows, each with scores of one variant and of its single tokens;
// what was measured and on what is left to the caller. A function of the windows and their order
// alone: where windows are drawn again, the draws are the same every time. INTERNAL: no window,
// windows without scores, numbers that are not finite.
absl::StatusOr<v1::PackageEvaluation> EvaluationFigures(
    const std::vector<v1::WindowScore>& windows);

// The document that is stored with the package: the message's fields under their names, canonical.
// No time and no job: the same evaluation again is the same document.
std::string EvaluationJson(const v1::PackageEvaluation& evaluation);

}  // namespace shiftadd::coordinator

#endif  // SHIFTADD_SERVICES_COORDINATOR_EVALUATION_FIGURES_H_
