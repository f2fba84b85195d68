// Seconds a layer on a GPU, stage by stage: cuda_quantize_benchmark [quick: the default recipe
// alone] Gaussian weights and inputs of an AR(1) process, whose factors are known in closed form
// (what is timed depends on the sizes, hardly on the values). CUDA events; the middle one of three
// runs.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/cuda/quantize/launches.h"
#include "kernels/cuda_quantize.h"

namespace {

using shiftadd::kernels::CudaFitGroups;
using shiftadd::kernels::CudaGroupFit;
using shiftadd::kernels::CudaLayerCodes;
using shiftadd::kernels::CudaLayerProblem;
using shiftadd::kernels::CudaLayerQuantizer;
using shiftadd::kernels::CudaQuantizeRecipe;
using shiftadd::kernels::CudaStatus;

constexpr int64_t kGroup = 128;
constexpr double kRho = 0.5;

void Check(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s\n", cudaGetErrorString(error));
  std::exit(1);
}
void Check(const CudaStatus& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", status.message.c_str());
  std::exit(1);
}

template <class T>
class Device {
 public:
  explicit Device(int64_t count) { Check(cudaMalloc(&data_, count * sizeof(T))); }
  explicit Device(const std::vector<T>& from) : Device(static_cast<int64_t>(from.size())) {
    Check(cudaMemcpy(data_, from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice));
  }
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  ~Device() { (void)cudaFree(data_); }
  T* get() const { return static_cast<T*>(data_); }

 private:
  void* data_ = nullptr;
};

double Milliseconds(const std::function<void()>& work) {
  cudaEvent_t begin, end;
  Check(cudaEventCreate(&begin));
  Check(cudaEventCreate(&end));
  std::vector<float> times;
  for (int i = 0; i < 3; ++i) {
    float ms = 0.0f;
    Check(cudaEventRecord(begin));
    work();
    Check(cudaEventRecord(end));
    Check(cudaEventSynchronize(end));
    Check(cudaEventElapsedTime(&ms, begin, end));
    times.push_back(ms);
  }
  Check(cudaEventDestroy(begin));
  Check(cudaEventDestroy(end));
  std::sort(times.begin(), times.end());
  return times[1];
}

// H_ij = rho^|i - j|: U has two diagonals, R is dense.
struct Inputs {
  std::unique_ptr<Device<float>> u, r, h;
  explicit Inputs(int64_t k) {
    std::vector<float> power(k);
    for (int64_t i = 0; i < k; ++i) power[i] = static_cast<float>(std::pow(kRho, i));
    const double root = std::sqrt(1.0 - kRho * kRho);
    std::vector<float> matrix(k * k, 0.0f);
    for (int64_t i = 0; i < k; ++i) {
      matrix[i * k + i] = i + 1 < k ? static_cast<float>(1.0 / root) : 1.0f;
      if (i + 1 < k) matrix[i * k + i + 1] = static_cast<float>(-kRho / root);
    }
    u = std::make_unique<Device<float>>(matrix);
    for (int64_t i = 0; i < k; ++i) {
      for (int64_t j = 0; j < k; ++j) matrix[i * k + j] = power[std::abs(i - j)];
    }
    h = std::make_unique<Device<float>>(matrix);
    const int64_t groups = (k + kGroup - 1) / kGroup;
    std::vector<float> blocks(groups * kGroup * kGroup, 0.0f);
    for (int64_t g = 0; g < groups; ++g) {
      for (int64_t i = 0; i < kGroup; ++i) {
        for (int64_t j = i; j < kGroup; ++j) {
          const bool last = g * kGroup + j == k - 1;
          blocks[(g * kGroup + i) * kGroup + j] =
              power[j - i] * (last ? 1.0f : static_cast<float>(root));
        }
      }
    }
    r = std::make_unique<Device<float>>(blocks);
  }
};

struct Codes {
  Device<uint8_t> codes, set;
  Device<float> scale, offset, loss;
  Codes(int64_t n, int64_t k, int q, bool free_scales)
      : codes(n * k),
        set(n * (k / kGroup)),
        scale(n * (k / kGroup) * (free_scales ? q : 1)),
        offset(n * (k / kGroup)),
        loss(n),
        view{q, codes.get(), scale.get(), set.get(), offset.get(), loss.get()} {}
  CudaLayerCodes view;
};

// Times one layer at some widths; returns seconds of the whole of it.
double Layer(const Inputs& inputs, int64_t n, int64_t k, const std::vector<int>& widths,
             const CudaQuantizeRecipe& recipe) {
  std::mt19937 engine(1);
  std::normal_distribution<float> normal(0.0f, 0.02f);
  std::vector<float> weights(n * k), piece(1 << 20);
  for (float& x : piece) x = normal(engine);
  for (int64_t i = 0; i < n * k; ++i) weights[i] = piece[(i * 7 + i / 9973) % (1 << 20)];
  const Device<float> w(weights);
  std::vector<std::unique_ptr<Codes>> codes;
  std::vector<CudaLayerCodes> views;
  std::vector<CudaGroupFit> fits;
  std::string name;
  for (int q : widths) {
    codes.push_back(std::make_unique<Codes>(n, k, q, recipe.free_scales));
    views.push_back(codes.back()->view);
    name += (name.empty() ? "" : ",") + std::to_string(q);
    CudaGroupFit fit;
    fit.q = q;
    fit.n = n;
    fit.size = kGroup;
    fit.w = w.get();
    fit.ldw = fit.ldu = fit.ldcodes = k;
    fit.u = inputs.u->get();
    fit.r = inputs.r->get();
    fit.ldr = kGroup;
    fit.codes = views.back().codes;
    fit.groups = k / kGroup;
    fit.scale = views.back().scale;
    fit.set = views.back().set;
    if (recipe.offset) fit.offset = views.back().offset;
    fits.push_back(fit);
  }
  const CudaLayerProblem problem = {
      n, k, w.get(), inputs.u->get(), inputs.r->get(), inputs.h->get()};
  std::unique_ptr<CudaLayerQuantizer> quantizer;
  const int count = static_cast<int>(views.size());
  const double create = Milliseconds([&] {
    quantizer.reset();
    Check(CudaLayerQuantizer::Create(recipe, problem, views.data(), count, nullptr, &quantizer));
  });
  const double loop = Milliseconds([&] { Check(quantizer->GroupLoop()); });
  const double fit =
      Milliseconds([&] { Check(CudaFitGroups(recipe, fits.data(), count, nullptr)); });
  const double descent = Milliseconds([&] { Check(quantizer->Descend()); });
  const double refit = Milliseconds([&] { Check(quantizer->Refit(false)); });
  const double total = create + loop + recipe.sweeps * (descent + refit);
  std::printf("%5lld x %5lld  %-7s %9.2f %9.2f %9.2f %9.2f %9.2f %10.4f\n",
              static_cast<long long>(n), static_cast<long long>(k), name.c_str(), create, loop,
              fit * static_cast<double>(k / kGroup), descent, refit, total / 1e3);
  std::fflush(stdout);
  return total / 1e3;
}

}  // namespace

