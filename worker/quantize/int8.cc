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

absl::StatusOr<Int8Matrix> QuantizeInt8(const std::string& name, const std::vector<float>& w,
                                        int64_t n, int64_t k, int threads) {
  SA_RETURN_IF_ERROR(CheckWeights(name, w, n, k));
  const int64_t groups = (k + kInt8GroupSize - 1) / kInt8GroupSize;
  Int8Matrix out;
  out.codes.resize(n * k);
  out.scale.resize(n * groups);
  const auto quantize_row = [&](int64_t row) -> absl::Status {
    const float row_max = MaxAbs(w.data() + row * k, k);
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t begin = row * k + g * kInt8GroupSize;
      const int64_t size = std::min(kInt8GroupSize, k - g * kInt8GroupSize);
      uint16_t* scale = &out.scale[row * groups + g];
      SA_RETURN_IF_ERROR(
          StoreScale(name, row, "scale", MaxAbs(w.data() + begin, size) / 127.0f, row_max, scale));
      const float step = kernels::HalfToFloat(*scale);
      for (int64_t i = begin; i < begin + size; ++i) {
        const float code = step > 0.0f ? std::nearbyint(w[i] / step) : 0.0f;
        out.codes[i] = static_cast<int8_t>(std::clamp(code, -127.0f, 127.0f));
      }
    }
    return absl::OkStatus();
  };
  constexpr int64_t kRows = 256;  // that a thread takes at once
  SA_RETURN_IF_ERROR(
      ParallelFor((n + kRows - 1) / kRows, threads, nullptr, [&](int64_t i) -> absl::Status {
        for (int64_t row = i * kRows; row < std::min(n, (i + 1) * kRows); ++row) {
          SA_RETURN_IF_ERROR(quantize_row(row));
        }
        return absl::OkStatus();
      }));
  return out;
}

}  // namespace shiftadd
