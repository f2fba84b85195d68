#include "worker/reference/draw.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "worker/reference/exp_terms.h"

namespace shiftadd {

int64_t DrawFromSoftmax(const float* logits, int64_t n, double u) {
  float max = -std::numeric_limits<float>::infinity();
  for (int64_t i = 0; i < n; ++i) {
    if (std::isnan(logits[i])) return -1;
    max = std::max(max, logits[i]);
  }
  if (!std::isfinite(max)) return -1;

  // Sums of blocks first: the walk then looks at whole blocks, and adds in the very order of the
  // total.
  std::vector<double> weight(n), block_sum;
  ExpTerms(logits, n, max, weight.data());
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += kExpBlock) {
    block_sum.push_back(ExpSum(weight.data() + begin, std::min(kExpBlock, n - begin)));
    total += block_sum.back();
  }

  const double target = u * total;
  double before = 0;
  int64_t block = 0;
  const int64_t last_block = static_cast<int64_t>(block_sum.size()) - 1;
  while (block < last_block && before + block_sum[block] <= target) before += block_sum[block++];
  int64_t last_possible = -1;
  double inside = 0;
  for (int64_t i = block * kExpBlock; i < std::min(n, (block + 1) * kExpBlock); ++i) {
    inside += weight[i];
    if (weight[i] > 0) last_possible = i;
    if (target < before + inside) return i;
  }
  if (last_possible >= 0) return last_possible;  // rounding at the block's end
  for (int64_t i = std::min(n, (block + 1) * kExpBlock) - 1; i >= 0; --i) {
    if (weight[i] > 0) return i;
  }
  return -1;  // not reached: the largest logit has weight 1
}

}  // namespace shiftadd
