// One thread. A product of one token reads every weight once, so what counts is bytes a second:
//   packed_GB/s  stored bytes of the matrix (StoredBytes) over time; MemoryRead is the baseline
//   GMAC/s       multiply-accumulates of the matrix a second, all tokens
//   of_read      Gemv: time to only read the matrix's resident bytes over time of the product, the
//                two alternating, best of each: 1 is what memory allows
// Weights of "dram" shapes exceed the caches; "l2" ones fit. SHIFTADD_ISA=portable|avx2|avx512
// lowers the instruction set.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cpu_linear.h"
#include "kernels/test_matrix.h"

namespace shiftadd::kernels {
namespace {

struct Subject {
  Encoding encoding;
  int q;
  bool zeta;
};
constexpr Subject kSubjects[] = {{Encoding::kBcqShift, 2, false}, {Encoding::kBcqShift, 3, false},
                                 {Encoding::kBcqShift, 4, false}, {Encoding::kInt8Group, 0, false},
                                 {Encoding::kBcqShift, 3, true},  {Encoding::kBcqFree, 3, false},
                                 {Encoding::kBcqBlock8, 3, false}};
constexpr const char* kNames[] = {"shift2",      "shift3", "shift4",  "int8",
                                  "shift3_zeta", "free3",  "block8_3"};

struct Prepared {
  std::unique_ptr<CpuLinear> linear;
  uint64_t stored = 0;
};

// The last matrix made, kept: benchmarks of one subject and shape follow each other.
const Prepared& Matrix(int64_t subject, int64_t n, int64_t k) {
  static Prepared kept;
  static int64_t key[3] = {-1, 0, 0};
  if (key[0] == subject && key[1] == n && key[2] == k) return kept;
  const Subject& s = kSubjects[subject];
  const TestMatrix m(
      {.encoding = s.encoding, .q = s.q, .zeta = s.zeta, .rotated = true, .n = n, .k = k}, 1);
  std::string error;
  kept.linear.reset();
  kept.linear = CpuLinear::Create(m.view, DetectIsa(), &error);
  kept.stored = StoredBytes(m.view);
  key[0] = subject, key[1] = n, key[2] = k;
  return kept;
}

void Report(benchmark::State& state, uint64_t bytes, double macs) {
  const double iterations = static_cast<double>(state.iterations());
  state.counters["packed_GB/s"] = benchmark::Counter(static_cast<double>(bytes) * iterations / 1e9,
                                                     benchmark::Counter::kIsRate);
  state.counters["GMAC/s"] =
      benchmark::Counter(macs * iterations / 1e9, benchmark::Counter::kIsRate);
}

// Arguments: subject, n, k, m, digits.
void Product(benchmark::State& state) {
  const int64_t n = state.range(1), k = state.range(2), m = state.range(3);
  const Prepared& w = Matrix(state.range(0), n, k);
  const std::vector<float> x = TestActivations(m * k, 2);
  std::vector<float> y(static_cast<size_t>(m * n));
  Activations a;
  PrepareActivations(x.data(), k, m, k, w.linear->group(), w.linear->signs(),
                     state.range(4) == 2 ? Precision::kA16 : Precision::kA8, DetectIsa(), &a);
  for (auto _ : state) {
    w.linear->Multiply(a, 0, n, y.data(), n);
    benchmark::DoNotOptimize(y.data());
    benchmark::ClobberMemory();
  }
  state.SetLabel(std::string(kNames[state.range(0)]) + " " + IsaName(DetectIsa()));
  Report(state, w.stored, static_cast<double>(n * k * m));
}

void Prepare(benchmark::State& state) {
  const int64_t k = state.range(0);
  const std::vector<float> x = TestActivations(k, 3);
  const std::vector<uint32_t> signs(static_cast<size_t>((k + 31) / 32), 0x5a17c3u);
  Activations a;
  for (auto _ : state) {
    PrepareActivations(x.data(), k, 1, k, 128, signs.data(),
                       state.range(1) == 2 ? Precision::kA16 : Precision::kA8, DetectIsa(), &a);
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * k);
}

// Reads everything in order, with prefetch ahead: what memory gives one thread with nothing to
// compute. A part of each line is enough.
uint64_t ReadAll(const std::vector<uint64_t>& data) {
  constexpr size_t kLine = 8, kAhead = 512;  // words
  uint64_t sum[4] = {};
  for (size_t i = 0; i + 4 * kLine <= data.size(); i += 4 * kLine) {
    for (size_t s = 0; s < 4; ++s) {
      const uint64_t* line = data.data() + i + s * kLine;
      __builtin_prefetch(line + kAhead);
      sum[s] += line[0] ^ line[4];
    }
  }
  return sum[0] + sum[1] + sum[2] + sum[3];
}

void MemoryRead(benchmark::State& state) {
  const std::vector<uint64_t> data(static_cast<size_t>(state.range(0) / 8), 1);
  for (auto _ : state) benchmark::DoNotOptimize(ReadAll(data));
  Report(state, data.size() * 8, 0);
}

double Seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// One token and a matrix beyond the caches, beside a read of as many bytes. Argument: subject.
void Gemv(benchmark::State& state) {
  constexpr int64_t kN = 65536, kK = 4096;
  const Prepared& w = Matrix(state.range(0), kN, kK);
  const std::vector<uint64_t> data(w.linear->bytes() / 8, 1);
  const std::vector<float> x = TestActivations(kK, 2);
  std::vector<float> y(kN);
  Activations a;
  PrepareActivations(x.data(), kK, 1, kK, w.linear->group(), w.linear->signs(), Precision::kA8,
                     DetectIsa(), &a);
  double product = 1e9, read = 1e9;
  for (auto _ : state) {
    double start = Seconds();
    benchmark::DoNotOptimize(ReadAll(data));
    read = std::min(read, Seconds() - start);
    start = Seconds();
    w.linear->Multiply(a, 0, kN, y.data(), kN);
    benchmark::DoNotOptimize(y.data());
    const double seconds = Seconds() - start;
    product = std::min(product, seconds);
    state.SetIterationTime(seconds);
  }
  state.SetLabel(std::string(kNames[state.range(0)]) + " " + IsaName(DetectIsa()));
  state.counters["GB/s"] = static_cast<double>(w.linear->bytes()) / product / 1e9;
  state.counters["read_GB/s"] = static_cast<double>(data.size() * 8) / read / 1e9;
  state.counters["of_read"] = read / product;
}

// The unpacked weights: fp32, one token, compiled for the build's baseline.
void Fp32Gemv(benchmark::State& state) {
  const int64_t n = state.range(0), k = state.range(1);
  const std::vector<float> w(static_cast<size_t>(n * k), 0.5f), x(static_cast<size_t>(k), 1.0f);
  std::vector<float> y(static_cast<size_t>(n));
  for (auto _ : state) {
    for (int64_t row = 0; row < n; ++row) {
      float sum[16] = {};
      for (int64_t i = 0; i + 16 <= k; i += 16) {
        for (int64_t j = 0; j < 16; ++j) sum[j] += w[row * k + i + j] * x[i + j];
      }
      for (int j = 1; j < 16; ++j) sum[0] += sum[j];
      y[row] = sum[0];
    }
    benchmark::DoNotOptimize(y.data());
    benchmark::ClobberMemory();
  }
  Report(state, static_cast<uint64_t>(n * k) * 4, static_cast<double>(n * k));
}

void Shapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"subject", "n", "k", "m", "digits"})->Unit(benchmark::kMicrosecond);
  for (int64_t s = 0; s < 7; ++s) {
    b->Args({s, 32768, 4096, 1, 1});  // dram
    b->Args({s, 1536, 576, 1, 1});    // l2
    for (const int64_t m : {2, 4, 16, 64}) b->Args({s, 1536, 576, m, 1});
    b->Args({s, 1536, 576, 1, 2});
    for (const int64_t m : {16, 64}) b->Args({s, 1536, 576, m, 2});
  }
  // A small model's head, alone and for 16 sequences.
  for (const int64_t m : {1, 16}) b->Args({3, 49152, 576, m, 2});
}

BENCHMARK(Gemv)->ArgName("subject")->DenseRange(0, 5)->UseManualTime()->Unit(
    benchmark::kMicrosecond);
BENCHMARK(MemoryRead)->Arg(int64_t{256} << 20)->Arg(512 << 10)->Unit(benchmark::kMicrosecond);
BENCHMARK(Fp32Gemv)->Args({16384, 4096})->Args({256, 576})->Unit(benchmark::kMicrosecond);
BENCHMARK(Prepare)->ArgNames({"k", "digits"})->Args({576, 1})->Args({4096, 1})->Args({4096, 2});
BENCHMARK(Product)->Apply(Shapes);

}  // namespace
}  // namespace shiftadd::kernels

BENCHMARK_MAIN();
