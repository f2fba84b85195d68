#include "worker/quantize/tile_kernels.h"

namespace shiftadd::quantize {
namespace {

bool Has(kernels::Isa isa) {
  switch (isa) {
    case kernels::Isa::kAvx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512vl");
    case kernels::Isa::kAvx2:
      return __builtin_cpu_supports("avx2");
    case kernels::Isa::kPortable:
      break;
  }
  return true;
}

}  // namespace

const TileKernels& TileKernelsFor(kernels::Isa isa) {
  if (isa == kernels::Isa::kAvx512 && Has(isa)) return Avx512TileKernels();
  if (isa != kernels::Isa::kPortable && Has(kernels::Isa::kAvx2)) return Avx2TileKernels();
  return PortableTileKernels();
}

const TileKernels& BestTileKernels() { return TileKernelsFor(kernels::Isa::kAvx512); }

}  // namespace shiftadd::quantize
