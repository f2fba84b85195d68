// The key-value part of a GGUF file as JSON.
#ifndef SHIFTADD_WORKER_TENSOR_GGUF_METADATA_READER_H_
#define SHIFTADD_WORKER_TENSOR_GGUF_METADATA_READER_H_

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "worker/tensor/gguf_cursor.h"

namespace shiftadd {

// Reads `count` pairs. Strings may hold any bytes. Refuses a key that stands twice, unknown types,
// arrays nested deeper than 4 and more than 2^24 array elements in all.
absl::StatusOr<nlohmann::json> ReadGgufMetadata(GgufCursor* cursor, uint64_t count);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_TENSOR_GGUF_METADATA_READER_H_
