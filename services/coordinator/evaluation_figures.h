// From window scores to the figures of a package's evaluation; no I/O.
#ifndef SHIFTADD_SERVICES_COORDINATOR_EVALUATION_FIGURES_H_
#define SHIFTADD_SERVICES_COORDINATOR_EVALUATION_FIGURES_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "shiftadd/v1/task.pb.h"

namespace shiftadd::coordinator {

// A window's sum over its tokens.
using WindowSum = std::function<double(const v1::WindowScore&)>;

// The mean over all tokens, with its standard error over windows if there are two or more; every
// window has tokens.
v1::Estimate MeanOver(const std::vector<v1::WindowScore>& windows, const WindowSum& sum);

// exp of that mean, of sums of cross entropies; its error by the derivative.
v1::Estimate PerplexityOver(const std::vector<v1::WindowScore>& windows, const WindowSum& nll);

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
