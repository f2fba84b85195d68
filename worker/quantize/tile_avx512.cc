#define SHIFTADD_VECTOR_WIDTH 16
#include "worker/quantize/tile_impl.h"

namespace shiftadd::quantize {

const TileKernels& Avx512TileKernels() { return kTileKernels; }

}  // namespace shiftadd::quantize
