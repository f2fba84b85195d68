// The speed of a model in full precision: what a package is compared with.
#ifndef SHIFTADD_WORKER_REFERENCE_SOURCE_BENCH_H_
#define SHIFTADD_WORKER_REFERENCE_SOURCE_BENCH_H_

#include <string>

#include "absl/status/statusor.h"
#include "worker/machine/bench.h"
#include "worker/model/model_source.h"
#include "worker/reference/reference_model.h"

namespace shiftadd::reference {

// PlainDecoder: on kCuda in bf16, and a token is one CUDA graph if it can be captured (`how` says);
// on kCpu in fp32 and in bf16 on `threads` threads, and the one whose tokens come faster counts.
// After InitTorch; changes the process's number of ATen threads. INVALID_ARGUMENT for a context
// that the model has no room for.
absl::StatusOr<BenchFigures> BenchSource(const WeightProvider& weights, Device device, int threads,
                                         const BenchOptions& options);

}  // namespace shiftadd::reference

#endif  // SHIFTADD_WORKER_REFERENCE_SOURCE_BENCH_H_
