#include "worker/reference/decode_kernels.h"

namespace shiftadd::reference {
namespace {

bool Has(kernels::Isa isa) {
  switch (isa) {
    case kernels::Isa::kAvx512:
      return __builtin_cpu_supports("avx512f") != 0;
    case kernels::Isa::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
             __builtin_cpu_supports("f16c");
    case kernels::Isa::kPortable:
      break;
  }
  return true;
}

}  // namespace

const DecodeKernels& DecodeKernelsFor(kernels::Isa isa) {
  if (isa == kernels::Isa::kAvx512 && Has(isa)) return Avx512DecodeKernels();
  if (isa != kernels::Isa::kPortable && Has(kernels::Isa::kAvx2)) return Avx2DecodeKernels();
  return PortableDecodeKernels();
}

}  // namespace shiftadd::reference
