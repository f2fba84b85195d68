// QuantizeInt8: the head and the embedding.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/packed_matrix.h"
#include "services/base/status_macros.h"
#include "worker/quantize/layer_packing.h"
#include "worker/quantize/layer_quantizer.h"
#include "worker/quantize/parallel.h"
#include "worker/quantize/weight_checks.h"

namespace shiftadd {

using quantize::CheckWeights;
using quantize::MaxAbs;
using quantize::ParallelFor;
using quantize::StoreScale;

namespace {

constexpr int64_t kRows = 256;  // that a thread takes at once

// Row `row` of the matrix, whose values are x.
absl::Status QuantizeRow(const std::string& name, int64_t row, const float* x, int64_t k,
                         Int8Matrix* out) {
  const int64_t groups = (k + kInt8GroupSize - 1) / kInt8GroupSize;
  const float row_max = MaxAbs(x, k);
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t begin = g * kInt8GroupSize, end = std::min(begin + kInt8GroupSize, k);
    uint16_t* scale = &out->scale[row * groups + g];
    SA_RETURN_IF_ERROR(
        StoreScale(name, row, "scale", MaxAbs(x + begin, end - begin) / 127.0f, row_max, scale));
    const float step = kernels::HalfToFloat(*scale);
    int8_t* codes = &out->codes[row * k];
    for (int64_t i = begin; i < end; ++i) {
      const float code = step > 0.0f ? std::nearbyint(x[i] / step) : 0.0f;
      codes[i] = static_cast<int8_t>(std::clamp(code, -127.0f, 127.0f));
    }
  }
  return absl::OkStatus();
}

// rows(first, last): where the values of these rows are, valid until the thread asks again.
template <typename Rows>
absl::StatusOr<Int8Matrix> QuantizeRows(const std::string& name, int64_t n, int64_t k, int threads,
                                        const Rows& rows) {
  Int8Matrix out;
  out.codes.resize(n * k);
  out.scale.resize(n * ((k + kInt8GroupSize - 1) / kInt8GroupSize));
  SA_RETURN_IF_ERROR(
      ParallelFor((n + kRows - 1) / kRows, threads, nullptr, [&](int64_t i) -> absl::Status {
        const int64_t first = i * kRows, last = std::min(n, first + kRows);
        SA_ASSIGN_OR_RETURN(const float* x, rows(first, last));
        for (int64_t row = first; row < last; ++row, x += k) {
          SA_RETURN_IF_ERROR(QuantizeRow(name, row, x, k, &out));
        }
        return absl::OkStatus();
      }));
  return out;
}

}  // namespace

absl::StatusOr<Int8Matrix> QuantizeInt8(const std::string& name, const std::vector<float>& w,
                                        int64_t n, int64_t k, int threads) {
  SA_RETURN_IF_ERROR(CheckWeights(name, w, n, k));
  return QuantizeRows(
      name, n, k, threads,
      [&](int64_t first, int64_t) -> absl::StatusOr<const float*> { return w.data() + first * k; });
}

absl::StatusOr<Int8Matrix> QuantizeInt8(const WeightProvider& weights, const std::string& name,
                                        int64_t n, int64_t k, int threads) {
  return QuantizeRows(name, n, k, threads,
                      [&](int64_t first, int64_t last) -> absl::StatusOr<const float*> {
                        thread_local std::vector<float> x;
                        x.resize(kRows * k);
                        SA_RETURN_IF_ERROR(weights.ReadRows(name, n, k, first, last, x.data()));
                        return x.data();
                      });
}

}  // namespace shiftadd
