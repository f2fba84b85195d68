#include "worker/quantize/tile_product.h"

#include <algorithm>

namespace shiftadd::quantize {

void SubtractProduct(const TileKernels& kernels, const PanelMatrix& m, int64_t row, int64_t n,
                     int64_t begin, int64_t end, int tiles, const float* e, int64_t e_stride,
                     float* w, int64_t w_stride) {
  constexpr int64_t kRows = 128;  // times a panel's 64 columns: 32 KiB, while every tile uses them
  for (int64_t c = begin, next; c < end; c = next) {
    next = std::min(m.PanelEnd(c), end);
    for (int64_t j = 0; j < n; j += kRows) {
      const int64_t rows = std::min(kRows, n - j);
      for (int t = 0; t < tiles; ++t) {
        kernels.trail(e + t * e_stride + j * kLanes, kLanes, rows, m.from(row + j, c),
                      PanelMatrix::kColumns, next - c, w + t * w_stride + c * kLanes, kLanes);
      }
    }
  }
}

}  // namespace shiftadd::quantize
