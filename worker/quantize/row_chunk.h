// Rows of a weight matrix that share a Hessian.
#ifndef SHIFTADD_WORKER_QUANTIZE_ROW_CHUNK_H_
#define SHIFTADD_WORKER_QUANTIZE_ROW_CHUNK_H_

#include <cstdint>

#include "worker/quantize/prepared_hessian.h"

namespace shiftadd::quantize {

struct RowChunk {
  const PreparedHessianImpl* h = nullptr;
  int64_t begin = 0, end = 0;  // rows of the matrix, not empty
  int64_t rows() const { return end - begin; }
};

}  // namespace shiftadd::quantize

#endif  // SHIFTADD_WORKER_QUANTIZE_ROW_CHUNK_H_
