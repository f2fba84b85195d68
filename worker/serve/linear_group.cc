#include "worker/serve/linear_group.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

namespace shiftadd {
namespace {

// Rows that a thread takes at least; a multiple of every kernel's row block.
constexpr int64_t kRowUnit = 32;

// Of m tokens in `slices` slices that differ by little, the one of number s.
struct Slice {
  Slice(int64_t s, int64_t m, int64_t slices) {
    const int64_t tokens = (m + slices - 1) / slices;
    first = std::min(s * tokens, m);
    count = std::min(tokens, m - first);
  }
  int64_t first, count;
};

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

void LinearGroup::MultiplySlice(int64_t slice, const float* x, int64_t first, int64_t count,
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

void LinearGroup::Reserve(int64_t m, LinearScratch* scratch) const {
  if (scratch->activations.size() < preparations_.size()) {
    scratch->activations.resize(preparations_.size());
  }
  for (auto& slots : scratch->activations) {
    if (static_cast<int64_t>(slots.size()) < Slices(m)) slots.resize(Slices(m));
  }
}

void LinearGroup::Prepare(int64_t begin, int64_t end, absl::FunctionRef<void(int64_t)> produce,
                          const float* x, int64_t m, kernels::Isa isa,
                          LinearScratch* scratch) const {
  const int64_t k = cols();
  for (int64_t s = begin; s < end; ++s) {
    const Slice slice(s, m, Slices(m));
    for (int64_t t = 0; t < slice.count; ++t) produce(slice.first + t);
    for (size_t p = 0; p < preparations_.size(); ++p) {
      const Preparation& how = preparations_[p];
      kernels::PrepareActivations(x + slice.first * k, k, slice.count, k, how.group, how.signs,
                                  how.precision, isa, &scratch->activations[p][s]);
    }
  }
}

int64_t LinearGroup::Units() const { return (rows_ + kRowUnit - 1) / kRowUnit; }

Loop LinearGroup::MultiplyLoop(int64_t m, int threads) const {
  const int64_t items = Units() * Slices(m);
  return {items, std::max<int64_t>(1, items / (threads * int64_t{4}))};
}

void LinearGroup::Multiply(int64_t begin, int64_t end, const float* x, int64_t m, float* y,
                           const VectorOps& ops, const LinearScratch& scratch) const {
  const int64_t units = Units();
  while (begin < end) {
    const int64_t s = begin / units;
    const int64_t stop = std::min(end, (s + 1) * units);
    const Slice slice(s, m, Slices(m));
    MultiplySlice(s, x, slice.first, slice.count, (begin - s * units) * kRowUnit,
                  std::min((stop - s * units) * kRowUnit, rows_), y, ops, scratch);
    begin = stop;
  }
}

}  // namespace shiftadd
