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

absl::StatusOr<RtnGrid> FitRtnGrid(const std::string& name, int64_t row, const float* w,
                                   int64_t size, int64_t stride, int q) {
  // Zero is a level, so that the many small weights of a group do not all move: the range takes it
  // in, and the lowest level lies a whole number of steps below it.
  float low = 0.0f, high = 0.0f;
  for (int64_t i = 0; i < size; ++i) {
    low = std::min(low, w[i * stride]);
    high = std::max(high, w[i * stride]);
  }
  const float magnitude = std::max(-low, high);
  // In double: the range of two large floats may overflow.
  const double step = (static_cast<double>(high) - low) / ((1 << q) - 1);
  const double below = step > 0.0 ? std::floor(-low / step + 0.5) : 0.0;
  RtnGrid grid;
  SA_RETURN_IF_ERROR(StoreScale(name, row, "scale", static_cast<float>(std::ldexp(step, q - 2)),
                                magnitude, &grid.scale));
  grid.step = std::ldexp(kernels::HalfToFloat(grid.scale), 2 - q);
  SA_RETURN_IF_ERROR(StoreOffset(name, row, static_cast<float>(-below * grid.step), &grid.zeta));
  grid.zero = kernels::HalfToFloat(grid.zeta);
  return grid;
}

int RtnCode(int m, int q) {
  int code = 0;
  for (int b = 0; b < q; ++b) code |= ((m >> (q - 1 - b)) & 1) << b;
  return code;
}

void StoreRtnGrid(const RtnGrid& grid, int64_t at, LayerPacking* out) {
  out->scale[at] = grid.scale;
  out->zeta[at] = grid.zeta;
  out->sets[at] = UniformSet(kernels::DefaultExponentTable(out->q));
}

absl::Status RtnRows(const float* w, int64_t begin, int64_t end, LayerPacking* out) {
  const int64_t k = out->k, groups = out->groups();
  const double top = (1 << out->q) - 1;
  for (int64_t row = begin; row < end; ++row) {
    for (int64_t g = 0; g < groups; ++g) {
      const float* from = w + row * k + g * out->group;
      const int64_t size = std::min(out->group, k - g * out->group);
      SA_ASSIGN_OR_RETURN(const RtnGrid grid, FitRtnGrid(out->name, row, from, size, 1, out->q));
      StoreRtnGrid(grid, row * groups + g, out);
      for (int64_t i = 0; i < size; ++i) {
        const double m =
            grid.step > 0.0
                ? std::clamp(std::floor((from[i] - grid.zero) / grid.step + 0.5), 0.0, top)
                : 0.0;
        out->codes[row * k + g * out->group + i] =
            static_cast<uint8_t>(RtnCode(static_cast<int>(m), out->q));
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace shiftadd::quantize
