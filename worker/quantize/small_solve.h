// Small symmetric positive definite systems, the normal equations of scale fits.
#ifndef SHIFTADD_WORKER_QUANTIZE_SMALL_SOLVE_H_
#define SHIFTADD_WORKER_QUANTIZE_SMALL_SOLVE_H_

namespace shiftadd::quantize {

inline constexpr int kMaxUnknowns = 9;  // eight planes and an offset

// Solves A x = b by Cholesky: `a` [r, r] row-major (its lower triangle is read, then overwritten),
// `b` [r] becomes x. False, with b all zero, if A is not positive definite or x is not finite. r <=
// kMaxUnknowns is not required.
bool SolveSpd(int r, double* a, double* b);

}  // namespace shiftadd::quantize

#endif  // SHIFTADD_WORKER_QUANTIZE_SMALL_SOLVE_H_
