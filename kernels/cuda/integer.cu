#include "kernels/cuda/integer.cuh"
#include "kernels/cuda/launch.h"

namespace shiftadd::kernels::cuda {
namespace {

template <int N8>
cudaError_t LaunchSlots(const LaunchParams& p, const LaunchConfig& config) {
  const auto kernel = p.x.slots == 1 ? IntegerKernel<1, N8> : IntegerKernel<2, N8>;
  const dim3 grid(config.tiles, (p.x.groups8 + N8 - 1) / N8);
  return Launch(kernel, grid, config.warps * 32, config.programmatic, config.stream, p);
}

}  // namespace

cudaError_t LaunchInteger(const LaunchParams& p, const LaunchConfig& config) {
  if (p.x.groups8 == 1) return LaunchSlots<1>(p, config);
  if (p.x.groups8 == 2) return LaunchSlots<2>(p, config);
  return LaunchSlots<4>(p, config);
}

}  // namespace shiftadd::kernels::cuda
