#include "worker/serve/linear_group.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

namespace shiftadd {
namespace {

// Rows that a thread takes at least; a multiple of every kernel's row block.
constexpr int64_t kRowUnit = 32;
// Inputs that a thread prepares at least: some microseconds.
constexpr int64_t kPrepareInputs = 2304;
// Multiplications after which a thread looks for the next chunk: some ten microseconds. On crowded
// cores, where it must be done before the next tick, well below what StandClearOfTick keeps free.
constexpr int64_t kChunkProducts = int64_t{4} << 20, kCrowdedChunkProducts = int64_t{1} << 19;

int64_t SliceTokens(int64_t m, int64_t slices) { return (m + slices - 1) / slices; }

// Of m tokens in `slices` slices that differ by little, the one of number s.
struct TokenSlice {
  TokenSlice(int64_t s, int64_t m, int64_t slices) {
    const int64_t tokens = SliceTokens(m, slices);
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

const LinearScratch::Input* LinearScratch::Find(const Preparation& how, int64_t m,
                                                int64_t k) const {
  for (size_t i = 0; i < used_; ++i) {
    const Input& input = inputs_[i];
    if (input.m == m && input.k == k && input.how.Like(how)) return &input;
  }
  return nullptr;
}

void LinearScratch::Reserve(const Preparation& how, int64_t m, int64_t k, int64_t slices) {
  if (Find(how, m, k) != nullptr) return;
  if (used_ == inputs_.size()) inputs_.emplace_back();
  Input& input = inputs_[used_++];
  input.how = how;
  input.m = m;
  input.k = k;
  if (static_cast<int64_t>(input.slices.size()) < slices) input.slices.resize(slices);
  for (int64_t s = 0; s < slices; ++s) {
    kernels::Activations& digits = input.slices[s];
    kernels::ReserveActivations(TokenSlice(s, m, slices).count, k, how.group, how.precision,
                                &digits);
    for (std::vector<float>& row : rows_) {
      if (static_cast<int64_t>(row.size()) < digits.k_padded) row.resize(digits.k_padded);
    }
  }
}

const kernels::Activations& LinearScratch::Slice(const Preparation& how, int64_t m, int64_t k,
                                                 int64_t slice) const {
  return Find(how, m, k)->slices[slice];
}

kernels::Activations& LinearScratch::Slice(const Preparation& how, int64_t m, int64_t k,
                                           int64_t slice) {
  return const_cast<kernels::Activations&>(
      static_cast<const LinearScratch*>(this)->Slice(how, m, k, slice));
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
    if (preparations_[i].Like(want)) return static_cast<int>(i);
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

void LinearGroup::MultiplySlice(int64_t slice, const float* x, int64_t m, int64_t begin,
                                int64_t end, float* y, const VectorOps& ops,
                                const LinearScratch& scratch) const {
  const auto [first, count] = TokenSlice(slice, m, Slices(m));
  for (const Member& member : linears_) {
    const Linear& linear = member.linear;
    const int64_t from = std::max<int64_t>(begin - member.first_row, 0);
    const int64_t to = std::min(end - member.first_row, linear.rows);
    if (from >= to) continue;
    float* out = y + first * rows_ + member.first_row;
    if (linear.packed) {
      const Preparation& how = preparations_[member.preparation];
      linear.packed->Multiply(scratch.Slice(how, m, cols(), slice), from, to, out, rows_);
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
  for (const Preparation& how : preparations_) scratch->Reserve(how, m, cols(), Slices(m));
}

Loop LinearGroup::PrepareLoop(int64_t m) const {
  return {m, std::max<int64_t>(1, kPrepareInputs / std::max<int64_t>(1, cols()))};
}

void LinearGroup::Prepare(int64_t begin, int64_t end, absl::FunctionRef<void(int64_t)> produce,
                          const float* x, int64_t m, kernels::Isa isa, int thread,
                          LinearScratch* scratch) const {
  const int64_t k = cols();
  const int64_t tokens = SliceTokens(m, Slices(m));
  for (int64_t t = begin; t < end; ++t) {
    produce(t);
    for (const Preparation& how : preparations_) {
      kernels::PrepareToken(x + t * k, t % tokens, how.signs, isa, scratch->Row(thread),
                            &scratch->Slice(how, m, k, t / tokens));
    }
  }
}

int64_t LinearGroup::Units() const { return (rows_ + kRowUnit - 1) / kRowUnit; }

Loop LinearGroup::MultiplyLoop(int64_t m, int threads, bool crowded) const {
  const int64_t items = Units() * Slices(m);
  const int64_t chunks = threads * int64_t{4};
  const int64_t products = kRowUnit * std::max<int64_t>(1, cols()) * std::min(m, kSliceTokens);
  const int64_t most = crowded ? kCrowdedChunkProducts : kChunkProducts;
  const int64_t grain = std::min(most / products, (items + chunks - 1) / chunks);
  return {items, std::max<int64_t>(1, grain)};
}

void LinearGroup::Multiply(int64_t begin, int64_t end, const float* x, int64_t m, float* y,
                           const VectorOps& ops, const LinearScratch& scratch) const {
  const int64_t units = Units();
  while (begin < end) {
    const int64_t s = begin / units;
    const int64_t stop = std::min(end, (s + 1) * units);
    MultiplySlice(s, x, m, (begin - s * units) * kRowUnit,
                  std::min((stop - s * units) * kRowUnit, rows_), y, ops, scratch);
    begin = stop;
  }
}

}  // namespace shiftadd
