// HessianAccumulator: per-sequence partial products in fp32, summed in fp64 in sequence order.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "worker/quantize/layer_quantizer.h"

namespace shiftadd {
namespace {

constexpr int64_t kColumnBlock = 512;

// 1 / mean(x^2), and 0 for a token of zeros (or one so small that its inverse is not a float).
float RmsWeight(const float* x, int64_t k) {
  double sum = 0.0;
  for (int64_t i = 0; i < k; ++i) sum += static_cast<double>(x[i]) * x[i];
  const double weight = sum > 0.0 ? static_cast<double>(k) / sum : 0.0;
  return weight < 1e30 ? static_cast<float>(weight) : 0.0f;
}

bool AllFinite(const float* x, int64_t count) {
  float probe = 0.0f;  // 0 * x is NaN for NaN and infinity
  for (int64_t i = 0; i < count; ++i) probe += 0.0f * x[i];
  return probe == 0.0f;
}

// X^T diag(s) X in fp32, upper triangle (whole blocks of columns). [k, k]
std::vector<float> Product(const float* x, int64_t tokens, int64_t k, QuantHessian kind) {
  const c10::InferenceMode guard;
  std::vector<float> out(k * k, 0.0f);
  at::Tensor plain = at::from_blob(const_cast<float*>(x), {tokens, k}, at::kFloat);
  at::Tensor scaled = plain;
  std::vector<float> copy;
  if (kind == QuantHessian::kRms) {
    copy.assign(x, x + tokens * k);
    for (int64_t t = 0; t < tokens; ++t) {
      const float s = RmsWeight(x + t * k, k);
      for (int64_t i = 0; i < k; ++i) copy[t * k + i] *= s;
    }
    scaled = at::from_blob(copy.data(), {tokens, k}, at::kFloat);
  }
  for (int64_t begin = 0; begin < k; begin += kColumnBlock) {
    const int64_t size = std::min(kColumnBlock, k - begin);
    const at::Tensor block =
        at::mm(scaled.narrow(1, begin, size).t(), plain.narrow(1, begin, k - begin)).contiguous();
    const float* from = block.data_ptr<float>();
    for (int64_t i = 0; i < size; ++i) {
      std::copy_n(from + i * (k - begin), k - begin, out.data() + (begin + i) * k + begin);
    }
  }
  return out;
}

class Accumulator : public HessianAccumulator {
 public:
  Accumulator(int64_t k, QuantHessian kind) : k_(k), kind_(kind), sum_(k * k, 0.0) {}

  void Add(int64_t sequence, const float* x, int64_t tokens) override {
    at::set_num_threads(1);  // a product must not depend on the number of cores
    if (!AllFinite(x, tokens * k_)) {
      std::lock_guard<std::mutex> lock(mutex_);
      if (not_finite_ < 0 || sequence < not_finite_) not_finite_ = sequence;
      return;
    }
    std::vector<float> part = Product(x, tokens, k_, kind_);
    std::lock_guard<std::mutex> lock(mutex_);
    if (sequence < next_ || !waiting_.emplace(sequence, Part{std::move(part), tokens}).second) {
      duplicate_ = sequence;
      return;
    }
    for (auto it = waiting_.find(next_); it != waiting_.end(); it = waiting_.find(next_)) {
      for (int64_t i = 0; i < k_; ++i) {
        for (int64_t j = i; j < k_; ++j) sum_[i * k_ + j] += it->second.product[i * k_ + j];
      }
      tokens_ += it->second.tokens;
      waiting_.erase(it);
      ++next_;
    }
  }

  absl::StatusOr<HessianMatrix> Finish() override {
    std::lock_guard<std::mutex> lock(mutex_);
    if (not_finite_ >= 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("Hessian: an input of sequence ", not_finite_, " is not a finite number"));
    }
    if (duplicate_ >= 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("Hessian: sequence ", duplicate_, " was added twice"));
    }
    if (!waiting_.empty() || tokens_ == 0) {
      return absl::FailedPreconditionError(absl::StrCat(
          "Hessian: sequence ", next_, " is missing; ", waiting_.size(), " later ones were added"));
    }
    HessianMatrix out;
    out.k = k_;
    out.tokens = tokens_;
    out.h.resize(k_ * k_);
    for (int64_t i = 0; i < k_; ++i) {
      for (int64_t j = i; j < k_; ++j) {
        const double value = sum_[i * k_ + j] / static_cast<double>(tokens_);
        if (!std::isfinite(value)) {
          return absl::InvalidArgumentError(absl::StrCat(
              "Hessian: inputs ", i, " and ", j, " are so large that their product is not finite"));
        }
        out.h[i * k_ + j] = out.h[j * k_ + i] = value;
      }
    }
    return out;
  }

 private:
  struct Part {
    std::vector<float> product;
    int64_t tokens;
  };
  const int64_t k_;
  const QuantHessian kind_;
  std::mutex mutex_;
  std::vector<double> sum_;  // upper triangle
  int64_t tokens_ = 0;
  int64_t next_ = 0;
  int64_t not_finite_ = -1;
  int64_t duplicate_ = -1;
  // Sequences that came before their turn. Callers take sequences in order, so there are at most as
  // many as threads.
  std::map<int64_t, Part> waiting_;
};

}  // namespace

std::unique_ptr<HessianAccumulator> HessianAccumulator::Create(int64_t k, QuantHessian kind) {
  return std::make_unique<Accumulator>(k, kind);
}

}  // namespace shiftadd
