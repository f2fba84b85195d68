// Turns one weight matrix into packed candidates. Methods: rtn, lat, shiftadd. No LibTorch type
// appears here.
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
#include "worker/reference/reference_model.h"

namespace shiftadd {

enum class QuantMethod { kShiftAdd, kLat, kRtn };
enum class QuantScales { kShift, kFree };
enum class QuantRotation { kNone, kWht128 };
enum class QuantHessian { kPlain, kRms };
enum class QuantOrder { kNatural, kGar };

// Every default filled in; validated by the caller (services/coordinator/recipe.h says what is
// allowed).
struct QuantRecipe {
  QuantMethod method = QuantMethod::kShiftAdd;
  QuantScales scales = QuantScales::kShift;
  bool offset = false;
  QuantRotation rotation = QuantRotation::kWht128;
  QuantHessian hessian = QuantHessian::kRms;
  QuantOrder order = QuantOrder::kNatural;
  int64_t group = 128;
  double damping = 0.01;
  int rounds = 15;       // T
  int inner_rounds = 4;  // T_in
  int apot_terms = 3;    // A, lat only
  uint64_t seed = 0;
};

// Second moments of a layer's input: h = sum_t s_t x_t x_t^T / tokens, [k, k] row-major, symmetric.
struct HessianMatrix {
  int64_t k = 0;
  int64_t tokens = 0;
  std::vector<double> h;
};

// Sums H over sequences. Add may be called from several threads with sequences in any order; the
// result is the sum in sequence order, so the same bytes come out for any number of threads.
class HessianAccumulator {
 public:
  virtual ~HessianAccumulator() = default;
  static std::unique_ptr<HessianAccumulator> Create(int64_t k, QuantHessian kind);
  virtual void Add(int64_t sequence, const float* x, int64_t tokens) = 0;
  // INVALID_ARGUMENT if an input was not finite; FAILED_PRECONDITION if a sequence index is
  // missing.
  virtual absl::StatusOr<HessianMatrix> Finish() = 0;
};

struct Candidate {
  int bits = 0;
  std::string blob;           // safetensors; see services/packaging/package_format.h
  uint64_t stored_bytes = 0;  // of planes, scales, exponents, offsets: the solver's cost
  double stored_bits = 0;     // a weight
  double weight_error = 0;    // ||W - What||_F^2 / ||W||_F^2, both unrotated
  double output_error = 0;    // tr(D H D^T) / tr(W H W^T), undamped H
  double importance = 0;      // N * K * output_error
};

// Everything about an input that its layers and widths share: rotated, damped, factored Hessian.
// Immutable, thread-safe.
class PreparedHessian {
 public:
  virtual ~PreparedHessian() = default;
  // rtn needs no Hessian to quantize but uses it for output_error. Survives dead inputs and rank
  // deficiency.
  static absl::StatusOr<std::shared_ptr<const PreparedHessian>> Create(const HessianMatrix& h,
                                                                       const QuantRecipe& recipe);
};

// Quantizes W [n, k] (row-major, unrotated, finite) at each of `bits` (1..8). `name` goes into
// blobs and messages. `h` must have been prepared for the same width and recipe. Only shiftadd
// rotates; only it uses scales, offset and order. recipe.group: a multiple of 32, or the whole row
// (<= 0 or >= k); lat shares a scale among 8 inputs x group/8 rows. Rows are split over `threads`;
// the bytes do not depend on it. A scale that leaves fp16's range is an INVALID_ARGUMENT naming the
// tensor.
absl::StatusOr<std::vector<Candidate>> QuantizeLayer(const std::string& name,
                                                     const std::vector<float>& w, int64_t n,
                                                     int64_t k, const PreparedHessian& h,
                                                     const QuantRecipe& recipe,
                                                     const std::vector<int>& bits, int threads,
                                                     TaskControl* control);

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
                                        int64_t n, int64_t k);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_QUANTIZE_LAYER_QUANTIZER_H_
