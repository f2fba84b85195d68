// Stored values to float32. Block formats are those of GGUF (ggml): the arithmetic is float32,
// products before sums, without fused operations, so results equal the reference implementation's
// bit for bit.
#ifndef SHIFTADD_WORKER_TENSOR_DEQUANTIZE_H_
#define SHIFTADD_WORKER_TENSOR_DEQUANTIZE_H_

#include <cstdint>

#include "worker/tensor/tensor_source.h"

namespace shiftadd {

// Decodes elements [begin, end) of the values that start at `data`. `data` needs no alignment. The
// caller has checked that the bytes are there. Values may come out NaN or infinite.
void Dequantize(DType dtype, const char* data, int64_t begin, int64_t end, float* out);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_TENSOR_DEQUANTIZE_H_
