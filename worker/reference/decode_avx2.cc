#define SHIFTADD_VECTOR_WIDTH 8
#include "worker/reference/decode_impl.h"

namespace shiftadd::reference {

const DecodeKernels& Avx2DecodeKernels() { return kDecodeKernels; }

}  // namespace shiftadd::reference
