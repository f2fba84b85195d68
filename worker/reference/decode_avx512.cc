#define SHIFTADD_VECTOR_WIDTH 16
#include "worker/reference/decode_impl.h"

namespace shiftadd::reference {

const DecodeKernels& Avx512DecodeKernels() { return kDecodeKernels; }

}  // namespace shiftadd::reference
