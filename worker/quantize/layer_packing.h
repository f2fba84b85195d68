// A packed matrix that owns its arrays, being filled by a method.
#ifndef SHIFTADD_WORKER_QUANTIZE_LAYER_PACKING_H_
#define SHIFTADD_WORKER_QUANTIZE_LAYER_PACKING_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kernels/packed_matrix.h"

namespace shiftadd::quantize {

// Methods fill codes, scale/alpha, sets and zeta, rows by rows from several threads; Pack then
// makes planes and exponents. Shapes as in kernels/packed_matrix.h. Codes: bit i is plane i, 1
// means +1.
struct LayerPacking {
  std::string name;
  kernels::Encoding encoding = kernels::Encoding::kBcqShift;
  kernels::Rotation rotation = kernels::Rotation::kNone;
  int64_t n = 0, k = 0, group = 0;
  int q = 0;
  int64_t block_rows = 0;

  std::vector<uint8_t> codes;      // [n, k]; empty after Pack
  std::vector<uint8_t> sets;       // [n, G]: shift, index into the exponent table; empty after Pack
  std::vector<uint32_t> planes;    // [q, n, ceil(k/32)]
  std::vector<uint8_t> exponents;  // [n, ceil(G/2)]
  std::vector<uint16_t> scale, alpha, zeta;
  const uint32_t* signs = nullptr;  // if rotated; not owned

  int64_t groups() const { return (k + group - 1) / group; }
  // Sizes codes, sets and scales for the fields above.
  void Allocate(bool with_zeta);
  void Pack();
  // Valid after Pack, while this lives.
  kernels::PackedMatrix View() const;
};

// `value`, not negative, as a stored half. INVALID_ARGUMENT naming `name`, the row and the field if
// it overflows, or if it underflows to 0 and matters: a scale below 2^-11 of the largest weight it
// serves (`magnitude`) is lost in that weight's own rounding, and is flushed.
absl::Status StoreScale(const std::string& name, int64_t row, const char* field, float value,
                        float magnitude, uint16_t* out);
// The same for an offset, of either sign; small ones round to 0.
absl::Status StoreOffset(const std::string& name, int64_t row, float value, uint16_t* out);

}  // namespace shiftadd::quantize

#endif  // SHIFTADD_WORKER_QUANTIZE_LAYER_PACKING_H_
