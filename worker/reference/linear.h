// y = x W^T + b, in fp32 or with products in bf16. ATen types: include from .cc files of
// worker/reference only.
#ifndef SHIFTADD_WORKER_REFERENCE_LINEAR_H_
#define SHIFTADD_WORKER_REFERENCE_LINEAR_H_

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/model/model_source.h"

namespace shiftadd::reference {

// A tensor on the CPU that owns `values` and shares no memory with others. No copy.
at::Tensor TensorFromVector(std::vector<float> values, at::IntArrayRef shape);

// Reads `name` and checks its size: INVALID_ARGUMENT names it. Not an inference tensor, so that
// autograd may see it.
absl::StatusOr<at::Tensor> ReadTensor(const WeightProvider& weights, const std::string& name,
                                      at::IntArrayRef shape, at::Device device = at::kCPU);

// Immutable but for Pack; thread-safe. With a weight in bf16 the other factor of each product is
// rounded to bf16 as well, and products are summed in fp32; what comes in and goes out is fp32 all
// the same, and so is the bias.
class Linear {
 public:
  Linear() = default;
  Linear(at::Tensor weight, std::optional<at::Tensor> bias)
      : weight_(std::move(weight)), bias_(std::move(bias)) {}

  // x [tokens, in], contiguous -> a new contiguous [tokens, out]. On the CPU it goes to oneDNN: on
  // CPUs that are not Intel's, MKL leaves half of AVX-512 unused (measured on Zen 5, 512 tokens:
  // 200 against 85 GFLOP/s a core).
  at::Tensor operator()(const at::Tensor& x) const;

  // The gradient at x, given the gradient at the output, g [tokens, out]: g W, [tokens, in]. Not
  // after Pack.
  at::Tensor InputGradient(const at::Tensor& g) const;

  // Reorders the weight for products with `tokens` rows; any other number then costs a reorder each
  // time. Frees the plain form.
  void Pack(int64_t tokens);

  bool loaded() const { return weight_.defined(); }

 private:
  at::Tensor Product(const at::Tensor& a, const at::Tensor& b) const;  // a b, in bf16

  at::Tensor weight_;  // [out, in], or oneDNN's opaque form of it
  std::optional<at::Tensor> bias_;
};

// Reads weight `name` [rows, cols], as fp32 or bf16, and, if `bias`, its bias.
absl::StatusOr<Linear> ReadLinear(const WeightProvider& weights, const std::string& name,
                                  int64_t rows, int64_t cols, bool bias,
                                  at::Device device = at::kCPU, at::ScalarType type = at::kFloat);

}  // namespace shiftadd::reference

#endif  // SHIFTADD_WORKER_REFERENCE_LINEAR_H_
