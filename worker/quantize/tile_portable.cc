#define SHIFTADD_VECTOR_WIDTH 4
#include "worker/quantize/tile_impl.h"

namespace shiftadd::quantize {

const TileKernels& PortableTileKernels() { return kTileKernels; }

}  // namespace shiftadd::quantize
