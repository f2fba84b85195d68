#include "kernels/cuda/integer.cuh"
#include "kernels/cuda/launch.h"

namespace shiftadd::kernels::cuda {
namespace {

// The commonest launches, one kind and one slot, have kernels of their own.
template <int N8>
auto KernelFor(int kind, int slots) {
  if (slots == 2) return IntegerKernel<kMixedKinds, 2, N8, true>;
  switch (kind) {
#define SHIFTADD_CASE(form, zeta, q) \
  case KindOf(form, zeta, q):        \
    return IntegerKernel<KindOf(form, zeta, q), 1, N8, true>;
    SHIFTADD_FOR_EACH_PLANE_KIND(SHIFTADD_CASE)
#undef SHIFTADD_CASE
    default:
      return IntegerKernel<kMixedKinds, 1, N8, true>;
  }
}

template <int N8>
cudaError_t LaunchColumns(const LaunchParams& p, const LaunchConfig& config) {
  const TileKernels kernels = {KernelFor<N8>(config.kind, p.x.slots), nullptr};
  return LaunchTiles(kernels, p.x.groups8 / N8, N8 * 8 * kTileRows, p, config);
}

}  // namespace

cudaError_t LaunchHalf(const LaunchParams& p, const LaunchConfig& config) {
  if (p.x.groups8 == 1) return LaunchColumns<1>(p, config);
  if (p.x.groups8 == 2) return LaunchColumns<2>(p, config);
  return LaunchColumns<4>(p, config);
}

}  // namespace shiftadd::kernels::cuda
