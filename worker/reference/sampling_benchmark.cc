// Self-written text from a real model: SHIFTADD_TEST_MODEL or SmolLM2-135M. Arguments: sequences,
// tokens, threads.
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

void Sample(benchmark::State& state) {
  const auto source = ModelSource::Open(ModelPath());
  if (!source.ok()) return state.SkipWithError(std::string(source.status().message()).c_str());
  auto model = ReferenceModel::Create(source->get(), static_cast<int>(state.range(2)), 0);
  if (!model.ok()) return state.SkipWithError(std::string(model.status().message()).c_str());
  // Loads and packs the weights.
  if (const auto loaded = (*model)->Sample(0, 0, 1, 1, nullptr); !loaded.ok())
    return state.SkipWithError(std::string(loaded.status().message()).c_str());
  for (auto _ : state) {
    const auto tokens = (*model)->Sample(1, 0, state.range(0), state.range(1), nullptr);
    if (!tokens.ok()) return state.SkipWithError(std::string(tokens.status().message()).c_str());
    benchmark::DoNotOptimize(tokens->data());
  }
  state.SetItemsProcessed(state.iterations() * state.range(0) * state.range(1));
}
BENCHMARK(Sample)
    ->Args({8, 128, 1})
    ->Args({16, 128, 1})
    ->Args({16, 512, 1})
    ->Unit(benchmark::kSecond);

}  // namespace
}  // namespace shiftadd

BENCHMARK_MAIN();
