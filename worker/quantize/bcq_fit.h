// Binary-coding quantization (BCQ) of one group of weights of any size: what method acc does to
// every group of every column.
//
// Source: ShiftAddLLM (arXiv 2406.05981), as its released code behaves: greedy start, then rounds
// of least squares, |alpha| sorted, additive powers of two, nearest sum. (The tiles of
// tile_kernels.h do the same for sixteen groups at once in fp32; here a group is sorted once, after
// which a round looks at the 2^q runs of equal codes instead of at every weight.)
#ifndef SHIFTADD_WORKER_QUANTIZE_BCQ_FIT_H_
#define SHIFTADD_WORKER_QUANTIZE_BCQ_FIT_H_

#include <cstdint>
#include <vector>

namespace shiftadd::quantize {

// Fits one group after the other; not thread-safe.
class BcqFitter {
 public:
  // q planes, 1 to 8; `rounds` of alternation (T); scales of `apot_terms` powers of two (A; 0:
  // any).
  BcqFitter(int q, int rounds, int apot_terms);

  // Fits w [n], finite, n >= 1, and writes the sum of scales nearest to each to what [n]; a weight
  // between two goes up.
  void Fit(const float* w, int64_t n, float* what);
  // The scales of the last fit, descending, [q].
  const std::vector<double>& alpha() const { return alpha_; }

 private:
  // A run of consecutive sorted weights that have one code.
  struct Run {
    int code;
    int64_t end;
  };
  void Greedy();
  void Assign();
  void Solve();
  double Level(int code) const;

  const int q_, rounds_, apot_terms_;
  std::vector<double> alpha_;
  std::vector<double> sorted_;  // the weights, ascending
  std::vector<double> prefix_;  // [n + 1]: sums of the first sorted weights
  std::vector<Run> runs_;
  std::vector<double> gram_, rhs_;
  std::vector<int64_t> index_;  // where sorted weights come from
};

}  // namespace shiftadd::quantize

#endif  // SHIFTADD_WORKER_QUANTIZE_BCQ_FIT_H_
