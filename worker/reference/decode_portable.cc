#define SHIFTADD_VECTOR_WIDTH 4
#include "worker/reference/decode_impl.h"

namespace shiftadd::reference {

const DecodeKernels& PortableDecodeKernels() { return kDecodeKernels; }

}  // namespace shiftadd::reference
