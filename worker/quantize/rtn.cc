#include "worker/quantize/rtn.h"

#include <algorithm>
#include <cmath>

#include "services/base/status_macros.h"

namespace shiftadd::quantize {
namespace {

// The index of {0, -1, ..., -(q-1)} in the table; the caller of kernels relies on its being there.
uint8_t UniformSet(const kernels::ExponentTable& table) {
  for (int set = 0; set < table.count; ++set) {
    bool match = true;
    for (int i = 0; i < table.q; ++i) match = match && table.exponents[set][i] == -i;
    if (match) return static_cast<uint8_t>(set);
  }
  return 0;
}

}  // namespace

absl::Status RtnRows(const float* w, int64_t begin, int64_t end, LayerPacking* out) {
  const int64_t k = out->k, groups = out->groups();
  const int q = out->q;
  const int top = (1 << q) - 1;
  const uint8_t set = UniformSet(kernels::DefaultExponentTable(q));
  for (int64_t row = begin; row < end; ++row) {
    for (int64_t g = 0; g < groups; ++g) {
      const float* from = w + row * k + g * out->group;
      const int64_t size = std::min(out->group, k - g * out->group);
      // Zero is a level, so that the many small weights of a group do not all move: the range takes
      // it in, and the lowest level lies a whole number of steps below it.
      const auto [least, most] = std::minmax_element(from, from + size);
      const float low = std::min(*least, 0.0f), high = std::max(*most, 0.0f);
      const float magnitude = std::max(-low, high);
      // In double: the range of two large floats may overflow.
      const double step = (static_cast<double>(high) - low) / top;
      const double below = step > 0.0 ? std::floor(-low / step + 0.5) : 0.0;
      const int64_t at = row * groups + g;
      SA_RETURN_IF_ERROR(StoreScale(out->name, row, "scale",
                                    static_cast<float>(std::ldexp(step, q - 2)), magnitude,
                                    &out->scale[at]));
      const double kept_step = std::ldexp(kernels::HalfToFloat(out->scale[at]), 2 - q);
      SA_RETURN_IF_ERROR(
          StoreOffset(out->name, row, static_cast<float>(-below * kept_step), &out->zeta[at]));
      out->sets[at] = set;
      const double zeta = kernels::HalfToFloat(out->zeta[at]);
      for (int64_t i = 0; i < size; ++i) {
        int m = 0;
        if (kept_step > 0.0) {
          m = static_cast<int>(
              std::clamp(std::floor((from[i] - zeta) / kept_step + 0.5), 0.0, double{1} * top));
        }
        int code = 0;  // plane 0 has the largest exponent: the top bit of m
        for (int b = 0; b < q; ++b) code |= ((m >> (q - 1 - b)) & 1) << b;
        out->codes[row * k + g * out->group + i] = static_cast<uint8_t>(code);
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace shiftadd::quantize
