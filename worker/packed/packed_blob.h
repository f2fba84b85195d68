// The weight blobs of a package (services/packaging/package_format.h), parsed and checked: layer,
// head, unquantized.
//
// What comes out points into the blob's bytes and shares their ownership: packed weights are never
// copied or expanded here. Every fault is an INVALID_ARGUMENT that names the blob, the tensor or
// metadata field, what was found and what was expected; no input crashes.
#ifndef SHIFTADD_WORKER_PACKED_PACKED_BLOB_H_
#define SHIFTADD_WORKER_PACKED_PACKED_BLOB_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/packed_matrix.h"
#include "worker/model/architecture_spec.h"

namespace shiftadd {

// Norms, biases, positions, projections and rotation signs. Immutable after parsing.
struct UnquantizedTensors {
  std::map<std::string, std::vector<float>> values;  // canonical name -> [size], finite
  std::map<int64_t, std::vector<uint32_t>> signs;    // input width K -> [ceil(K/32)], bit 1 = +1
};

// One weight matrix of a blob: packed (a view) or raw (numbers). Copies are cheap for packed ones
// and share the bytes; the view is valid while any copy lives.
struct PackedLayer {
  std::string name;  // canonical: blocks.B.attn.q, …, embed, head
  int64_t rows = 0, cols = 0;
  bool raw = false;
  kernels::PackedMatrix matrix;  // if not raw; kernels::Validate accepted it, exponents too
  std::shared_ptr<const std::vector<float>> weight;  // if raw: [rows, cols], finite, unrotated

  // What `matrix` points into.
  std::shared_ptr<const std::string> bytes;
  std::shared_ptr<const UnquantizedTensors> unquantized;
};

struct PackedHead {
  PackedLayer embed;                // int8/group or raw
  std::optional<PackedLayer> head;  // absent when the embedding is tied
};

// What a layer blob leaves to the package. `exponent_sets`: by q; a width that is not in it takes
// kernels::DefaultExponentTable. `unquantized` may be null for layers without rotation.
struct PackedContext {
  std::shared_ptr<const UnquantizedTensors> unquantized;
  std::map<int, kernels::ExponentTable> exponent_sets;
};

// `label` (a digest or a path) goes into messages.
// Checks that the blob holds all of PlainTensors(spec) in their sizes, F32, and that each
// "signs.K" is U32 [ceil(K/32)].
absl::StatusOr<std::shared_ptr<const UnquantizedTensors>> ParseUnquantized(
    std::string blob, const ArchitectureSpec& spec, absl::string_view label);

// A layer blob that must hold layer `name` of `rows` x `cols`.
absl::StatusOr<PackedLayer> ParsePackedLayer(std::string blob, absl::string_view name, int64_t rows,
                                             int64_t cols, const PackedContext& context,
                                             absl::string_view label);

// The head and embedding blob: "embed" and, unless spec.tied_embeddings, "head", each [vocab,
// embed_dim].
absl::StatusOr<PackedHead> ParsePackedHead(std::string blob, const ArchitectureSpec& spec,
                                           absl::string_view label);

// Rows [begin, end) of `layer` as unrotated float32, row-major [end - begin, cols].
void DequantizeLayerRows(const PackedLayer& layer, int64_t begin, int64_t end, float* out);

// PlainTensors(spec) by name, with their sizes.
std::map<std::string, int64_t> UnquantizedShapes(const ArchitectureSpec& spec);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_PACKED_PACKED_BLOB_H_
