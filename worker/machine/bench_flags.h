// The flags of BenchOptions, the same for the worker (a source) and the server (a package).
#ifndef SHIFTADD_WORKER_MACHINE_BENCH_FLAGS_H_
#define SHIFTADD_WORKER_MACHINE_BENCH_FLAGS_H_

#include <CLI/CLI.hpp>
#include <cstdint>

#include "worker/machine/bench.h"

namespace shiftadd {

// Each needs `bench`, the option that asks for a measurement; `options` must outlive the parse.
inline void AddBenchLengthFlags(CLI::App* app, CLI::Option* bench, BenchOptions* options) {
  app->add_option("--bench-context", options->context,
                  "Tokens of the prompt, and before the tokens that are timed")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
      ->needs(bench)
      ->capture_default_str();
  app->add_option("--bench-seconds", options->seconds, "Length of each measurement")
      ->check(CLI::Range(0.01, 600.0))
      ->needs(bench)
      ->capture_default_str();
}

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_MACHINE_BENCH_FLAGS_H_
