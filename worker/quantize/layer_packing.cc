#include "worker/quantize/layer_packing.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/packing.h"

namespace shiftadd::quantize {

void LayerPacking::Allocate(bool with_zeta) {
  codes.assign(n * k, 0);
  switch (encoding) {
    case kernels::Encoding::kBcqShift:
      scale.assign(n * groups(), 0);
      sets.assign(n * groups(), 0);
      break;
    case kernels::Encoding::kBcqFree:
      alpha.assign(n * groups() * q, 0);
      break;
    case kernels::Encoding::kBcqBlock8:
      alpha.assign((k + 7) / 8 * ((n + block_rows - 1) / block_rows) * q, 0);
      break;
    case kernels::Encoding::kInt8Group:
      break;
  }
  if (with_zeta) zeta.assign(n * groups(), 0);
}

void LayerPacking::Pack() {
  planes.assign(q * n * ((k + 31) / 32), 0);
  kernels::PackPlanes(codes.data(), n, k, q, planes.data());
  if (encoding == kernels::Encoding::kBcqShift) {
    exponents.assign(n * ((groups() + 1) / 2), 0);
    kernels::PackExponents(sets.data(), n, groups(), exponents.data());
  }
  codes = {};
  sets = {};
}

kernels::PackedMatrix LayerPacking::View() const {
  kernels::PackedMatrix m;
  m.encoding = encoding;
  m.rotation = rotation;
  m.n = n;
  m.k = k;
  m.group = group;
  m.q = q;
  m.block_rows = block_rows;
  m.planes = planes.data();
  if (!scale.empty()) m.scale = scale.data();
  if (!exponents.empty()) m.exponents = exponents.data();
  if (!alpha.empty()) m.alpha = alpha.data();
  if (!zeta.empty()) m.zeta = zeta.data();
  if (encoding == kernels::Encoding::kBcqShift) m.table = kernels::DefaultExponentTable(q);
  if (rotation == kernels::Rotation::kWht128) m.signs = signs;
  return m;
}

absl::Status StoreScale(const std::string& name, int64_t row, const char* field, float value,
                        float magnitude, uint16_t* out) {
  *out = kernels::FloatToHalf(value);
  const float stored = kernels::HalfToFloat(*out);
  const bool lost = stored == 0.0f && value > std::ldexp(magnitude, -11);
  if (std::isfinite(stored) && !lost) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("tensor ", name, ", row ", row, ": ", field, " ",
                                                 value,
                                                 " is outside the range of fp16 (6e-8 to 65504)"));
}

absl::Status StoreOffset(const std::string& name, int64_t row, float value, uint16_t* out) {
  *out = kernels::FloatToHalf(value);
  if (std::isfinite(kernels::HalfToFloat(*out))) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("tensor ", name, ", row ", row, ": offset ", value,
                                                 " is outside the range of fp16 (65504)"));
}

}  // namespace shiftadd::quantize
