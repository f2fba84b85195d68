// The shiftadd method's loop over the groups of a tile of rows: weighted start, then rounds of OPTQ
// rounding inside the group and a joint refit of its scales in the group's own metric, then
// feedback to later groups.
//
// Sources: OPTQ (arXiv 2210.17323) for the column feedback; ShiftAddLLM (2406.05981) for binary
// codes in it.
#ifndef SHIFTADD_WORKER_QUANTIZE_GROUP_LOOP_H_
#define SHIFTADD_WORKER_QUANTIZE_GROUP_LOOP_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "worker/quantize/prepared_hessian.h"
#include "worker/quantize/tile_kernels.h"

namespace shiftadd::quantize {

struct GroupLoopOptions {
  int q = 0;
  QuantScales scales = QuantScales::kShift;
  bool offset = false;
  int rounds = 15;       // T
  int inner_rounds = 4;  // T_in, at least 1
};

// The scales of one group of sixteen rows; the field that the options' kind does not use is
// undefined.
struct GroupScales {
  FreeScales free;    // weight = sum_i alpha_i b_i + z
  ShiftScales shift;  // weight = s sum_i 2^e_i b_i + z
};

// One tile's result. Scales may be negative or unsorted.
struct GroupLoopTile {
  std::vector<GroupScales> scales;  // a group, in processing order
  std::vector<uint8_t> codes;       // [k][16], by position
};

// Scales that a refit moves: the planes' (shift: one for all), and the offset last.
inline int UnknownsOf(const GroupLoopOptions& options) {
  return (options.scales == QuantScales::kShift ? 1 : options.q) + (options.offset ? 1 : 0);
}
// The values of one of them, [16].
float* ScaleOf(const GroupLoopOptions& options, int unknown, GroupScales* scales);
// What it is multiplied with in the weights that have `codes` [count][16], to out [count][16].
void DesignColumn(const GroupLoopOptions& options, const Levels& levels, const uint8_t* codes,
                  int64_t count, int unknown, float* out);

// Called after each inner round: group, round, codes [size][16] of the round and its losses [16].
// For tests.
using GroupLoopObserver =
    std::function<void(int64_t group, int round, const uint8_t* codes, const float* losses)>;

// The levels of sixteen groups.
void MakeLevels(const GroupLoopOptions& options, const GroupScales& scales, Levels* out);

// Quantizes `tiles` tiles w [tiles][k][16], inputs in processing order; w is destroyed (it ends up
// compensated). Thread-safe. Lanes never mix, so the split of rows into tiles and calls changes
// nothing.
std::vector<GroupLoopTile> RunGroupLoop(const TileKernels& kernels, const LoopFactor& factor,
                                        const GroupLoopOptions& options, int tiles, float* w,
                                        const GroupLoopObserver* observer = nullptr);

}  // namespace shiftadd::quantize

#endif  // SHIFTADD_WORKER_QUANTIZE_GROUP_LOOP_H_