int main(int argc, char** argv) {
  const bool quick = argc > 1 && std::strcmp(argv[1], "quick") == 0;
  cudaDeviceProp device;
  int driver = 0, runtime = 0;
  Check(cudaGetDeviceProperties(&device, 0));
  Check(cudaDriverGetVersion(&driver));
  Check(cudaRuntimeGetVersion(&runtime));
  std::printf("%s, compute capability %d.%d, CUDA driver %d, runtime %d\n", device.name,
              device.major, device.minor, driver, runtime);
  CudaQuantizeRecipe recipe;
  std::printf("group %lld, %d rounds, %d inner rounds, %d sweeps; milliseconds, total in seconds\n",
              static_cast<long long>(recipe.group), recipe.rounds, recipe.inner_rounds,
              recipe.sweeps);
  std::printf("descent, refit: one sweep's; fits: the fit launches' part of the group loop\n\n");
  std::printf("%13s  %-7s %9s %9s %9s %9s %9s %10s\n", "n x k", "q", "prepare", "loop", "fits",
              "descent", "refit", "total s");
  double block = 0.0;
  {
    const Inputs inputs(4096);
    std::vector<std::vector<int>> lists = {{2}, {3}, {4}, {2, 3, 4}};
    if (quick) lists = {{2, 3, 4}};
    for (const std::vector<int>& widths : lists) {
      const double square = Layer(inputs, 4096, 4096, widths, recipe);
      const double tall = Layer(inputs, 14336, 4096, widths, recipe);
      if (widths.size() == 3) block += 2 * square + 2 * tall;
    }
    block += 2 * Layer(inputs, 1024, 4096, {2, 3, 4}, recipe);
    for (const bool free_scales : {false, true}) {
      if (quick) continue;
      CudaQuantizeRecipe other = recipe;
      other.free_scales = free_scales;
      other.offset = true;
      std::printf("%s, offset:\n", free_scales ? "free" : "shift");
      Layer(inputs, 4096, 4096, {3}, other);
    }
  }
  {
    const Inputs inputs(14336);
    block += Layer(inputs, 4096, 14336, {2, 3, 4}, recipe);
  }
  std::printf(
      "\nan 8B model (32 blocks of 2 x 4096x4096, 2 x 1024x4096, 2 x 14336x4096, "
      "1 x 4096x14336) at 2, 3 and 4: %.1f s\n",
      32 * block);
  return 0;
}
