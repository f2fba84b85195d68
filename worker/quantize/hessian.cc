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
#include "services/base/status_macros.h"
#include "worker/quantize/hessian_accumulator.h"

namespace shiftadd {
namespace {

constexpr int64_t kColumnBlock = 192;  // narrower: less below the diagonal; wider: better products

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

// The tokens' weights, s_t.
std::vector<float> TokenWeights(const float* x, int64_t tokens, int64_t k, QuantHessian kind,
                                const float* weights) {
  std::vector<float> s(tokens, 1.0f);
  for (int64_t t = 0; t < tokens; ++t) {
    if (kind == QuantHessian::kRms) s[t] = RmsWeight(x + t * k, k);
    if (kind == QuantHessian::kGuided) s[t] = weights[t];
  }
  return s;
}

// X^T diag(s) X in fp32, its upper triangle as bands of rows: band b holds rows from b *
// kColumnBlock on, and of them the columns from there on.
std::vector<at::Tensor> Product(const float* x, int64_t tokens, int64_t k,
                                const std::vector<float>& weights) {
  const c10::InferenceMode guard;
  const at::Tensor plain = at::from_blob(const_cast<float*>(x), {tokens, k}, at::kFloat);
  std::vector<float> copy(tokens * k);
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t i = 0; i < k; ++i) copy[t * k + i] = weights[t] * x[t * k + i];
  }
  const at::Tensor scaled = at::from_blob(copy.data(), {tokens, k}, at::kFloat);
  std::vector<at::Tensor> bands;
  for (int64_t begin = 0; begin < k; begin += kColumnBlock) {
    const int64_t size = std::min(kColumnBlock, k - begin);
    bands.push_back(
        at::mm(scaled.narrow(1, begin, size).t(), plain.narrow(1, begin, k - begin)).contiguous());
  }
  return bands;
}

// sum [k, k] += the product, upper triangle.
void AddProduct(const std::vector<at::Tensor>& bands, int64_t k, double* sum) {
  for (size_t b = 0; b < bands.size(); ++b) {
    const int64_t begin = static_cast<int64_t>(b) * kColumnBlock, width = k - begin;
    const float* from = bands[b].data_ptr<float>();
    for (int64_t i = 0; i < bands[b].size(0); ++i) {
      double* const row = sum + (begin + i) * k + begin;
      for (int64_t j = i; j < width; ++j) row[j] += from[i * width + j];
    }
  }
}

class Accumulator : public HessianAccumulator {
 public:
  Accumulator(int64_t k, QuantHessian kind) : k_(k), kind_(kind), sum_(k * k, 0.0) {}

  void Add(int64_t sequence, const float* x, int64_t tokens, const float* weights) override {
    at::set_num_threads(1);  // a product must not depend on the number of cores
    const std::string wrong = Problem(x, tokens, weights);
    std::vector<at::Tensor> part;
    if (wrong.empty()) {
      part = Product(x, tokens, k_, TokenWeights(x, tokens, k_, kind_, weights));
    }
    std::lock_guard<std::mutex> lock(mutex_);
    if (!wrong.empty()) {
      if (wrong_.empty() || sequence < wrong_sequence_) {
        wrong_ = wrong;
        wrong_sequence_ = sequence;
      }
      return;
    }
    if (sequence < next_ || !waiting_.emplace(sequence, Part{std::move(part), tokens}).second) {
      duplicate_ = sequence;
      return;
    }
    for (auto it = waiting_.find(next_); it != waiting_.end(); it = waiting_.find(next_)) {
      AddProduct(it->second.product, k_, sum_.data());
      tokens_ += it->second.tokens;
      waiting_.erase(it);
      ++next_;
    }
  }

