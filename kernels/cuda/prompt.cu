#include "kernels/cuda/launch.h"
#include "kernels/cuda/prompt.cuh"

namespace shiftadd::kernels::cuda {
namespace {

auto KernelFor(int kind) {
  switch (kind) {
#define SHIFTADD_CASE(form, zeta, q) \
  case KindOf(form, zeta, q):        \
    return PromptKernel<Block<form, zeta, q, 1>>;
    SHIFTADD_FOR_EACH_PLANE_KIND(SHIFTADD_CASE)
#undef SHIFTADD_CASE
    default:
      return PromptKernel<CodeBlock<1>>;
  }
}

}  // namespace

cudaError_t LaunchPrompt(const LaunchParams& p, const LaunchConfig& config) {
  const dim3 grid((p.tiles + kPromptWarps - 1) / kPromptWarps, p.x.groups8 / kPromptGroups8);
  return Launch(KernelFor(config.kind), grid, kPromptWarps * 32, config.programmatic, config.stream,
                p);
}

}  // namespace shiftadd::kernels::cuda
