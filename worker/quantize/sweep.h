// Sweeps over a tile that the group loop has quantized: coordinate descent over the codes, then a
// joint refit of all scales of a row, both against the original weights in the metric of the whole
// damped H.
#ifndef SHIFTADD_WORKER_QUANTIZE_SWEEP_H_
#define SHIFTADD_WORKER_QUANTIZE_SWEEP_H_

#include <functional>
#include <vector>

#include "worker/quantize/group_loop.h"
#include "worker/quantize/prepared_hessian.h"
#include "worker/quantize/tile_kernels.h"

namespace shiftadd::quantize {

// Called after each sweep's descent (refit false), when only codes have moved, and after its refit.
// For tests.
using SweepObserver =
    std::function<void(int sweep, bool refit, const std::vector<GroupLoopTile>& tiles)>;

// Improves `tiles` in `sweeps` sweeps. `original` [tiles][k][16]: the weights as the group loop was
// given them. factor.h must be there. A row whose refit is singular keeps its scales. Thread-safe;
// lanes never mix.
void RunSweeps(const TileKernels& kernels, const LoopFactor& factor,
               const GroupLoopOptions& options, int sweeps, const float* original,
               std::vector<GroupLoopTile>* tiles, const SweepObserver* observer = nullptr);

}  // namespace shiftadd::quantize

#endif  // SHIFTADD_WORKER_QUANTIZE_SWEEP_H_
