// Forward and backward of guided statistics on a real model: SHIFTADD_TEST_MODEL or SmolLM2-135M.
// Arguments: sequences, tokens, threads, 1 for CUDA.
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <string>

#include "worker/model/model_source.h"
#include "worker/reference/reference_model.h"

namespace shiftadd {
namespace {

std::string ModelPath() {
  if (const char* path = std::getenv("SHIFTADD_TEST_MODEL")) return path;
  const char* home = std::getenv("HOME");
  return std::string(home == nullptr ? "" : home) +
         "/.cache/shiftadd/models/SmolLM2-135M-Instruct.Q4_1.gguf";
}

void TokenWeights(benchmark::State& state) {
  const auto source = ModelSource::Open(ModelPath());
  if (!source.ok()) return state.SkipWithError(std::string(source.status().message()).c_str());
  const int64_t count = state.range(0), length = state.range(1);
  std::vector<int32_t> tokens(count * length);
  for (size_t i = 0; i < tokens.size(); ++i)
    tokens[i] = static_cast<int32_t>(i * 7919 % (*source)->spec().vocab);
  double forward = 0, backward = 0;
  for (auto _ : state) {
    auto model = ReferenceModel::Create(source->get(), static_cast<int>(state.range(2)), 0,
                                        state.range(3) == 1 ? Device::kCuda : Device::kCpu);
    if (!model.ok()) return state.SkipWithError(std::string(model.status().message()).c_str());
    const auto result = (*model)->TokenWeights(tokens, count, length, {}, nullptr);
    if (!result.ok()) return state.SkipWithError(std::string(result.status().message()).c_str());
    forward += result->forward_seconds;
    backward += result->backward_seconds;
  }
  state.counters["forward_s"] = benchmark::Counter(forward, benchmark::Counter::kAvgIterations);
  state.counters["backward_s"] = benchmark::Counter(backward, benchmark::Counter::kAvgIterations);
  state.SetItemsProcessed(state.iterations() * count * length);
}
BENCHMARK(TokenWeights)
    ->Args({2, 512, 1, 0})
    ->Args({4, 512, 2, 0})
    ->Args({16, 2048, 16, 1})
    ->UseRealTime()
    ->Unit(benchmark::kSecond);

}  // namespace
}  // namespace shiftadd

BENCHMARK_MAIN();
