#include "worker/quantize/layer_error.h"

#include <algorithm>
#include <cmath>

#include "services/base/status_macros.h"
#include "worker/quantize/parallel.h"
#include "worker/quantize/tile_kernels.h"
#include "worker/quantize/tile_product.h"

namespace shiftadd::quantize {
namespace {

// x H x^T of sixteen rows x [k][16].
void QuadraticTile(const PreparedHessianImpl& h, const float* x, double* out) {
  constexpr int64_t kChunk = 128;  // fp32 sums of this many terms, then fp64
  const TileKernels& kernels = BestTileKernels();
  std::vector<float> minus(h.k * kLanes, 0.0f);  // -x H, one triangle of H for both
  for (int64_t c = 0, next; c < h.k; c = next) {
    next = h.quad.PanelEnd(c);
    SubtractProduct(kernels, h.quad, 0, next, c, next, 1, x, 0, minus.data(), 0);
  }
  for (int64_t begin = 0; begin < h.k; begin += kChunk) {
    float part[kLanes];
    kernels.dot(x + begin * kLanes, minus.data() + begin * kLanes, std::min(kChunk, h.k - begin),
                part);
    for (int lane = 0; lane < kLanes; ++lane) out[lane] -= part[lane];
  }
}

// work(begin, end) over a chunk's rows, sixteen at a time.
absl::Status ForTiles(const RowChunk& chunk, int threads, TaskControl* control,
                      const std::function<void(int64_t begin, int64_t end)>& work) {
  const int64_t tiles = (chunk.rows() + kLanes - 1) / kLanes;
  return ParallelFor(tiles, threads, control, [&](int64_t t) {
    const int64_t begin = chunk.begin + t * kLanes;
    work(begin, std::min<int64_t>(begin + kLanes, chunk.end));
    return absl::OkStatus();
  });
}

struct Errors {
  double weight = 0.0;
  double output = 0.0;
};

absl::StatusOr<Errors> MeasureChunk(const RowChunk& chunk, const std::vector<float>& w,
                                    const RowReader* read, int threads, TaskControl* control) {
  const PreparedHessianImpl& h = *chunk.h;
  const int64_t k = h.k;
  std::vector<double> weight(chunk.rows() + kLanes, 0.0), output(chunk.rows() + kLanes, 0.0);
  SA_RETURN_IF_ERROR(ForTiles(chunk, threads, control, [&](int64_t begin, int64_t end) {
    const int64_t rows = end - begin;
    std::vector<float> what(rows * k, 0.0f), x(k * kLanes, 0.0f);
    if (read != nullptr) (*read)(begin, end, what.data());
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t i = 0; i < k; ++i) {
        const float d = w[(begin + r) * k + i] - what[r * k + i];
        x[i * kLanes + r] = d;
        weight[begin - chunk.begin + r] += static_cast<double>(d) * d;
      }
    }
    QuadraticTile(h, x.data(), output.data() + (begin - chunk.begin));
  }));
  Errors sum;
  for (int64_t r = 0; r < chunk.rows(); ++r) {
    sum.weight += weight[r];
    sum.output += std::max(output[r], 0.0);  // H is semidefinite; rounding is not
  }
  sum.output *= h.scale;
  return sum;
}

}  // namespace

absl::StatusOr<ErrorSums> MeasureRows(const std::vector<RowChunk>& chunks,
                                      const std::vector<float>& w, const RowReader* what,
                                      int threads, TaskControl* control) {
  Errors sum;
  for (const RowChunk& chunk : chunks) {
    SA_ASSIGN_OR_RETURN(const Errors part, MeasureChunk(chunk, w, what, threads, control));
    sum.weight += part.weight;
    sum.output += part.output;
  }
  ErrorSums out;
  (what != nullptr ? out.weight : out.weight_norm) = sum.weight;
  (what != nullptr ? out.output : out.output_norm) = sum.output;
  return out;
}

absl::StatusOr<double> PaperCriterion(const std::vector<RowChunk>& chunks,
                                      const std::vector<float>& w, int threads,
                                      TaskControl* control) {
  double sum = 0.0, square = 0.0, count = 0.0;
  for (const RowChunk& chunk : chunks) {
    const PreparedHessianImpl& h = *chunk.h;
    const int64_t k = h.k;
    if (h.factor.u_diagonal.empty()) return 0.0;
    std::vector<double> sums(chunk.rows(), 0.0), squares(chunk.rows(), 0.0);
    SA_RETURN_IF_ERROR(ForTiles(chunk, threads, control, [&](int64_t begin, int64_t end) {
      std::vector<float> row(k);
      for (int64_t r = begin; r < end; ++r) {
        h.LoadRow(w.data() + r * k, row.data());
        for (int64_t p = 0; p < k; ++p) {
          const double is = static_cast<double>(row[p]) / h.factor.u_diagonal[p];
          sums[r - chunk.begin] += is;
          squares[r - chunk.begin] += is * is;
        }
      }
    }));
    // U is the factor of H divided by its scale.
    const double root = std::sqrt(h.scale);
    for (int64_t r = 0; r < chunk.rows(); ++r) {
      sum += root * sums[r];
      square += h.scale * squares[r];
    }
    count += static_cast<double>(chunk.rows() * k);
  }
  const double mean = sum / count;
  return std::sqrt(square) * std::max(square / count - mean * mean, 0.0);
}

}  // namespace shiftadd::quantize
