// Turns one weight matrix into quantized candidates. Methods: shiftadd, lat, rtn, optq, acc. No
// LibTorch type appears here.
//
// Papers: ShiftAddLLM (arXiv 2406.05981), OPTQ (2210.17323), QuIP (2307.13304), QuaRot
// (2404.00456).
#ifndef SHIFTADD_WORKER_QUANTIZE_LAYER_QUANTIZER_H_
#define SHIFTADD_WORKER_QUANTIZE_LAYER_QUANTIZER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/quantize/hessian_accumulator.h"
#include "worker/quantize/quant_recipe.h"
#include "worker/reference/reference_model.h"

namespace shiftadd {

// What is left of a layer, summed over its rows, so that shards of rows can be added. D = W - What,
// all unrotated; H undamped and at its own scale, for each chunk of rows its own.
struct ErrorSums {
  double weight = 0;       // ||D||_F^2
  double weight_norm = 0;  // ||W||_F^2
  double output = 0;       // tr(D H D^T)
  double output_norm = 0;  // tr(W H W^T)
};

struct Candidate {
  int bits = 0;
  std::string blob;           // safetensors; see services/packaging/package_format.h
  uint64_t stored_bytes = 0;  // of planes, scales, exponents, offsets: the solver's cost
  double stored_bits = 0;     // a weight
  double weight_error = 0;    // sums.weight / sums.weight_norm
  double output_error = 0;    // sums.output / sums.output_norm
  double importance = 0;      // N * K * output_error
  // With guided Hessians the predicted increase of the loss, sums.output; otherwise 0.
  double guided_error = 0;
  // ShiftAddLLM's criterion of section 4.3: ||IS||_F var(IS), IS = W / diag(U) column by column, U
  // the factor the method works with (rotated and ordered as it is, H at its own scale). The same
  // for every width; 0 for rtn, which has no factor.
  double paper_criterion = 0;
  ErrorSums sums;
};

// Everything about an input that its layers and widths share: rotated, damped, factored Hessian.
// Immutable, thread-safe.
class PreparedHessian {
 public:
  virtual ~PreparedHessian() = default;
  // rtn needs no Hessian to quantize but uses it for output_error. Survives dead inputs and rank
  // deficiency. If every input is dead (no token was seen) all inputs count alike.
  static absl::StatusOr<std::shared_ptr<const PreparedHessian>> Create(const HessianMatrix& h,
                                                                       const QuantRecipe& recipe);
};

// Where a matrix stands that is a part of its layer's rows. The default: it is the whole layer.
struct LayerShard {
  int64_t row_begin = 0;
  int64_t layer_rows = 0;  // 0: as many as the matrix has
};

// Wall time of QuantizeLayer by stage; every call adds to it.
struct StageSeconds {
  double fit = 0;      // start and group loop
  double sweep = 0;    // coordinate descent and refits
  double measure = 0;  // packing, and the errors of what was packed
};

// Quantizes W [n, k] (row-major, unrotated, finite) at each of `bits` (1..8). `name` goes into
// blobs and messages. `chunks`: one Hessian for all rows, or C of them, chunk c of the layer's rows
// (ChunkBegin) with the c-th; each prepared for the same width and recipe. Only shiftadd takes
// wht128, scales, offset and sweeps, only acc butterflies. recipe.group: a multiple of 32, or <= 0:
// the whole row; lat shares a scale among 8 inputs x group/8 rows, acc among group rows of a
// column. Rows are split over `threads`; the bytes do not depend on it. `seconds` may be null. A
// scale that leaves fp16's range is an INVALID_ARGUMENT naming the tensor.
absl::StatusOr<std::vector<Candidate>> QuantizeLayer(
    const std::string& name, const std::vector<float>& w, int64_t n, int64_t k,
    const std::vector<std::shared_ptr<const PreparedHessian>>& chunks, const QuantRecipe& recipe,
    const std::vector<int>& bits, int threads, TaskControl* control,
    StageSeconds* seconds = nullptr, const LayerShard& shard = {});

// A layer of `n` rows may be cut into shards at multiples of this, and each quantized apart (with
// its LayerShard): JoinLayerBlobs makes the blob that all rows at once give. `n` if it cannot be
// cut.
int64_t RowAlignment(const QuantRecipe& recipe, int64_t n);

// Joins the blobs of a layer's shards, in row order. Byte for byte the blob of all rows at once.
// INVALID_ARGUMENT, naming the layer and the shard, if one is not a layer blob or does not suit the
// first.
absl::StatusOr<std::string> JoinLayerBlobs(const std::string& name,
                                           const std::vector<std::string>& blobs);

// Sign bits of the wht128 rotation for inputs of width k, [ceil(k/32)]: bit i is bit 0 of
// SHA-256("wht128" || le64 seed || le64 k || le64 i).
std::vector<uint32_t> RotationSigns(uint64_t seed, int64_t k);

inline constexpr int64_t kInt8GroupSize = 128;  // inputs a scale of int8/group

// Head or embedding as int8/group: codes [n, k], fp16 scales [n, ceil(k/128)].
struct Int8Matrix {
  std::vector<int8_t> codes;
  std::vector<uint16_t> scale;
};
absl::StatusOr<Int8Matrix> QuantizeInt8(const std::string& name, const std::vector<float>& w,
                                        int64_t n, int64_t k, int threads = 1);
// The same of a source's tensor, some rows at a time.
absl::StatusOr<Int8Matrix> QuantizeInt8(const WeightProvider& weights, const std::string& name,
                                        int64_t n, int64_t k, int threads);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_QUANTIZE_LAYER_QUANTIZER_H_
