#include "kernels/cpu/kernels.h"
namespace shiftadd::kernels::cpu {
Kernels Avx2Kernels() { return PortableKernels(); }
}  // namespace shiftadd::kernels::cpu
