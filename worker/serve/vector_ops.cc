#include "worker/serve/vector_ops.h"

namespace shiftadd {

extern const VectorOps kVectorOpsPortable;
#if defined(__x86_64__)
extern const VectorOps kVectorOpsAvx2;
extern const VectorOps kVectorOpsAvx512;
#endif

const VectorOps& VectorOpsFor(kernels::Isa isa) {
#if defined(__x86_64__)
  if (isa == kernels::Isa::kAvx512) return kVectorOpsAvx512;
  if (isa == kernels::Isa::kAvx2) return kVectorOpsAvx2;
#endif
  (void)isa;
  return kVectorOpsPortable;
}

}  // namespace shiftadd
