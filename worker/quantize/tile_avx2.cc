#define SHIFTADD_VECTOR_WIDTH 8
#include "worker/quantize/tile_impl.h"

namespace shiftadd::quantize {

const TileKernels& Avx2TileKernels() { return kTileKernels; }

}  // namespace shiftadd::quantize
