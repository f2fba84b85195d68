// A loop over independent work items on several threads.
#ifndef SHIFTADD_WORKER_QUANTIZE_PARALLEL_H_
#define SHIFTADD_WORKER_QUANTIZE_PARALLEL_H_

#include <cstdint>
#include <functional>

#include "absl/status/status.h"
#include "worker/reference/reference_model.h"

namespace shiftadd::quantize {

// Calls work(i) once for each 0 <= i < count, on at most `threads` threads, the lowest i first.
// Returns the error of the lowest i that has one (later items may be skipped then), or the
// cancellation. What an item throws is its error: RESOURCE_EXHAUSTED where memory is out, else
// INTERNAL. `control` may be null; its progress_count grows by one an item.
absl::Status ParallelFor(int64_t count, int threads, TaskControl* control,
                         const std::function<absl::Status(int64_t)>& work);

}  // namespace shiftadd::quantize

#endif  // SHIFTADD_WORKER_QUANTIZE_PARALLEL_H_
