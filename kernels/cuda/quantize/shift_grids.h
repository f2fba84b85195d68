// Host side of the fit and descent launches: exponent sets as the kernels want them, block sizes.
#ifndef SHIFTADD_KERNELS_CUDA_QUANTIZE_SHIFT_GRIDS_H_
#define SHIFTADD_KERNELS_CUDA_QUANTIZE_SHIFT_GRIDS_H_

#include <algorithm>
#include <cmath>

#include "kernels/cuda/quantize/row_lanes.h"
#include "kernels/packed_matrix.h"

namespace shiftadd::kernels::quantize {

inline ShiftGrids MakeShiftGrids() {
  ShiftGrids grids;
  for (int q = 2; q <= 4; ++q) {
    const ExponentTable table = DefaultExponentTable(q);
    ShiftGrid& grid = grids.q[q - 2];
    grid.count = table.count;
    grid.start = q == 2 ? 1.5f : q == 3 ? 2.05f : 2.5f;
    for (int set = 0; set < table.count; ++set) {
      float sums[16];
      for (int c = 0; c < 1 << q; ++c) {
        sums[c] = 0.0f;
        for (int i = 0; i < q; ++i) {
          grid.plane[set][i] = std::ldexp(1.0f, table.exponents[set][i]);
          sums[c] += ((c >> i) & 1) != 0 ? grid.plane[set][i] : -grid.plane[set][i];
        }
      }
      std::sort(sums, sums + (1 << q));
      const int half = 1 << (q - 1);
      grid.total[set] = sums[2 * half - 1];
      for (int i = 0; i < half; ++i) grid.unit[set][i] = sums[half + i];
      for (int i = 0; i + 1 < half; ++i) {
        grid.middle[set][i] = 0.5f * (grid.unit[set][i] + grid.unit[set][i + 1]);
      }
    }
  }
  return grids;
}

// Warps of a block, one block a multiprocessor: a wave takes about as long as (4 + its warps),
// since few warps leave the arithmetic waiting.
inline int WarpsPerBlock(int64_t tiles, int most, int multiprocessors) {
  int best = most;
  int64_t best_time = 0;
  for (int warps = most; warps >= 1; --warps) {
    const int64_t blocks = (tiles + warps - 1) / warps;
    const int64_t time = (blocks + multiprocessors - 1) / multiprocessors * (4 + warps);
    if (best_time == 0 || time < best_time) {
      best = warps;
      best_time = time;
    }
  }
  return best;
}

}  // namespace shiftadd::kernels::quantize

#endif  // SHIFTADD_KERNELS_CUDA_QUANTIZE_SHIFT_GRIDS_H_
