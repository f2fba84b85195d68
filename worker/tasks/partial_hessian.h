// One part's share of a layer's Hessians, as REFINING leaves it in scratch.
#ifndef SHIFTADD_WORKER_TASKS_PARTIAL_HESSIAN_H_
#define SHIFTADD_WORKER_TASKS_PARTIAL_HESSIAN_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/quantize/hessian_accumulator.h"

namespace shiftadd {

struct PartialHessianSums {
  QuantHessian kind = QuantHessian::kPlain;  // as the sums were made, not as the recipe asks
  std::vector<HessianSum> chunks;            // kGuided: one for each chunk of rows; otherwise one
};

// A safetensors blob: "sum" F64 [chunks, k (k + 1) / 2], the upper triangles row by row; "kind",
// "k" and "tokens" are metadata. Exact: what is read is what was written.
absl::StatusOr<std::string> WritePartialHessian(const PartialHessianSums& sums);
// DATA_LOSS, naming `label`, if the blob is something else.
absl::StatusOr<PartialHessianSums> ReadPartialHessian(absl::string_view blob,
                                                      const std::string& label);
// *total += part, in float64; an empty total becomes the part. The order of the calls is the order
// of the additions. Of a plain part and one of unit-RMS tokens the plain one adds its tokens alone:
// a part is plain among others because all its unit-RMS tokens have weight 0 (SumInput).
// INVALID_ARGUMENT if kind, width or chunks differ otherwise.
absl::Status AddPartialHessian(PartialHessianSums part, PartialHessianSums* total);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_TASKS_PARTIAL_HESSIAN_H_
