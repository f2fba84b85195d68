#include "kernels/cuda/binary.cuh"
#include "kernels/cuda/launch.h"

namespace shiftadd::kernels::cuda {
namespace {

template <int C>
cudaError_t LaunchSlots(const LaunchParams& p, const LaunchConfig& config) {
  const auto kernel = p.x.slots == 1 ? BinaryKernel<1, C> : BinaryKernel<2, C>;
  return Launch(kernel, dim3(config.tiles), config.warps * 32, config.programmatic, config.stream,
                p);
}

}  // namespace

cudaError_t HasCode() {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, BinaryKernel<1, 1>);
}

cudaError_t LaunchBinary(const LaunchParams& p, const LaunchConfig& config) {
  if (p.x.columns == 1) return LaunchSlots<1>(p, config);
  if (p.x.columns == 2) return LaunchSlots<2>(p, config);
  return LaunchSlots<4>(p, config);
}

}  // namespace shiftadd::kernels::cuda
