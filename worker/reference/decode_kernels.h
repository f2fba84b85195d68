// The inner loops of decoding, for each instruction set: up to 16 sequences side by side, weights
// and cached keys and values in half precision, arithmetic in float.
//
// Activations are [features][kDecodeLanes], a lane a sequence. Every sum has one fixed order (for a
// product: along the input), whatever the instruction set, the number of sequences or the other
// sequences are, so a sequence is the same whichever it is decoded with. AVX2 and AVX-512 compute
// the same bits (fused multiply-add); the portable path rounds after every multiplication.
#ifndef SHIFTADD_WORKER_REFERENCE_DECODE_KERNELS_H_
#define SHIFTADD_WORKER_REFERENCE_DECODE_KERNELS_H_

#include <cstdint>

#include "kernels/cpu_linear.h"

namespace shiftadd::reference {

inline constexpr int kDecodeLanes = 16;

// One sequence and the heads that share its key/value head.
struct AttendArgs {
  const float* q;        // [group * dim][kDecodeLanes], at the sequence's lane; scaled and rotated
  const uint16_t* keys;  // [ceil(length / 16)][dim][16], a lane a position
  const uint16_t* values;  // [length][dim_padded], zeros behind dim
  int64_t group, dim;
  int64_t dim_padded;             // a multiple of 16
  int64_t seen;                   // positions, >= 1
  float* scores;                  // scratch [group][seen rounded up to 16]
  float* out;                     // as q
  int64_t first = 0;              // positions before are hidden
  float cap = 0;                  // above 0: scores become cap * tanh(score / cap)
  const float* slopes = nullptr;  // [group] or null: ALiBi's, score += slope * position
};

struct DecodeKernels {
  int lanes;  // rows of a panel; packed weights: [ceil(rows / lanes)][cols][lanes], zeros behind
              // rows
  // y [rows][kDecodeLanes] = W x, x [cols][kDecodeLanes]; lanes from `sequences` on are undefined.
  void (*multiply)(const uint16_t* w, int64_t rows, int64_t cols, const float* x, int sequences,
                   float* y);
  // The same product as y [sequences][rows].
  void (*multiply_out)(const uint16_t* w, int64_t rows, int64_t cols, const float* x, int sequences,
                       float* y);
  void (*attend)(const AttendArgs& args);
  // gate = silu(gate) * up, n numbers, a multiple of 16.
  void (*swiglu)(float* gate, const float* up, int64_t n);
};

// The given set or the best below it that this CPU has.
const DecodeKernels& DecodeKernelsFor(kernels::Isa isa);

// One of each unit; call DecodeKernelsFor.
const DecodeKernels& PortableDecodeKernels();
const DecodeKernels& Avx2DecodeKernels();
const DecodeKernels& Avx512DecodeKernels();

}  // namespace shiftadd::reference

#endif  // SHIFTADD_WORKER_REFERENCE_DECODE_KERNELS_H_
