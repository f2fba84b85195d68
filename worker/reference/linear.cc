#include "worker/reference/linear.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/List.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <c10/core/InferenceMode.h>

#include <memory>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/reference/device_tensors.h"

namespace shiftadd::reference {
namespace {

using LinearOp = at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&,
                            std::string_view, c10::List<std::optional<at::Scalar>>,
                            std::optional<std::string_view>);
using ReorderOp = at::Tensor(const at::Tensor&, std::optional<int64_t>);

// These two have no C++ wrapper in ATen's headers: they are reached through the dispatcher.
const c10::TypedOperatorHandle<LinearOp>& OneDnnLinear() {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("mkldnn::_linear_pointwise", "")
                             .typed<LinearOp>();
  return op;
}

const c10::TypedOperatorHandle<ReorderOp>& OneDnnReorder() {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("mkldnn::_reorder_linear_weight", "")
                             .typed<ReorderOp>();
  return op;
}

}  // namespace

at::Tensor TensorFromVector(std::vector<float> values, at::IntArrayRef shape) {
  auto owner = std::make_unique<std::vector<float>>(std::move(values));
  float* data = owner->data();
  return at::from_blob(
      data, shape, [owner = owner.release()](void*) { delete owner; }, at::kFloat);
}

absl::StatusOr<at::Tensor> ReadTensor(const WeightProvider& weights, const std::string& name,
                                      at::IntArrayRef shape, at::Device device) {
  const c10::InferenceMode normal(false);
  if (shape.size() == 2 && weights.HasRows(name)) {
    // Into memory that nothing has set to zero before.
    const at::Tensor values = at::empty(shape, at::kFloat);
    SA_RETURN_IF_ERROR(
        weights.ReadRows(name, shape[0], shape[1], 0, shape[0], values.mutable_data_ptr<float>()));
    return values.to(device);
  }
  SA_ASSIGN_OR_RETURN(std::vector<float> values, weights.Read(name));
  int64_t expected = 1;
  for (int64_t d : shape) expected *= d;
  if (static_cast<int64_t>(values.size()) != expected) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", name, ": ", values.size(), " elements, expected ", expected));
  }
  return TensorFromVector(std::move(values), shape).to(device);
}

at::Tensor Linear::Product(const at::Tensor& a, const at::Tensor& b) const {
  const at::Tensor rounded = a.to(at::kBFloat16);
  // Of two bf16 numbers the product is exact in fp32.
  return a.is_cpu() ? at::mm(rounded.to(at::kFloat), b.to(at::kFloat))
                    : at::mm(rounded, b, at::kFloat);
}

at::Tensor Linear::operator()(const at::Tensor& x) const {
  if (weight_.scalar_type() == at::kBFloat16) {
    at::Tensor y = Product(x, weight_.t());
    return bias_.has_value() ? y.add_(*bias_) : y;
  }
  if (!weight_.is_cpu()) return at::linear(x, weight_, bias_);
  return OneDnnLinear().call(x, weight_, bias_, "none", c10::List<std::optional<at::Scalar>>(), "");
}

at::Tensor Linear::InputGradient(const at::Tensor& g) const {
  if (weight_.scalar_type() == at::kBFloat16) return Product(g, weight_);
  if (!weight_.is_cpu()) return at::mm(g, weight_);
  return OneDnnLinear().call(g, weight_.t(), std::nullopt, "none",
                             c10::List<std::optional<at::Scalar>>(), "");
}

void Linear::Pack(int64_t tokens) { weight_ = OneDnnReorder().call(weight_, tokens); }

absl::StatusOr<Linear> ReadLinear(const WeightProvider& weights, const std::string& name,
                                  int64_t rows, int64_t cols, bool bias, at::Device device,
                                  at::ScalarType type) {
  at::Tensor weight;
  if (type == at::kFloat && device.is_cpu()) {
    SA_ASSIGN_OR_RETURN(weight, ReadTensor(weights, name, {rows, cols}, device));
  } else {
    SA_ASSIGN_OR_RETURN(weight, ReadToDevice(weights, name, {rows, cols}, type, device));
  }
  if (!bias) return Linear(std::move(weight), std::nullopt);
  SA_ASSIGN_OR_RETURN(at::Tensor values,
                      ReadTensor(weights, absl::StrCat(name, ".bias"), {rows}, device));
  return Linear(std::move(weight), std::move(values));
}

}  // namespace shiftadd::reference
