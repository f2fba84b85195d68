// The speed of a model in full precision: what a package is compared with.
#ifndef SHIFTADD_WORKER_REFERENCE_SOURCE_BENCH_H_
#define SHIFTADD_WORKER_REFERENCE_SOURCE_BENCH_H_

#include <string>

#include "absl/status/statusor.h"
#include "worker/machine/bench.h"
#include "worker/model/model_source.h"
#include "worker/reference/reference_model.h"

namespace shiftadd::reference {

// A plain decoder in LibTorch's operators with a key/value cache: q, k and v in one product, gate
// and up in one, LibTorch's fused attention and norms. On kCuda in bf16, and a token is one CUDA
// graph if it can be captured (`how` says); on kCpu in fp32 and in bf16 on `threads` threads, and
// the one whose tokens come faster counts. Weights are made bf16 first: this is for time, not for
// numbers. After InitTorch; changes the process's number of ATen threads. UNIMPLEMENTED names what
// a model has that LLaMA has not.
absl::StatusOr<BenchFigures> BenchSource(const WeightProvider& weights, Device device, int threads,
                                         const BenchOptions& options);

}  // namespace shiftadd::reference

#endif  // SHIFTADD_WORKER_REFERENCE_SOURCE_BENCH_H_
