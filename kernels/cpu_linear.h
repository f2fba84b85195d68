// y = x W^T with a packed W on the CPU.
//
// A CpuLinear is the matrix repacked for one instruction set. Activations are quantized per group
// to int8 digits first (one per input: A8, two: A16), so that every product is an integer sum,
// exact and the same on every instruction set; the few float operations after it are done in one
// fixed order without FMA. Results of different ISAs therefore agree bit for bit, and a row of y
// does not depend on M or on the other rows. No threads inside: callers split rows.
#ifndef SHIFTADD_KERNELS_CPU_LINEAR_H_
#define SHIFTADD_KERNELS_CPU_LINEAR_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/packed_matrix.h"

namespace shiftadd::kernels {

enum class Isa { kPortable, kAvx2, kAvx512 };  // kAvx512 needs BW, VL, VBMI and VNNI
enum class Precision { kA8, kA16 };

// The best this CPU has. The environment variable SHIFTADD_ISA=portable|avx2|avx512, read once,
// lowers it (never raises).
Isa DetectIsa();
// "portable", "avx2", "avx512".
const char* IsaName(Isa isa);

// Quantized activations of M tokens. Owned, reusable: buffers only grow. An activation group
// ("chunk") is the intersection of a weight group and a block of 128 inputs, so at most 128 inputs
// share a scale. A8: x ~ scale * digit. A16: x ~ scale * (255 * first digit + second digit). Digits
// are in [-127, 127].
struct Activations {
  int64_t m = 0, k = 0;
  int64_t group = 0;   // the weights'
  int64_t groups = 0;  // chunks
  Precision precision = Precision::kA8;
  int64_t k_padded = 0;            // row stride of digits: k rounded up to 128, padding is zero
  std::vector<int8_t> digits;      // [1 or 2, m, k_padded]; the second array: low digits of A16
  std::vector<float> scale;        // [m, groups]
  std::vector<float> sum;          // [m, groups]: digit_sum times scale
  std::vector<int32_t> digit_sum;  // [m, groups]: exact sums of the integers that x became
  std::vector<float> scratch;      // [k_padded]
};

// Says that `out` will hold m tokens of k inputs, and makes room for their digits. `group`: as in
// the matrix.
void ReserveActivations(int64_t m, int64_t k, int64_t group, Precision precision, Activations* out);

// Rotates (if `signs` is not null) and quantizes token `i` of what was reserved: x [k]. Tokens may
// be prepared on several threads at once, each with its own `scratch` [k_padded]. x must be finite
// (a chunk with another value gives nonsense, nothing worse).
void PrepareToken(const float* x, int64_t i, const uint32_t* signs, Isa isa, float* scratch,
                  Activations* out);

// Both, for all tokens of x [m, k] with row stride ldx.
void PrepareActivations(const float* x, int64_t ldx, int64_t m, int64_t k, int64_t group,
                        const uint32_t* signs, Precision precision, Isa isa, Activations* out);

// Immutable after construction; thread-safe.
class CpuLinear {
 public:
  virtual ~CpuLinear() = default;
  // Repacks `m` (copies; the view may go away). On a bad view returns null and sets *error.
  static std::unique_ptr<CpuLinear> Create(const PackedMatrix& m, Isa isa, std::string* error);

  // y[i * ldy + n] = sum_k x_ik w_nk for all i < a.m and row_begin <= n < row_end; writes no other
  // y. Work is done in tiles of 16 rows: split rows among threads at multiples of 16.
  // `a` must have been prepared with this matrix's k and group and its rotation's signs; another k
  // or number of activation groups gives NaN.
  virtual void Multiply(const Activations& a, int64_t row_begin, int64_t row_end, float* y,
                        int64_t ldy) const = 0;
  // The weights of one row in unrotated space, [k]: embedding gather.
  virtual void GatherRow(int64_t row, float* out) const = 0;

  virtual int64_t n() const = 0;
  virtual int64_t k() const = 0;
  virtual int64_t group() const = 0;
  virtual Rotation rotation() const = 0;
  virtual const uint32_t* signs() const = 0;  // null without rotation; owned
  virtual uint64_t bytes() const = 0;         // resident
};

}  // namespace shiftadd::kernels

#endif  // SHIFTADD_KERNELS_CPU_LINEAR_H_
