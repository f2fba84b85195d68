#include "kernels/cuda/binary.cuh"
#include "kernels/cuda/launch.h"

namespace shiftadd::kernels::cuda {
namespace {

// The commonest launches, one kind and one slot, have kernels of their own.
template <int C>
auto KernelFor(int kind, int slots) {
  if (slots == 2) return BinaryKernel<kMixedKinds, 2, C>;
  switch (kind) {
#define SHIFTADD_CASE(form, zeta, q) \
  case KindOf(form, zeta, q):        \
    return BinaryKernel<KindOf(form, zeta, q), 1, C>;
    SHIFTADD_FOR_EACH_PLANE_KIND(SHIFTADD_CASE)
#undef SHIFTADD_CASE
    default:
      return BinaryKernel<kMixedKinds, 1, C>;
  }
}

template <int C>
cudaError_t LaunchColumns(const LaunchParams& p, const LaunchConfig& config) {
  return Launch(KernelFor<C>(config.kind, p.x.slots), dim3(config.tiles), config.warps * 32,
                config.programmatic, config.stream, p);
}

}  // namespace

cudaError_t HasCode() {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, KernelFor<1>(0, 1));
}

cudaError_t LaunchBinary(const LaunchParams& p, const LaunchConfig& config) {
  if (p.x.bit_stride == 1) return LaunchColumns<1>(p, config);
  if (p.x.bit_stride == 2) return LaunchColumns<2>(p, config);
  return LaunchColumns<4>(p, config);
}

}  // namespace shiftadd::kernels::cuda
