#include "worker/serve/linear_group.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

namespace shiftadd {
namespace {

// Rows that a thread takes at least; a multiple of every kernel's row block.
constexpr int64_t kRowUnit = 32;

}  // namespace

absl::StatusOr<Linear> Linear::Create(const PackedLayer& layer, std::vector<float> bias,
                                      kernels::Isa isa) {
  Linear out;
  out.rows = layer.rows;
  out.cols = layer.cols;
  out.bias = std::move(bias);
  if (layer.raw) {
    out.raw = layer.weight;
    return out;
  }
  std::string error;
  out.packed = kernels::CpuLinear::Create(layer.matrix, isa, &error);
  if (out.packed == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(layer.name, ": ", error));
  }
  return out;
}

uint64_t Linear::bytes() const {
  const uint64_t weights = packed ? packed->bytes() : raw->size() * sizeof(float);
  return weights + bias.size() * sizeof(float);
}

void Linear::GatherRow(int64_t row, float* out) const {
  if (packed) return packed->GatherRow(row, out);
  std::copy_n(raw->data() + row * cols, cols, out);
}

int LinearGroup::PreparationOf(const kernels::CpuLinear& linear,
                               PackedModelOptions::Precision precision) {
  Preparation want{linear.group(), linear.signs(), kernels::Precision::kA16};
  if (precision == PackedModelOptions::Precision::kA8) want.precision = kernels::Precision::kA8;
  // Rotated inputs have no outliers: 8 bits are enough for them.
  if (precision == PackedModelOptions::Precision::kAuto && want.signs != nullptr) {
    want.precision = kernels::Precision::kA8;
  }
  for (size_t i = 0; i < preparations_.size(); ++i) {
    // The signs of one input width are the same for all layers of a package.
    const Preparation& p = preparations_[i];
    if (p.group == want.group && p.precision == want.precision &&
        (p.signs == nullptr) == (want.signs == nullptr)) {
      return static_cast<int>(i);
    }
  }
  preparations_.push_back(want);
  return static_cast<int>(preparations_.size()) - 1;
}

void LinearGroup::Add(Linear linear, PackedModelOptions::Precision precision) {
  Member member;
  if (linear.packed) member.preparation = PreparationOf(*linear.packed, precision);
  member.first_row = rows_;
  rows_ += linear.rows;
  member.linear = std::move(linear);
  linears_.push_back(std::move(member));
}

uint64_t LinearGroup::bytes() const {
  uint64_t sum = 0;
  for (const Member& member : linears_) sum += member.linear.bytes();
  return sum;
}

void LinearGroup::Multiply(int64_t slice, const float* x, int64_t first, int64_t count,
                           int64_t begin, int64_t end, float* y, const VectorOps& ops,
                           const LinearScratch& scratch) const {
  for (const Member& member : linears_) {
    const Linear& linear = member.linear;
    const int64_t from = std::max<int64_t>(begin - member.first_row, 0);
    const int64_t to = std::min(end - member.first_row, linear.rows);
    if (from >= to) continue;
    float* out = y + first * rows_ + member.first_row;
    if (linear.packed) {
      linear.packed->Multiply(scratch.activations[member.preparation][slice], from, to, out, rows_);
    } else {
      for (int64_t n = from; n < to; ++n) {
        const float* weights = linear.raw->data() + n * linear.cols;
        for (int64_t t = 0; t < count; ++t) {
          out[t * rows_ + n] = ops.dot(x + (first + t) * linear.cols, weights, linear.cols);
        }
      }
    }
    if (linear.bias.empty()) continue;
    for (int64_t t = 0; t < count; ++t) {
      ops.add(out + t * rows_ + from, linear.bias.data() + from, to - from);
    }
  }
}

void LinearGroup::Run(const std::function<void(int64_t)>& produce, const float* x, int64_t m,
                      float* y, const VectorOps& ops, kernels::Isa isa, ThreadPool* pool,
                      LinearScratch* scratch) const {
  const int64_t slices = (m + kSliceTokens - 1) / kSliceTokens;
  const int64_t slice_tokens = (m + slices - 1) / slices;
  const int64_t k = cols();
  if (scratch->activations.size() < preparations_.size()) {
    scratch->activations.resize(preparations_.size());
  }
  for (auto& slots : scratch->activations) {
    if (static_cast<int64_t>(slots.size()) < slices) slots.resize(slices);
  }
  const auto tokens_of = [&](int64_t s) { return std::min(slice_tokens, m - s * slice_tokens); };
  pool->For(slices, 1, [&](int64_t s0, int64_t s1, int) {
    for (int64_t s = s0; s < s1; ++s) {
      const int64_t first = s * slice_tokens;
      for (int64_t t = 0; t < tokens_of(s); ++t) produce(first + t);
      for (size_t p = 0; p < preparations_.size(); ++p) {
        const Preparation& how = preparations_[p];
        kernels::PrepareActivations(x + first * k, k, tokens_of(s), k, how.group, how.signs,
                                    how.precision, isa, &scratch->activations[p][s]);
      }
    }
  });
  const int64_t units = (rows_ + kRowUnit - 1) / kRowUnit;
  const int64_t items = units * slices;
  const int64_t grain = std::max<int64_t>(1, items / (pool->threads() * 4));
  pool->For(items, grain, [&](int64_t i0, int64_t i1, int) {
    while (i0 < i1) {
      const int64_t s = i0 / units;
      const int64_t stop = std::min(i1, (s + 1) * units);
      Multiply(s, x, s * slice_tokens, tokens_of(s), (i0 - s * units) * kRowUnit,
               std::min((stop - s * units) * kRowUnit, rows_), y, ops, *scratch);
      i0 = stop;
    }
  });
}

}  // namespace shiftadd
