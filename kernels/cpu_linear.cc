#include "kernels/cpu_linear.h"

#include <algorithm>
#include <limits>

#include "kernels/cpu/kernels.h"
#include "kernels/cpu/layout.h"
#include "kernels/rotation.h"

namespace shiftadd::kernels {
namespace {

// Never code that this CPU lacks, whatever was asked for.
cpu::Kernels KernelsFor(Isa isa) {
  switch (std::min(isa, DetectIsa())) {
    case Isa::kAvx512:
      return cpu::Avx512Kernels();
    case Isa::kAvx2:
      return cpu::Avx2Kernels();
    case Isa::kPortable:
      break;
  }
  return cpu::PortableKernels();
}

cpu::ActivationsView ViewOf(const Activations& a) {
  cpu::ActivationsView v;
  v.m = a.m;
  v.stride = a.k_padded;
  v.chunks = a.groups;
  v.high = a.digits.data();
  if (a.precision == Precision::kA16) v.low = a.digits.data() + a.m * a.k_padded;
  v.scale = a.scale.data();
  v.sum = a.sum.data();
  v.digit_sum = a.digit_sum.data();
  return v;
}

class PackedCpuLinear : public CpuLinear {
 public:
  PackedCpuLinear(const PackedMatrix& m, Isa isa)
      : layout_(m), kernels_(KernelsFor(isa)), group_(m.group), rotation_(m.rotation) {
    if (rotation_ == Rotation::kWht128) signs_.assign(m.signs, m.signs + m.plane_words());
  }

  bool allocated() const { return layout_.view().codes != nullptr; }

  void Multiply(const Activations& a, int64_t row_begin, int64_t row_end, float* y,
                int64_t ldy) const override {
    const int64_t begin = std::max<int64_t>(row_begin, 0);
    const int64_t end = std::min(row_end, n());
    if (a.k != k() || a.groups != layout_.view().chunk_count) {
      for (int64_t i = 0; i < a.m && begin < end; ++i) {
        std::fill(y + i * ldy + begin, y + i * ldy + end, std::numeric_limits<float>::quiet_NaN());
      }
      return;
    }
    kernels_.multiply(layout_.view(), ViewOf(a), begin, end, y, ldy);
  }

  void GatherRow(int64_t row, float* out) const override {
    std::vector<double> values(static_cast<size_t>(k()));
    layout_.Row(row, values.data());
    if (rotation_ == Rotation::kWht128) Unrotate(values.data(), k(), signs_.data());
    std::transform(values.begin(), values.end(), out,
                   [](double v) { return static_cast<float>(v); });
  }

  int64_t n() const override { return layout_.view().n; }
  int64_t k() const override { return layout_.view().k; }
  int64_t group() const override { return group_; }
  Rotation rotation() const override { return rotation_; }
  const uint32_t* signs() const override { return signs_.empty() ? nullptr : signs_.data(); }
  uint64_t bytes() const override {
    return layout_.bytes() + signs_.size() * sizeof(uint32_t) + sizeof(*this);
  }

 private:
  cpu::Layout layout_;
  cpu::Kernels kernels_;
  int64_t group_;
  Rotation rotation_;
  std::vector<uint32_t> signs_;
};

template <typename T>
void Grow(std::vector<T>* v, int64_t size) {
  if (v->size() < static_cast<size_t>(size)) v->resize(static_cast<size_t>(size));
}

}  // namespace

void ReserveActivations(int64_t m, int64_t k, int64_t group, Precision precision,
                        Activations* out) {
  const bool two = precision == Precision::kA16;
  out->m = m;
  out->k = k;
  out->group = group;
  out->precision = precision;
  out->k_padded = (k + cpu::kBlockInputs - 1) / cpu::kBlockInputs * cpu::kBlockInputs;
  out->groups = cpu::ChunkCount(k, group);
  Grow(&out->digits, (two ? 2 : 1) * m * out->k_padded);
  Grow(&out->scale, m * out->groups);
  Grow(&out->sum, m * out->groups);
  Grow(&out->digit_sum, m * out->groups);
}

void PrepareToken(const float* x, int64_t i, const uint32_t* signs, Isa isa, float* scratch,
                  Activations* out) {
  cpu::PrepareArgs args;
  args.x = x;
  args.k = out->k;
  args.group = out->group;
  args.k_padded = out->k_padded;
  args.signs = signs;
  args.high = out->digits.data() + i * out->k_padded;
  if (out->precision == Precision::kA16) {
    args.low = out->digits.data() + (out->m + i) * out->k_padded;
  }
  args.scale = out->scale.data() + i * out->groups;
  args.sum = out->sum.data() + i * out->groups;
  args.digit_sum = out->digit_sum.data() + i * out->groups;
  args.scratch = scratch;
  KernelsFor(isa).prepare(args);
}

void PrepareActivations(const float* x, int64_t ldx, int64_t m, int64_t k, int64_t group,
                        const uint32_t* signs, Precision precision, Isa isa, Activations* out) {
  ReserveActivations(m, k, group, precision, out);
  Grow(&out->scratch, out->k_padded);
  for (int64_t i = 0; i < m; ++i) {
    PrepareToken(x + i * ldx, i, signs, isa, out->scratch.data(), out);
  }
}

std::unique_ptr<CpuLinear> CpuLinear::Create(const PackedMatrix& m, Isa isa, std::string* error) {
  const std::string problem = Validate(m);
  if (!problem.empty()) {
    if (error != nullptr) *error = problem;
    return nullptr;
  }
  auto linear = std::make_unique<PackedCpuLinear>(m, isa);
  if (!linear->allocated()) {
    if (error != nullptr) {
      *error = "no memory for a matrix of " + std::to_string(StoredBytes(m)) + " stored bytes";
    }
    return nullptr;
  }
  return linear;
}

}  // namespace shiftadd::kernels
