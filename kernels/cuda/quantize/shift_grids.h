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
      const float* upper = sums + (1 << (q - 1));
      const int half = 1 << (q - 1);
      grid.total[set] = upper[half - 1];
      grid.per_step[set] = 1.0f / *std::min_element(grid.plane[set], grid.plane[set] + q);
      for (int whole = 0; whole < 32; ++whole) {
        int at = 0;
        while (at + 1 < half && static_cast<float>(whole) >=
                                    0.5f * (upper[at] + upper[at + 1]) * grid.per_step[set]) {
          ++at;
        }
        grid.nearest[set][whole] = upper[at];
      }
    }
  }
  return grids;
}

// The most warps of a block that has `block` bytes of shared memory and `warp` more for each; 0 if
// the device has too little.
inline int WarpsThatFit(int most, int block, int warp, int available) {
  return std::clamp((available - block) / warp, 0, most);
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
