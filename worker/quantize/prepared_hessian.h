// What PreparedHessian::Create makes: the form of H in which the methods and the error measures use
// it.
#ifndef SHIFTADD_WORKER_QUANTIZE_PREPARED_HESSIAN_H_
#define SHIFTADD_WORKER_QUANTIZE_PREPARED_HESSIAN_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/quantize/factor.h"
#include "worker/quantize/layer_quantizer.h"
#include "worker/quantize/panel_matrix.h"

namespace shiftadd::quantize {

// A damped H and its factor, in processing order, cut into groups of consecutive positions, in
// fp32.
struct LoopFactor {
  struct Group {
    int64_t begin = 0, size = 0;  // positions
    std::vector<float> r;         // [size, size]: R_GG, upper
    std::vector<float> u;         // [size, size]: U_GG, upper
    std::vector<float> omega;     // [size]: the diagonal of R_GG R_GG^T
  };
  int64_t k = 0;
  PanelMatrix u;                  // [k, k]: U, upper; empty if there is only one group
  std::vector<float> u_diagonal;  // [k]
  PanelMatrix h;                  // [k, k]: the damped H itself; only if there are sweeps
  std::vector<Group> groups;
};
LoopFactor MakeLoopFactor(const Factor& factor, int64_t group);

class PreparedHessianImpl : public PreparedHessian {
 public:
  QuantMethod method = QuantMethod::kShiftAdd;
  QuantOrder order_kind = QuantOrder::kNatural;
  int64_t k = 0;
  int64_t group = 0;  // inputs a group of the loop; for lat the 128 columns of its blocks
  bool rotated = false;
  uint64_t seed = 0;
  std::vector<uint32_t> signs;  // if rotated
  std::vector<uint8_t> dead;    // [k]: inputs that are always 0
  double scale = 1.0;  // the mean of H's live diagonal, by which everything here is divided
  // Undamped H / scale with 1 for dead inputs, [k, k]: only for acc with rotation, which makes its
  // factors layer by layer.
  std::vector<double> moments;
  // Undamped H / scale, neither rotated nor ordered, upper triangle with
  // off-diagonal entries doubled: x H x^T = sum_{i <= j} x_i x_j quad[i, j]. [k, k]
  PanelMatrix quad;
  // The rest is empty for rtn, which works without. Position p processes input order[p] (of the
  // rotated input, if rotated).
  std::vector<int64_t> order;
  LoopFactor factor;

  // A row of weights as the loops see it: dead inputs 0, rotated, in processing order. [k]
  void LoadRow(const float* w, float* out) const;
};

// PreparedHessian::Create.
absl::StatusOr<std::shared_ptr<const PreparedHessian>> Prepare(const HessianMatrix& h,
                                                               const QuantRecipe& recipe);

// The implementation behind `h`; every PreparedHessian is one.
inline const PreparedHessianImpl& Impl(const PreparedHessian& h) {
  return static_cast<const PreparedHessianImpl&>(h);
}

// inputs a group: `group` itself, or k for a whole row (group <= 0 or > k).
inline int64_t EffectiveGroup(int64_t group, int64_t k) {
  return group <= 0 || group > k ? k : group;
}

// Processing orders for the diagonal of an undamped H. GAR: full groups by descending mean, inputs
// likewise inside, a short group last; ties by lower index.
std::vector<int64_t> GarOrder(const std::vector<double>& diagonal, int64_t group);
// Whole blocks of 8 inputs by descending sum, a short block last.
std::vector<int64_t> Block8Order(const std::vector<double>& diagonal);
// Single inputs, descending.
std::vector<int64_t> DiagonalOrder(const std::vector<double>& diagonal);

// A factor in an order of its own, for loops over single columns.
struct OrderedFactor {
  std::vector<int64_t> order;
  LoopFactor factor;
};
// Orders h [k, k] by DiagonalOrder and factors it after adding damping times its mean diagonal.
absl::StatusOr<OrderedFactor> FactorByDiagonal(std::vector<double> h, int64_t k, double damping);

}  // namespace shiftadd::quantize

#endif  // SHIFTADD_WORKER_QUANTIZE_PREPARED_HESSIAN_H_
