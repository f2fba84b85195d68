// What the solver minimises the sum of: one number for every candidate of every layer.
//
// The guided error of a candidate is the loss it is predicted to cost, so it is comparable across
// layers as it stands (algorithm: second-order expansion with an empirical Fisher block a layer).
// The relative errors are not, and are multiplied by the layer's size. The paper's criterion is
// ShiftAddLLM's (arXiv 2406.05981, section 4.3): C of a candidate, scaled at every width b by the
// least-squares fit beta_b of the layers' output errors on C.
#ifndef SHIFTADD_SERVICES_COORDINATOR_CRITERION_H_
#define SHIFTADD_SERVICES_COORDINATOR_CRITERION_H_

#include "absl/status/status.h"
#include "services/coordinator/budget.h"
#include "shiftadd/v1/job.pb.h"

namespace shiftadd::coordinator {

// Which criterion is the default (ResolveCriterion): guided wherever the Hessians are, because of
// those that every candidate carries it gives the lowest KL (SmolLM2 at 2.25, 2.5 and 3 planes:
// output is 29, 38 and 5 % above it; the paper's 6 and 7 % at 2.48 and 2.76 stored bits; weight
// has the lower Kendall's tau). measured is 4.5, 3.5 and 6.7 % below guided there (Qwen2.5-0.5B: 6
// to 8 % at 2.3 and 2.5 stored bits, nothing beyond), for a pass over every candidate: tens of
// minutes on two cores. tests/results/curve_smollm2.md, tau_smollm2.md.

// Sets `importance` of every candidate; a skipped layer's is 0. UNSPECIFIED (jobs of an older
// coordinator) leaves them as the worker gave them. A layer whose gradients could not be used has
// no guided error: its output error stands in, scaled as in the layers that have both, or as it is
// for CRITERION_OUTPUT if none has.
// FAILED_PRECONDITION names what the candidates lack.
absl::Status FillImportance(v1::Criterion criterion, ReportMap* reports);

}  // namespace shiftadd::coordinator

#endif  // SHIFTADD_SERVICES_COORDINATOR_CRITERION_H_