  absl::StatusOr<HessianSum> FinishSum() override {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!wrong_.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("Hessian: sequence ", wrong_sequence_, ": ", wrong_));
    }
    if (duplicate_ >= 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("Hessian: sequence ", duplicate_, " was added twice"));
    }
    if (!waiting_.empty() || next_ == 0) {
      return absl::FailedPreconditionError(absl::StrCat(
          "Hessian: sequence ", next_, " is missing; ", waiting_.size(), " later ones were added"));
    }
    return HessianSum{k_, tokens_, std::move(sum_)};
  }

 private:
  struct Part {
    std::vector<at::Tensor> product;
    int64_t tokens;
  };

  // Empty if the sequence can be added.
  std::string Problem(const float* x, int64_t tokens, const float* weights) const {
    if (!AllFinite(x, tokens * k_)) return "an input is not a finite number";
    if (kind_ != QuantHessian::kGuided) return "";
    if (weights == nullptr) return "guided, but without token weights";
    for (int64_t t = 0; t < tokens; ++t) {
      if (std::isfinite(weights[t]) && weights[t] >= 0.0f) continue;
      return absl::StrCat("the weight of token ", t, " is ", weights[t],
                          ", expected a finite number, not negative");
    }
    return "";
  }

  const int64_t k_;
  const QuantHessian kind_;
  std::mutex mutex_;
  std::vector<double> sum_;  // upper triangle
  int64_t tokens_ = 0;
  int64_t next_ = 0;
  std::string wrong_;  // about the first sequence that cannot be added
  int64_t wrong_sequence_ = -1;
  int64_t duplicate_ = -1;
  // Sequences that came before their turn. Callers take sequences in order, so there are at most as
  // many as threads.
  std::map<int64_t, Part> waiting_;
};

bool ZeroDiagonal(const std::vector<double>& square, int64_t k) {
  for (int64_t i = 0; i < k; ++i) {
    if (square[i * (k + 1)] != 0.0) return false;
  }
  return true;
}

}  // namespace

bool IsZero(const HessianSum& sum) { return ZeroDiagonal(sum.sum, sum.k); }
bool IsZero(const HessianMatrix& h) { return ZeroDiagonal(h.h, h.k); }

absl::Status AddHessianSum(const HessianSum& part, HessianSum* total) {
  if (total->k == 0) {
    *total = part;
    return absl::OkStatus();
  }
  if (part.k != total->k || part.sum.size() != total->sum.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("Hessian: a part of width ", part.k, ", expected ", total->k));
  }
  for (size_t i = 0; i < part.sum.size(); ++i) total->sum[i] += part.sum[i];
  total->tokens += part.tokens;
  return absl::OkStatus();
}

absl::StatusOr<HessianMatrix> FinishHessian(const HessianSum& sum) {
  const int64_t k = sum.k;
  if (k < 1 || static_cast<int64_t>(sum.sum.size()) != k * k) {
    return absl::InvalidArgumentError(
        absl::StrCat("Hessian: found ", sum.sum.size(), " values, expected ", k, " x ", k));
  }
  HessianMatrix out;
  out.k = k;
  out.tokens = sum.tokens;
  out.h.resize(k * k);
  const double tokens = sum.tokens > 0 ? static_cast<double>(sum.tokens) : 1.0;
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = i; j < k; ++j) {
      const double value = sum.sum[i * k + j] / tokens;
      if (!std::isfinite(value)) {
        return absl::InvalidArgumentError(absl::StrCat(
            "Hessian: inputs ", i, " and ", j, " are so large that their product is not finite"));
      }
      out.h[i * k + j] = out.h[j * k + i] = value;
    }
  }
  return out;
}

absl::StatusOr<HessianMatrix> HessianAccumulator::Finish() {
  SA_ASSIGN_OR_RETURN(const HessianSum sum, FinishSum());
  return FinishHessian(sum);
}

std::unique_ptr<HessianAccumulator> HessianAccumulator::Create(int64_t k, QuantHessian kind) {
  return std::make_unique<Accumulator>(k, kind);
}

}  // namespace shiftadd
