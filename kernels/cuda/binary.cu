#include "kernels/cuda/binary.cuh"
#include "kernels/cuda/launch.h"

namespace shiftadd::kernels::cuda {
namespace {

// The commonest launches, one kind and one slot, have kernels of their own.
template <int C, int D>
auto KernelFor(int kind, int slots) {
  if (slots == 2) return BinaryKernel<kMixedKinds, 2, C, D>;
  switch (kind) {
#define SHIFTADD_CASE(form, zeta, q) \
  case KindOf(form, zeta, q):        \
    return BinaryKernel<KindOf(form, zeta, q), 1, C, D>;
    SHIFTADD_FOR_EACH_PLANE_KIND(SHIFTADD_CASE)
#undef SHIFTADD_CASE
    default:
      return BinaryKernel<kMixedKinds, 1, C, D>;
  }
}

// Two planes alone gain by it: the registers that it takes are spilled with three, whose blocks are
// long enough for the latency of a tile's start.
template <int C, int D>
void (*SharedFor(int kind, int slots))(LaunchParams) {
  if constexpr (C <= 2) {
    if (slots == 1 && kind == KindOf(Form::kShift, false, 2)) {
      return SharedBinaryKernel<Form::kShift, false, 2, C, D>;
    }
    if (slots == 1 && kind == KindOf(Form::kFree, true, 2)) {
      return SharedBinaryKernel<Form::kFree, true, 2, C, D>;
    }
  }
  return nullptr;
}

template <int C, int D>
cudaError_t LaunchColumns(const LaunchParams& p, const LaunchConfig& config) {
  const TileKernels kernels = {KernelFor<C, D>(config.kind, p.x.slots),
                               SharedFor<C, D>(config.kind, p.x.slots)};
  return LaunchTiles(kernels, 1, C / D * kTileRows, p, config);
}

}  // namespace

cudaError_t HasCode() {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, KernelFor<1, 1>(0, 1));
}

cudaError_t LaunchBinary(const LaunchParams& p, const LaunchConfig& config) {
  if (p.x.bit_stride == 1) return LaunchColumns<1, 1>(p, config);
  if (p.x.digits == 1) {
    return p.x.bit_stride == 2 ? LaunchColumns<2, 1>(p, config) : LaunchColumns<4, 1>(p, config);
  }
  return p.x.bit_stride == 2 ? LaunchColumns<2, 2>(p, config) : LaunchColumns<4, 2>(p, config);
}

}  // namespace shiftadd::kernels::cuda
