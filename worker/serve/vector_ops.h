// The float loops between the packed products: norm, SwiGLU, RoPE, attention, log-probabilities.
//
// One source (vector_ops_body.inc) is compiled for each instruction set. All of them do the same
// IEEE operations in the same order (16 partial sums, no FMA, an own exp), so results do not depend
// on the machine.
#ifndef SHIFTADD_WORKER_SERVE_VECTOR_OPS_H_
#define SHIFTADD_WORKER_SERVE_VECTOR_OPS_H_

#include <cstdint>

#include "kernels/cpu_linear.h"

namespace shiftadd {

// Keys and values of this many tokens lie together (see AttentionTile).
inline constexpr int64_t kPageTokens = 32;
// Query rows that share one pass over keys and values.
inline constexpr int kTileRows = 4;

// Some query rows of one sequence and one key/value head.
struct AttentionTile {
  int rows = 0;                   // 1..kTileRows
  const float* query[kTileRows];  // [head_dim], RoPE applied
  int64_t length[kTileRows];      // keys that the row sees, >= 1
  int64_t first[kTileRows] = {};  // but for those before, < length
  float slope[kTileRows] = {};    // ALiBi's: lowers the score of a key at distance d by slope * d
  float* out[kTileRows];          // [head_dim]
  // A page each, of floats or of IEEE halves: [head_dim][kPageTokens], [kPageTokens][value_stride].
  const void* const* keys;
  const void* const* values;
  bool halves = false;
  int64_t head_dim = 0;
  float scale = 0;           // of scores
  float cap = 0;             // above 0: scaled scores become cap * tanh(score / cap)
  int64_t value_stride = 0;  // head_dim rounded up to 16; the padding is zero
  float* scratch = nullptr;  // kTileRows * score_stride floats
  int64_t score_stride = 0;  // the longest length, rounded up to kPageTokens
};

// Buffers may have any alignment. Nothing here allocates; all functions are thread-safe.
struct VectorOps {
  // out = x / sqrt(mean(x^2) + eps) * weight. `out` may be x.
  void (*rms_norm)(const float* x, const float* weight, double eps, int64_t n, float* out);
  // out = (x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) * weight + bias. `out` may be x.
  void (*layer_norm)(const float* x, const float* weight, const float* bias, double eps, int64_t n,
                     float* out);
  // out = silu(gate) * up. `out` may be gate.
  void (*silu_mul)(const float* gate, const float* up, int64_t n, float* out);
  // out = gelu(gate) * up, GELU by its tanh formula, or relu(gate) * up; `up` may be null: 1.
  void (*gelu_mul)(const float* gate, const float* up, int64_t n, float* out);
  void (*relu_mul)(const float* gate, const float* up, int64_t n, float* out);
  // x = cap * tanh(x / cap)
  void (*soft_cap)(float* x, int64_t n, float cap);
  // x += y
  void (*add)(float* x, const float* y, int64_t n);
  // sum of x * y
  float (*dot)(const float* x, const float* y, int64_t n);
  // Rotates the halves of x [2 * half]: (a, b) -> (a cos - b sin, b cos + a sin).
  void (*rope)(float* x, const float* cos, const float* sin, int64_t half);
  // softmax(query keys * scale …) values.
  void (*attend)(const AttentionTile& tile);
  // IEEE halves, rounded to nearest, even; beyond their range and NaN: the largest half.
  void (*to_halves)(const float* x, int64_t n, uint16_t* out);
  // The largest; NaNs are left out, -infinity if nothing else is there.
  float (*maximum)(const float* x, int64_t n);
  // exp((x - maximum) * scale), 0 for NaN and below exp(-80): into `out` unless that is null, and
  // their sum. For some thousand numbers: the sum is a float's.
  float (*softmax_weights)(const float* x, int64_t n, float maximum, float scale, float* out);
  // log(sum(exp(x))); NaNs count as -infinity. -infinity if nothing is finite.
  double (*log_sum_exp)(const float* x, int64_t n);
};

// The fastest form for `isa` that this build has.
const VectorOps& VectorOpsFor(kernels::Isa isa);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_SERVE_VECTOR_OPS_H_
