// Budgets: what layers cost, what fits, and which candidates are chosen.
#ifndef SHIFTADD_SERVICES_COORDINATOR_BUDGET_H_
#define SHIFTADD_SERVICES_COORDINATOR_BUDGET_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "shiftadd/v1/job.pb.h"
#include "shiftadd/v1/task.pb.h"

namespace shiftadd::coordinator {

// The widths that one layer may get, ascending; {0} if it is skipped.
std::vector<uint32_t> AllowedWidths(const v1::Recipe& recipe, const std::string& layer);

// Bytes of a package besides its layers, as INGESTING estimates them.
uint64_t EstimateFixedBytes(const v1::Plan& plan);

// Fills minimum_ and maximum_package_bytes, budget_feasible and budget_message from the shapes.
void FillFeasibility(const v1::JobSpec& spec, v1::Plan* plan);

// Profiled layers by name.
using ReportMap = std::map<std::string, v1::LayerReport>;

struct Allocation {
  // "mixed", and "uniform" if one fits and differs; "uniform" alone if the job wants no other.
  std::vector<v1::Variant> variants;
  uint32_t uniform_bits = 0;      // 0: no uniform width fits
  bool mixed_is_uniform = false;  // then there is one variant
  double importance = 0;          // sum over the first variant's layers
  double importance_uniform = 0;  // over the uniform one's; 0 without one
  std::string summary;            // one line for the log
};

// Bytes of a candidate's blob; only asked for budgets in bytes.
using BlobSizes = std::function<absl::StatusOr<uint64_t>(const std::string& digest)>;

// The choice of candidates that minimises the sum of the job's criterion within its budget (see
// criterion.h). ShiftAddLLM's criterion comes with the paper's own count for budgets in planes: a
// layer counts its width, whatever its size. `fixed_bytes`: of the package besides the layers.
// FAILED_PRECONDITION: infeasible, says what would fit, or the candidates lack the criterion's
// figure; INTERNAL: a candidate is missing.
absl::StatusOr<Allocation> Allocate(const v1::JobSpec& spec, const v1::Plan& plan,
                                    const ReportMap& reports, uint64_t fixed_bytes,
                                    const BlobSizes& sizes);

// Averages over the quantized weights of one variant.
struct Averages {
  double planes = 0;
  double stored_bits = 0;
};
Averages AveragesOf(const v1::Variant& variant, const ReportMap& reports);

}  // namespace shiftadd::coordinator

#endif  // SHIFTADD_SERVICES_COORDINATOR_BUDGET_H_
