// The quantizer's stages, one thread each: CPU time is what to read, other work on the machine
// changes it little. Then Block, one block of SmolLM2-135M as a PROFILE task does it (seven guided
// Hessians of 16384 tokens, seven layers at 2, 3, 4 planes, two sweeps), with the seconds of each
// stage; the model has 30 such blocks.
//   GMAC/s  multiply-accumulates of fp32 a second
// SHIFTADD_QUANTIZE_ISA=portable|avx2|avx512 chooses the kernels of the stages (not of Block).
#include <benchmark/benchmark.h>

#include <chrono>
#include <cstdlib>
#include <random>
#include <string>

#include "worker/quantize/group_loop.h"
#include "worker/quantize/layer_quantizer.h"
#include "worker/quantize/prepared_hessian.h"
#include "worker/quantize/stage_timer.h"
#include "worker/quantize/sweep.h"
#include "worker/quantize/tile_product.h"

namespace shiftadd::quantize {
namespace {

constexpr int64_t kLength = 512;  // tokens a sequence

const TileKernels& Kernels() {
  const char* isa = std::getenv("SHIFTADD_QUANTIZE_ISA");
  if (isa == nullptr) return BestTileKernels();
  return TileKernelsFor(std::string(isa) == "portable" ? kernels::Isa::kPortable
                        : std::string(isa) == "avx2"   ? kernels::Isa::kAvx2
                                                       : kernels::Isa::kAvx512);
}

std::vector<float> Gaussian(int64_t count, uint32_t seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(0.0f, 0.05f);
  std::vector<float> out(count);
  for (float& x : out) x = normal(engine);
  return out;
}

// Inputs of one sequence: a few shared directions, sizes that differ.
std::vector<float> Inputs(int64_t k, uint32_t seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  std::vector<float> mix(8 * k), x(kLength * k);
  for (float& v : mix) v = normal(engine);
  for (int64_t t = 0; t < kLength; ++t) {
    float z[8];
    for (float& v : z) v = normal(engine);
    for (int64_t i = 0; i < k; ++i) {
      float sum = normal(engine);
      for (int d = 0; d < 8; ++d) sum += z[d] * mix[d * k + i];
      x[t * k + i] = sum * (i % 7 == 0 ? 3.0f : 1.0f);
    }
  }
  return x;
}

QuantRecipe Recipe() {
  QuantRecipe recipe;
  recipe.hessian = QuantHessian::kGuided;
  return recipe;
}

HessianMatrix Hessian(int64_t k) {
  auto sums = HessianAccumulator::Create(k, QuantHessian::kRms);
  for (int64_t s = 0; s < 4; ++s) {
    sums->Add(s, Inputs(k, static_cast<uint32_t>(s)).data(), kLength, nullptr);
  }
  return *sums->Finish();
}

// The last one made, kept: benchmarks of one width follow each other.
std::shared_ptr<const PreparedHessian> Prepared(int64_t k) {
  static std::shared_ptr<const PreparedHessian> kept;
  if (kept == nullptr || Impl(*kept).k != k) kept = *PreparedHessian::Create(Hessian(k), Recipe());
  return kept;
}

void Report(benchmark::State& state, double macs) {
  state.counters["GMAC/s"] = benchmark::Counter(
      macs * static_cast<double>(state.iterations()) / 1e9, benchmark::Counter::kIsRate);
}

// One sequence into a Hessian of width k, symmetric half counted.
void Accumulate(benchmark::State& state) {
  const int64_t k = state.range(0);
  const std::vector<float> x = Inputs(k, 1);
  const std::vector<float> s(kLength, 0.5f);
  auto sums = HessianAccumulator::Create(k, QuantHessian::kGuided);
  int64_t sequence = 0;
  for (auto _ : state) sums->Add(sequence++, x.data(), kLength, s.data());
  Report(state, static_cast<double>(kLength * k * (k + 1) / 2));
}
BENCHMARK(Accumulate)->Arg(576)->Arg(1536)->Unit(benchmark::kMillisecond);

// Rotation, damping, order, factor.
void Prepare(benchmark::State& state) {
  const HessianMatrix h = Hessian(state.range(0));
  for (auto _ : state) benchmark::DoNotOptimize(PreparedHessian::Create(h, Recipe()));
}
BENCHMARK(Prepare)->Arg(576)->Arg(1536)->Unit(benchmark::kMillisecond);

GroupLoopOptions Options(int q) {
  GroupLoopOptions options;
  options.q = q;
  return options;
}

// The weighted start of one group of 128 inputs of sixteen rows.
void Start(benchmark::State& state) {
  const std::vector<float> w = Gaussian(128 * kLanes, 2);
  const std::vector<float> omega(128, 1.0f);
  StartOptions options;
  options.q = static_cast<int>(state.range(0));
  ShiftScales scales;
  const kernels::ExponentTable table = kernels::DefaultExponentTable(options.q);
  for (auto _ : state) {
    Kernels().start_shift(w.data(), omega.data(), 128, options, table, &scales);
    benchmark::DoNotOptimize(scales);
  }
}
BENCHMARK(Start)->DenseRange(2, 4)->Unit(benchmark::kMicrosecond);

// What four tiles subtract from later inputs (the trailing update), or the residuals of a sweep:
// e [k] x [k, k].
void Product(benchmark::State& state) {
  const int64_t k = state.range(0), stride = k * kLanes;
  const auto prepared = Prepared(k);
  const std::vector<float> e = Gaussian(4 * stride, 3);
  std::vector<float> w(4 * stride, 0.0f);
  for (auto _ : state) {
    SubtractProduct(Kernels(), Impl(*prepared).factor.h, 0, k, 0, k, 4, e.data(), stride, w.data(),
                    stride);
    benchmark::ClobberMemory();
  }
  Report(state, static_cast<double>(4 * kLanes * k * k));
}
BENCHMARK(Product)->Arg(576)->Arg(1536)->Unit(benchmark::kMicrosecond);

// The stages of four tiles (64 rows) of width k at q planes: the group loop without its start (one
// round of it) and the in-group rounds, then a sweep's descent and refit.
void GroupLoop(benchmark::State& state) {
  const int64_t k = state.range(0);
  const auto prepared = Prepared(k);
  GroupLoopOptions options = Options(static_cast<int>(state.range(1)));
  options.rounds = 1;
  options.inner_rounds = static_cast<int>(state.range(2));
  const std::vector<float> original = Gaussian(4 * k * kLanes, 4);
  for (auto _ : state) {
    std::vector<float> w = original;
    benchmark::DoNotOptimize(RunGroupLoop(Kernels(), Impl(*prepared).factor, options, 4, w.data()));
  }
}
BENCHMARK(GroupLoop)
    ->ArgNames({"k", "q", "inner_rounds"})
    ->ArgsProduct({{576, 1536}, {2, 3, 4}, {1, 4}})
    ->Unit(benchmark::kMillisecond);

void Sweep(benchmark::State& state) {
  const int64_t k = state.range(0);
  const auto prepared = Prepared(k);
  GroupLoopOptions options = Options(static_cast<int>(state.range(1)));
  options.scales = state.range(2) != 0 ? QuantScales::kFree : QuantScales::kShift;
  const LoopFactor& factor = Impl(*prepared).factor;
  const std::vector<float> original = Gaussian(4 * k * kLanes, 4);
  std::vector<float> w = original;
  const std::vector<GroupLoopTile> start = RunGroupLoop(Kernels(), factor, options, 4, w.data());
  double descent = 0.0, refit = 0.0;
  for (auto _ : state) {
    std::vector<GroupLoopTile> tiles = start;
    auto last = std::chrono::steady_clock::now();
    const SweepObserver observer = [&](int, bool is_refit, const std::vector<GroupLoopTile>&) {
      const auto now = std::chrono::steady_clock::now();
      (is_refit ? refit : descent) += std::chrono::duration<double>(now - last).count();
      last = now;
    };
    RunSweeps(Kernels(), factor, options, 1, original.data(), &tiles, &observer);
  }
  state.counters["descent_ms"] = 1e3 * descent / static_cast<double>(state.iterations());
  state.counters["refit_ms"] = 1e3 * refit / static_cast<double>(state.iterations());
}
BENCHMARK(Sweep)
    ->ArgNames({"k", "q", "free"})
    ->ArgsProduct({{576, 1536}, {2, 3, 4}, {0, 1}})
    ->Unit(benchmark::kMillisecond);

// A layer whole, one thread: n, k, q.
void Layer(benchmark::State& state) {
  const int64_t n = state.range(0), k = state.range(1);
  const auto prepared = Prepared(k);
  const std::vector<float> w = Gaussian(n * k, 5);
  StageSeconds seconds;
  for (auto _ : state) {
    benchmark::DoNotOptimize(QuantizeLayer("layer", w, n, k, {prepared}, Recipe(),
                                           {static_cast<int>(state.range(2))}, 1, nullptr,
                                           &seconds));
  }
  const double each = static_cast<double>(state.iterations());
  state.counters["fit_s"] = seconds.fit / each;
  state.counters["sweep_s"] = seconds.sweep / each;
  state.counters["measure_s"] = seconds.measure / each;
}
BENCHMARK(Layer)
    ->ArgNames({"n", "k", "q"})
    ->ArgsProduct({{576, 1536}, {576}, {2, 3, 4}})
    ->ArgsProduct({{576}, {1536}, {2, 3, 4}})
    ->Unit(benchmark::kMillisecond);

// The other methods, and shiftadd's other switches, on one layer at 3 planes: n, k, which.
void Method(benchmark::State& state) {
  const int64_t n = state.range(0), k = state.range(1);
  QuantRecipe recipe = Recipe();
  const char* names[] = {"rtn",
                         "optq",
                         "lat",
                         "acc",
                         "acc_butterfly",
                         "shiftadd_free",
                         "shiftadd_free_offset",
                         "shiftadd_whole_row"};
  const int64_t which = state.range(2);
  const QuantMethod methods[] = {QuantMethod::kRtn, QuantMethod::kOptq, QuantMethod::kLat,
                                 QuantMethod::kAcc, QuantMethod::kAcc};
  if (which < 5) {
    recipe.method = methods[which];
    recipe.rotation = which == 4 ? QuantRotation::kButterfly : QuantRotation::kNone;
    if (which >= 2) recipe.rounds = 50;
  } else {
    if (which < 7) recipe.scales = QuantScales::kFree;
    recipe.offset = which == 6;
    if (which == 7) recipe.group = -1;
  }
  const auto prepared = *PreparedHessian::Create(Hessian(k), recipe);
  const std::vector<float> w = Gaussian(n * k, 5);
  for (auto _ : state) {
    benchmark::DoNotOptimize(QuantizeLayer("layer", w, n, k, {prepared}, recipe, {3}, 1, nullptr));
  }
  state.SetLabel(names[which]);
}
BENCHMARK(Method)
    ->ArgNames({"n", "k", "which"})
    ->ArgsProduct({{576}, {576, 1536}, {0, 1, 2, 3, 4, 5, 6, 7}})
    ->Unit(benchmark::kMillisecond);

struct Shape {
  const char* name;
  int64_t n, k;
};
constexpr Shape kBlock[] = {{"q", 576, 576},    {"k", 192, 576},     {"v", 192, 576},
                            {"o", 576, 576},    {"gate", 1536, 576}, {"up", 1536, 576},
                            {"down", 576, 1536}};

void Block(benchmark::State& state) {
  constexpr int64_t kSequences = 32;
  const int threads = static_cast<int>(state.range(0));
  const std::vector<float> narrow = Inputs(576, 6), wide = Inputs(1536, 7), s(kLength, 0.5f);
  double hessian = 0.0, prepare = 0.0;
  StageSeconds seconds;
  for (auto _ : state) {
    for (const Shape& shape : kBlock) {
      std::shared_ptr<const PreparedHessian> prepared;
      HessianMatrix h;
      {
        // One thread: tasks add sequences from several, here they would only be divided by two.
        const StageTimer timer(&hessian);
        auto sums = HessianAccumulator::Create(shape.k, QuantHessian::kGuided);
        for (int64_t i = 0; i < kSequences; ++i) {
          sums->Add(i, shape.k == 576 ? narrow.data() : wide.data(), kLength, s.data());
        }
        h = *sums->Finish();
      }
      {
        const StageTimer timer(&prepare);
        prepared = *PreparedHessian::Create(h, Recipe());
      }
      const std::vector<float> w = Gaussian(shape.n * shape.k, 8);
      benchmark::DoNotOptimize(QuantizeLayer(shape.name, w, shape.n, shape.k, {prepared}, Recipe(),
                                             {2, 3, 4}, threads, nullptr, &seconds));
    }
  }
  const double each = static_cast<double>(state.iterations());
  state.counters["hessian_s"] = hessian / each;
  state.counters["prepare_s"] = prepare / each;
  state.counters["fit_s"] = seconds.fit / each;
  state.counters["sweep_s"] = seconds.sweep / each;
  state.counters["measure_s"] = seconds.measure / each;
}
BENCHMARK(Block)->ArgName("threads")->Arg(1)->MeasureProcessCPUTime()->Iterations(1)->Unit(
    benchmark::kSecond);

}  // namespace
}  // namespace shiftadd::quantize

BENCHMARK_MAIN();
