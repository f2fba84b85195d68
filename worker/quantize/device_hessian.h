// What DeviceHessian::Create makes. ATen types: include from .cc files of worker/quantize only.
#ifndef SHIFTADD_WORKER_QUANTIZE_DEVICE_HESSIAN_H_
#define SHIFTADD_WORKER_QUANTIZE_DEVICE_HESSIAN_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "worker/quantize/device_quantizer.h"

namespace shiftadd::quantize {

// The rotation D of kernels/rotation.h along the last dimension of a tensor.
class DeviceRotation {
 public:
  DeviceRotation() = default;
  DeviceRotation(int64_t k, const std::vector<uint32_t>& signs, at::Device device);
  // x [rows, k], fp32 or fp64 -> D x, D^T x: new tensors.
  at::Tensor Rotate(const at::Tensor& x) const;
  at::Tensor Unrotate(const at::Tensor& x) const;
  bool defined() const { return signs_.defined(); }

 private:
  at::Tensor Transform(const at::Tensor& x) const;  // the Hadamard matrices alone

  int64_t k_ = 0;
  at::Tensor signs_;     // [k] fp64, +-1
  at::Tensor hadamard_;  // [128, 128] fp64, of orthogonal rows; of fewer inputs its corner, scaled
};

class DeviceHessianImpl : public DeviceHessian {
 public:
  int64_t k = 0;
  int64_t group = 0;   // of the kernels: a multiple of 32, of whole rows k or a little more
  QuantRecipe recipe;  // what it was prepared for
  std::vector<uint32_t> signs;  // if rotated
  DeviceRotation rotation;
  double scale = 1.0;          // the mean of H's live diagonal, by which everything is divided
  double damping = 0.0;        // what Cholesky took: H_kk was raised by it
  at::Tensor dead;             // [number of dead inputs] int64
  bool weights_die = false;    // dead inputs' weights are 0 (not if all are dead)
  std::vector<int64_t> order;  // position -> input; empty: natural
  at::Tensor order_on_device, inverse;  // [k] int64, with `order`
  at::Tensor u, h;                      // [k, k] fp32: U, the damped H
  at::Tensor r;                         // [G, group, group] fp32: R_GG
};

inline const DeviceHessianImpl& Impl(const DeviceHessian& h) {
  return static_cast<const DeviceHessianImpl&>(h);
}

// L^-1 of a lower triangular L [k, k] fp64, zero above the diagonal, by halves: most of it is
// matrix products, which a triangular solve of a unit matrix does not see are half empty (H100, k =
// 14336: 41 ms against 78).
at::Tensor InvertLower(const at::Tensor& lower);

}  // namespace shiftadd::quantize

#endif  // SHIFTADD_WORKER_QUANTIZE_DEVICE_HESSIAN_H_
