// Incoherence processing of a weight matrix and its Hessian, as ShiftAddLLM's released code does it
// around its column-wise form.
//
// Source: QuIP (arXiv 2307.13304).
#ifndef SHIFTADD_WORKER_QUANTIZE_INCOHERENCE_H_
#define SHIFTADD_WORKER_QUANTIZE_INCOHERENCE_H_

#include <cstdint>
#include <vector>

#include "worker/quantize/butterfly.h"

namespace shiftadd::quantize {

// One layer's: rescales inputs by s = (diag H / diag W^T W)^1/4, then rotates both sides by random
// orthogonal butterflies.
class Incoherence {
 public:
  // h [k, k]: undamped, symmetric, live diagonal. Afterwards h is H of the processed inputs, of
  // mean diagonal 1.01: H k / tr H + 0.01 I, rotated. w [n, k] afterwards is U_o W diag(s) V^T.
  Incoherence(int64_t n, int64_t k, uint64_t seed, std::vector<double>* h, std::vector<double>* w);
  // Back: w := U_o^T w V / s.
  void Undo(std::vector<double>* w) const;

 private:
  const int64_t n_, k_;
  const Butterfly outputs_, inputs_;
  std::vector<double> scale_;  // s
};

}  // namespace shiftadd::quantize

#endif  // SHIFTADD_WORKER_QUANTIZE_INCOHERENCE_H_
