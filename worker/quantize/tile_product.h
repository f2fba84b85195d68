// Products of tiles with a matrix: where the quantizer spends most of its time.
#ifndef SHIFTADD_WORKER_QUANTIZE_TILE_PRODUCT_H_
#define SHIFTADD_WORKER_QUANTIZE_TILE_PRODUCT_H_

#include <cstdint>

#include "worker/quantize/panel_matrix.h"
#include "worker/quantize/tile_kernels.h"

namespace shiftadd::quantize {

// w_t[c] -= sum_j e_t[j] m(row + j, c) for every tile t, j < n and column begin <= c < end. Tile t
// of e is [n][16] from e + t * e_stride, of w [end][16] from w + t * w_stride (in floats). Sums run
// over at most 128 rows of m at a time, whatever the number of tiles.
void SubtractProduct(const TileKernels& kernels, const PanelMatrix& m, int64_t row, int64_t n,
                     int64_t begin, int64_t end, int tiles, const float* e, int64_t e_stride,
                     float* w, int64_t w_stride);

}  // namespace shiftadd::quantize

#endif  // SHIFTADD_WORKER_QUANTIZE_TILE_PRODUCT_H_
