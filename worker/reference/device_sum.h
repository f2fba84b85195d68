// InputSum as a tensor where the model runs. ATen types: include from .cc files of worker/reference
// and worker/quantize only.
#ifndef SHIFTADD_WORKER_REFERENCE_DEVICE_SUM_H_
#define SHIFTADD_WORKER_REFERENCE_DEVICE_SUM_H_

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <utility>
#include <vector>

#include "worker/reference/reference_model.h"

namespace shiftadd::reference {

// INVALID_ARGUMENT: other token weights than for every token of h.
absl::Status CheckGiven(const std::vector<InputToSum>& sums, const HiddenStates& h);
// x [tokens, k] bf16, of sequences of `length` from `first` on, as tokens are weighed: sqrt(s_t)
// x_t, in bf16.
at::Tensor Weighed(const InputToSum& sum, int64_t first, int64_t length, const at::Tensor& x);

class DeviceSum : public InputSum {
 public:
  DeviceSum(int64_t k, at::Device device) : k_(k), device_(device) {}

  // x [tokens, k], s [tokens, 1]: each product in fp32, all of it.
  void Add(const at::Tensor& x, const at::Tensor& s);
  // y [tokens, k], fp16 or bf16: adds y^T y, each product of two numbers exact, their sums in fp32
  // over the call's tokens; band by band of the upper triangle. Called again with the same y after
  // it threw, it adds the bands that are missing.
  void AddSquare(const at::Tensor& y);

  absl::StatusOr<std::vector<double>> Take() override;
  absl::StatusOr<bool> Finite() override;
  absl::StatusOr<bool> Zero() override;
  int64_t width() const override { return k_; }

  // For tests: instead of what was added, `values` [k, k].
  void Set(const at::Tensor& values) { sum_ = values.to(device_).clone(); }
  // [k, k] fp64, of which the upper triangle holds; spent by the caller. Zeros if nothing was
  // added.
  at::Tensor Release();

 private:
  void Make();

  const int64_t k_;
  const at::Device device_;
  at::Tensor sum_;     // made when first added to
  int64_t added_ = 0;  // columns of an AddSquare that is not over
};

}  // namespace shiftadd::reference

#endif  // SHIFTADD_WORKER_REFERENCE_DEVICE_SUM_H_
