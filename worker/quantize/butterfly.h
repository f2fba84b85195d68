// Random orthogonal matrices that are cheap to apply, for incoherence processing.
//
// Source: QuIP (arXiv 2307.13304): with n = p q, a random permutation, then q random orthogonal
// p x p matrices, one for each residue, p random orthogonal q x q ones, one for each block, and
// another permutation.
#ifndef SHIFTADD_WORKER_QUANTIZE_BUTTERFLY_H_
#define SHIFTADD_WORKER_QUANTIZE_BUTTERFLY_H_

#include <cstdint>
#include <vector>

namespace shiftadd::quantize {

// Immutable, thread-safe. A function of (n, seed, stream) alone, on every machine.
class Butterfly {
 public:
  // `stream` tells apart matrices of one seed.
  Butterfly(int64_t n, uint64_t seed, uint64_t stream);

  // x := B x, or x := B^T x, for the n numbers x[0], x[stride], ...
  void Apply(double* x, int64_t stride) const;
  void ApplyTransposed(double* x, int64_t stride) const;

 private:
  int64_t n_, p_, q_;
  std::vector<int64_t> in_, out_;
  std::vector<double> across_;  // [q, p, p]
  std::vector<double> within_;  // [p, q, q]
};

}  // namespace shiftadd::quantize

#endif  // SHIFTADD_WORKER_QUANTIZE_BUTTERFLY_H_
