// The speed of a package, without the front ends.
#ifndef SHIFTADD_WORKER_SERVE_SERVER_BENCH_H_
#define SHIFTADD_WORKER_SERVE_SERVER_BENCH_H_

#include <string>

#include "absl/status/statusor.h"
#include "worker/machine/bench.h"
#include "worker/serve/model_loader.h"

namespace shiftadd {

// Loads it as serving does and gives bench.h's JSON. `options.context` must fit the model's.
// Call it while there is one thread.
absl::StatusOr<std::string> BenchPackage(const PackageLocation& location, const LoadOptions& load,
                                         const BenchOptions& options);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_SERVE_SERVER_BENCH_H_
