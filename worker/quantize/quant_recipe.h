// How a layer is quantized: the worker's form of the wire's Recipe, every default filled in.
#ifndef SHIFTADD_WORKER_QUANTIZE_QUANT_RECIPE_H_
#define SHIFTADD_WORKER_QUANTIZE_QUANT_RECIPE_H_

#include <cstdint>

namespace shiftadd {

enum class QuantMethod { kShiftAdd, kLat, kRtn, kAcc, kOptq };
enum class QuantScales { kShift, kFree };
enum class QuantRotation { kNone, kWht128, kButterfly };  // butterfly: acc only
enum class QuantHessian { kPlain, kRms, kGuided };
enum class QuantOrder { kNatural, kGar };

// Validated by the caller (services/job/recipe.h says what is allowed).
struct QuantRecipe {
  QuantMethod method = QuantMethod::kShiftAdd;
  QuantScales scales = QuantScales::kShift;
  bool offset = false;
  QuantRotation rotation = QuantRotation::kWht128;
  QuantHessian hessian = QuantHessian::kGuided;
  QuantOrder order = QuantOrder::kNatural;
  int64_t group = 128;  // inputs that share a scale; <= 0: the whole row
  double damping = 0.01;
  int rounds = 15;       // T
  int inner_rounds = 4;  // T_in
  int sweeps = 2;        // of coordinate descent and joint refit; shiftadd only
  int chunks = 1;        // C, row chunks with a Hessian each
  int apot_terms = 3;    // A, lat and acc; 0: free scales
  uint64_t seed = 0;
};

// Chunk c of C of a layer's rows is [ChunkBegin(c), ChunkBegin(c + 1)).
inline int64_t ChunkBegin(int64_t rows, int64_t chunks, int64_t c) { return rows * c / chunks; }

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_QUANTIZE_QUANT_RECIPE_H_
