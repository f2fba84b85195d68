// Facts about element types: block layout, names in files, conversions of single numbers.
#ifndef SHIFTADD_WORKER_TENSOR_DTYPE_H_
#define SHIFTADD_WORKER_TENSOR_DTYPE_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/strings/string_view.h"
#include "worker/tensor/tensor_source.h"

namespace shiftadd {

// `elements` consecutive values are stored in `bytes` bytes. Plain types have one element a block.
struct BlockLayout {
  int64_t elements = 1;
  int64_t bytes = 4;
};
BlockLayout LayoutOf(DType dtype);

// False for the Q… types.
bool IsPlain(DType dtype);
// Floating point or quantized: may hold a weight.
bool IsReal(DType dtype);

// The type that safetensors call `name` ("BF16"), plain types only.
std::optional<DType> PlainDTypeByName(absl::string_view name);

// The number of bytes of a tensor, or nothing if a dimension is negative, the product overflows
// 2^62, or the innermost dimension does not fill whole blocks.
std::optional<uint64_t> TensorBytes(DType dtype, const std::vector<int64_t>& shape);

// IEEE binary16 and bfloat16 to binary32 (exact), and back (round to nearest even).
float HalfToFloat(uint16_t bits);
uint16_t FloatToHalf(float value);
float Bfloat16ToFloat(uint16_t bits);
uint16_t FloatToBfloat16(float value);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_TENSOR_DTYPE_H_
