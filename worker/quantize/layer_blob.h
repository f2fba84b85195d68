// The safetensors blobs of a package: what services/packaging/package_format.h describes.
#ifndef SHIFTADD_WORKER_QUANTIZE_LAYER_BLOB_H_
#define SHIFTADD_WORKER_QUANTIZE_LAYER_BLOB_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/packed_matrix.h"
#include "worker/model/model_source.h"
#include "worker/quantize/layer_quantizer.h"

namespace shiftadd {

// A quantized layer.
absl::StatusOr<std::string> BuildLayerBlob(const std::string& name, const kernels::PackedMatrix& m);

// A layer as plain weights w [n, k], skipped or simulated: encoding "raw", one tensor "weight" of
// the smallest of F16, BF16, F32 that holds every value exactly. `more` goes into the metadata.
absl::StatusOr<std::string> BuildRawLayerBlob(const std::string& name, const std::vector<float>& w,
                                              int64_t n, int64_t k,
                                              const std::map<std::string, std::string>& more = {});

// "embed" and, if the model has one of its own, "head": int8/group, or raw as above.
absl::StatusOr<std::string> BuildHeadBlob(const WeightProvider& weights, bool int8,
                                          int threads = 1);

// Norms and biases in F32, and the signs of every distinct rotated input width (recipes that
// rotate).
absl::StatusOr<std::string> BuildUnquantizedBlob(const WeightProvider& weights,
                                                 const QuantRecipe& recipe);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_QUANTIZE_LAYER_BLOB_H_
