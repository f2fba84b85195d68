#include "worker/quantize/layer_error.h"

#include <algorithm>

#include "services/base/status_macros.h"
#include "worker/quantize/parallel.h"
#include "worker/quantize/tile_kernels.h"

namespace shiftadd::quantize {
namespace {

// x H x^T of sixteen rows x [k][16].
void QuadraticTile(const PreparedHessianImpl& h, const float* x, float* scratch, double* out) {
  constexpr int64_t kChunk = 128;  // fp32 sums of this many terms, then fp64
  const TileKernels& tile = BestTileKernels();
  tile.tri_mul(x, h.k, h.quad.data(), h.k, scratch);
  for (int64_t begin = 0; begin < h.k; begin += kChunk) {
    float part[kLanes];
    tile.dot(x + begin * kLanes, scratch + begin * kLanes, std::min(kChunk, h.k - begin), part);
    for (int lane = 0; lane < kLanes; ++lane) out[lane] += part[lane];
  }
}

}  // namespace

absl::StatusOr<RowErrors> MeasureRows(const PreparedHessianImpl& h, const std::vector<float>& w,
                                      const kernels::PackedMatrix* packed, int64_t n, int threads,
                                      TaskControl* control) {
  const int64_t k = h.k, tiles = (n + kLanes - 1) / kLanes;
  std::vector<double> weight(tiles * kLanes, 0.0), output(tiles * kLanes, 0.0);
  SA_RETURN_IF_ERROR(ParallelFor(tiles, threads, control, [&](int64_t t) {
    const int64_t begin = t * kLanes, rows = std::min<int64_t>(kLanes, n - begin);
    std::vector<float> what(rows * k, 0.0f), x(k * kLanes, 0.0f), scratch(k * kLanes);
    if (packed != nullptr) kernels::DequantizeUnrotated(*packed, begin, begin + rows, what.data());
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t i = 0; i < k; ++i) {
        const float d = w[(begin + r) * k + i] - what[r * k + i];
        x[i * kLanes + r] = d;
        weight[begin + r] += static_cast<double>(d) * d;
      }
    }
    QuadraticTile(h, x.data(), scratch.data(), output.data() + begin);
    return absl::OkStatus();
  }));
  RowErrors sum;
  for (int64_t r = 0; r < n; ++r) {
    sum.weight += weight[r];
    sum.output += std::max(output[r], 0.0);  // H is semidefinite; rounding is not
  }
  return sum;
}

}  // namespace shiftadd::quantize
