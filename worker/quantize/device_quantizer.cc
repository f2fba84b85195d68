#include "worker/quantize/device_quantizer.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/cuda_quantize.h"
#include "kernels/packing.h"
#include "services/base/status_macros.h"
#include "worker/quantize/device_hessian.h"
#include "worker/quantize/layer_blob.h"
#include "worker/quantize/layer_packing.h"
#include "worker/quantize/stage_timer.h"
#include "worker/reference/device_tensors.h"
#include "worker/reference/torch_seam.h"

namespace shiftadd {
namespace {

using kernels::CudaCode;
using kernels::CudaLayerCodes;
using kernels::CudaLayerProblem;
using kernels::CudaLayerQuantizer;
using kernels::CudaQuantizeRecipe;
using kernels::CudaStatus;
using quantize::DeviceHessianImpl;
using quantize::LayerPacking;

absl::Status FromCuda(const CudaStatus& status) {
  switch (status.code) {
    case CudaCode::kOk:
      return absl::OkStatus();
    case CudaCode::kInvalidArgument:
      return absl::InternalError(absl::StrCat("CUDA quantizer: ", status.message));
    case CudaCode::kUnavailable:
      return absl::FailedPreconditionError(status.message);
    case CudaCode::kOutOfMemory:
      return absl::ResourceExhaustedError(
          absl::StrCat("the GPU is out of memory: ", status.message));
    case CudaCode::kInternal:
      break;
  }
  return absl::InternalError(absl::StrCat("CUDA: ", status.message));
}

// The stream that LibTorch's operators of this thread are queued on.
kernels::CudaStream CurrentStream(at::Device device) {
  if (!device.is_cuda()) return nullptr;
  return c10::impl::VirtualGuardImpl(device.type()).getStream(device).native_handle();
}

// LibTorch keeps what it has freed; the quantizer allocates beside it.
void FreeCached(at::Device device) {
  if (device.is_cuda()) c10::getDeviceAllocator(device.type())->emptyCache();
}

CudaQuantizeRecipe ToCuda(const QuantRecipe& recipe, int64_t group) {
  CudaQuantizeRecipe out;
  out.group = group;
  out.free_scales = recipe.scales == QuantScales::kFree;
  out.offset = recipe.offset;
  out.rounds = recipe.rounds;
  out.inner_rounds = recipe.inner_rounds;
  out.sweeps = recipe.sweeps;
  return out;
}

double Total(const at::Tensor& x) { return x.sum(at::kDouble).item<double>(); }

// <x H, x> for the damped H of the chunk, x [rows, k] in processing order, all rows.
at::Tensor Quadratic(const at::Tensor& x, const at::Tensor& h, bool exact) {
  if (exact || x.is_cpu()) return at::mm(x, h).mul_(x).sum(at::kDouble);
  return at::mm(x.to(at::kBFloat16), h.to(at::kBFloat16), at::kFloat).mul_(x).sum(at::kDouble);
}

// One width of one chunk's rows: what the quantizer writes, then the packed form.
struct Codes {
  at::Tensor codes, scale, set, offset, loss;
  at::Tensor planes, half_scale, zeta;
  double weight = 0.0, output = 0.0;

  CudaLayerCodes View(int q) const {
    return {q,
            codes.data_ptr<uint8_t>(),
            scale.data_ptr<float>(),
            set.data_ptr<uint8_t>(),
            offset.defined() ? offset.data_ptr<float>() : nullptr,
            loss.data_ptr<float>()};
  }
};

// Rows of a layer that share a Hessian.
class ChunkQuantizer {
 public:
  // w [rows, k], fp32 on the device, unrotated.
  ChunkQuantizer(const DeviceHessianImpl& h, const QuantRecipe& recipe, at::Tensor w,
                 std::string name, int64_t first_row)
      : h_(h),
        recipe_(recipe),
        cuda_(ToCuda(recipe, h.group)),
        original_(std::move(w)),
        name_(std::move(name)),
        first_row_(first_row),
        rows_(original_.size(0)),
        groups_((h.k + h.group - 1) / h.group) {}

  absl::Status Run(const std::vector<int>& bits, StageSeconds* seconds) {
    {
      const quantize::StageTimer timer(&seconds->fit);
      SA_RETURN_IF_ERROR(Fit(bits));
    }
    const quantize::StageTimer timer(&seconds->measure);
    MeasureWeights();
    for (size_t i = 0; i < bits.size(); ++i) SA_RETURN_IF_ERROR(Finish(bits[i], &widths_[i]));
    return absl::OkStatus();
  }

  std::vector<Codes>& widths() { return widths_; }
  double weight_norm() const { return weight_norm_; }
  double output_norm() const { return output_norm_; }
  // Of the weights divided by U's diagonal, H at its own scale (Candidate::paper_criterion).
  double importance_sum() const { return importance_sum_; }
  double importance_square() const { return importance_square_; }

 private:
  absl::Status Fit(const std::vector<int>& bits) {
    at::Tensor live = original_;
    if (h_.weights_die) live = original_.index_fill(1, h_.dead, 0.0);
    rotated_ = h_.rotation.defined() ? h_.rotation.Rotate(live) : live.contiguous();
    ordered_ = h_.order.empty() ? rotated_ : rotated_.index_select(1, h_.order_on_device);
    const auto options = ordered_.options();
    std::vector<CudaLayerCodes> views;
    for (const int q : bits) {
      Codes codes;
      codes.codes = at::empty({rows_, h_.k}, options.dtype(at::kByte));
      codes.scale = at::empty({rows_, groups_, cuda_.free_scales ? q : 1}, options);
      codes.set = at::zeros({rows_, groups_}, options.dtype(at::kByte));
      if (cuda_.offset) codes.offset = at::empty({rows_, groups_}, options);
      codes.loss = at::empty({rows_}, options);
      views.push_back(codes.View(q));
      widths_.push_back(std::move(codes));
    }
    CudaLayerProblem problem;
    problem.n = rows_;
    problem.k = h_.k;
    problem.w = ordered_.const_data_ptr<float>();
    problem.u = h_.u.const_data_ptr<float>();
    problem.r = h_.r.const_data_ptr<float>();
    problem.h = h_.h.const_data_ptr<float>();
    // Widths do not see each other: where memory is short, fewer at a time give the same bytes.
    size_t together = views.size();
    for (size_t first = 0; first < views.size();) {
      const size_t count = std::min(together, views.size() - first);
      const absl::Status status = FitWidths(problem, views.data() + first, static_cast<int>(count));
      if (absl::IsResourceExhausted(status) && together > 1) {
        together = 1;
        continue;
      }
      SA_RETURN_IF_ERROR(status);
      first += count;
    }
    return absl::OkStatus();
  }

  absl::Status FitWidths(const CudaLayerProblem& problem, const CudaLayerCodes* views, int count) {
    const kernels::CudaStream stream = CurrentStream(ordered_.device());
    std::unique_ptr<CudaLayerQuantizer> quantizer;
    CudaStatus status =
        CudaLayerQuantizer::Create(cuda_, problem, views, count, stream, &quantizer);
    if (status.code == CudaCode::kOutOfMemory) {
      FreeCached(ordered_.device());
      status = CudaLayerQuantizer::Create(cuda_, problem, views, count, stream, &quantizer);
    }
    if (status.ok()) status = quantizer->Run();
    SA_RETURN_IF_ERROR(FromCuda(status));
    widths_.front().loss.narrow(0, 0, 1).cpu();  // waits, for the stage's time and errors
    return absl::OkStatus();
  }

  void MeasureWeights() {
    weight_norm_ = Total(original_.square());
    // Dead inputs add nothing: their weights are 0 in `ordered_`, their rows of the true H too.
    const double live = h_.weights_die ? Total(ordered_.square()) : weight_norm_;
    output_norm_ =
        AllDead() ? 0.0
                  : Quadratic(ordered_, h_.h, /*exact=*/false).item<double>() - h_.damping * live;
    output_norm_ = std::max(output_norm_, 0.0) * h_.scale;
    const at::Tensor is = ordered_ / h_.u.diagonal();
    importance_sum_ = Total(is) * std::sqrt(h_.scale);
    importance_square_ = Total(is.square()) * h_.scale;
  }

  // Packs, and measures what was packed.
  absl::Status Finish(int q, Codes* width) {
    if (!h_.order.empty()) Unorder(width);
    const auto options = ordered_.options();
    const int64_t words = (h_.k + 31) / 32;
    width->planes = at::empty({q, rows_, words}, options.dtype(at::kInt));
    width->half_scale = at::empty(width->scale.sizes(), options.dtype(at::kShort));
    if (cuda_.offset) width->zeta = at::empty({rows_, groups_}, options.dtype(at::kShort));
    at::Tensor what = at::empty({rows_, h_.k}, options);
    kernels::CudaPackedCodes packed;
    packed.planes = reinterpret_cast<uint32_t*>(width->planes.data_ptr<int32_t>());
    packed.scale = reinterpret_cast<uint16_t*>(width->half_scale.data_ptr<int16_t>());
    if (cuda_.offset) packed.zeta = reinterpret_cast<uint16_t*>(width->zeta.data_ptr<int16_t>());
    packed.what = what.data_ptr<float>();
    SA_RETURN_IF_ERROR(FromCuda(kernels::CudaPackLayer(cuda_, rows_, h_.k, width->View(q), packed,
                                                       CurrentStream(ordered_.device()))));
    SA_RETURN_IF_ERROR(CheckScales(*width));
    MeasureWidth(rotated_ - what, width);
    width->codes.reset();
    return absl::OkStatus();
  }

  void Unorder(Codes* width) const {
    width->codes = width->codes.index_select(1, h_.inverse);
    // Groups stay whole in every order: a group's place is that of its first input.
    std::vector<int64_t> at_position(groups_);
    for (int64_t p = 0; p < h_.k; p += h_.group) at_position[h_.order[p] / h_.group] = p / h_.group;
    const at::Tensor index =
        at::from_blob(at_position.data(), {groups_}, at::kLong).to(ordered_.device());
    for (at::Tensor* x : {&width->scale, &width->set, &width->offset}) {
      if (x->defined()) *x = x->index_select(1, index);
    }
  }

  // StoreScale's and StoreOffset's checks: on the device whether there is a fault, on the host
  // which.
  absl::Status CheckScales(const Codes& width) const {
    const at::Tensor magnitude = rotated_.abs().amax({1});
    const at::Tensor scale = width.scale.abs();
    const at::Tensor stored = scale.to(at::kHalf).to(at::kFloat);
    at::Tensor bad =
        (stored > 65504.0)
            .logical_or_(
                (stored == 0.0)
                    .logical_and_(scale > (magnitude * std::ldexp(1.0, -11)).view({-1, 1, 1})));
    at::Tensor any = bad.any();
    if (cuda_.offset) any = any.logical_or((width.zeta.view(at::kHalf).abs() > 65504.0).any());
    if (!any.item<bool>()) return absl::OkStatus();
    const at::Tensor scales = scale.cpu(), largest = magnitude.cpu();
    const int64_t per_row = scales.numel() / rows_;
    for (int64_t i = 0; i < scales.numel(); ++i) {
      uint16_t unused;
      SA_RETURN_IF_ERROR(quantize::StoreScale(
          name_, first_row_ + i / per_row, "scale", scales.const_data_ptr<float>()[i],
          largest.const_data_ptr<float>()[i / per_row], &unused));
    }
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", name_, ": an offset is outside the range of fp16 (65504)"));
  }

  // `error`: what is left of the live weights, rotated, inputs in their own order.
  void MeasureWidth(const at::Tensor& error, Codes* width) {
    const double square = Total(error.square());
    width->weight = square;
    double dead_square = 0.0;  // of the quantized weights of dead inputs, which the damped H counts
    if (h_.dead.defined()) {
      at::Tensor plain = h_.rotation.defined() ? h_.rotation.Unrotate(error) : error.clone();
      dead_square = Total(plain.index_select(1, h_.dead).square());
      if (h_.weights_die) {
        plain.index_add_(1, h_.dead, original_.index_select(1, h_.dead));
        width->weight = Total(plain.square());
      }
    }
    if (AllDead()) return;
    double loss;
    if (recipe_.sweeps > 0) {
      loss = Total(width->loss);  // of the scales as they are stored
    } else {
      const at::Tensor x = h_.order.empty() ? error : error.index_select(1, h_.order_on_device);
      loss = Quadratic(x, h_.h, /*exact=*/true).item<double>();
    }
    width->output = std::max(loss - h_.damping * square - dead_square, 0.0) * h_.scale;
  }

  bool AllDead() const { return h_.dead.defined() && !h_.weights_die; }

  const DeviceHessianImpl& h_;
  const QuantRecipe& recipe_;
  const CudaQuantizeRecipe cuda_;
  const at::Tensor original_;
  const std::string name_;
  const int64_t first_row_, rows_, groups_;
  at::Tensor rotated_, ordered_;  // dead inputs 0
  std::vector<Codes> widths_;
  double weight_norm_ = 0.0, output_norm_ = 0.0, importance_sum_ = 0.0, importance_square_ = 0.0;
};

template <typename T, typename From>
std::vector<T> ToHost(const at::Tensor& x) {
  static_assert(sizeof(T) == sizeof(From));
  std::vector<T> out(static_cast<size_t>(x.numel()));
  at::from_blob(out.data(), x.sizes(), at::TensorOptions().dtype(c10::CppTypeToScalarType<From>()))
      .copy_(x);
  return out;
}

// All chunks' rows of one tensor of one width.
at::Tensor Join(std::vector<ChunkQuantizer>& chunks, size_t width, at::Tensor Codes::*tensor,
                int64_t dimension) {
  std::vector<at::Tensor> parts;
  parts.reserve(chunks.size());
  for (ChunkQuantizer& chunk : chunks) parts.push_back(chunk.widths()[width].*tensor);
  return parts.size() == 1 ? parts[0] : at::cat(parts, dimension);
}

// The layer at one width on the host, packed; its signs with it.
struct PackedLayer {
  LayerPacking packing;
  std::vector<uint32_t> signs;
};

std::shared_ptr<PackedLayer> ToPackedLayer(const std::string& name, int64_t n, int q,
                                           const DeviceHessianImpl& h, const QuantRecipe& recipe,
                                           size_t width, std::vector<ChunkQuantizer>& chunks) {
  auto out = std::make_shared<PackedLayer>();
  LayerPacking& p = out->packing;
  p.name = name;
  p.n = n;
  p.k = h.k;
  p.group = recipe.group > 0 ? recipe.group : h.k;
  p.q = q;
  p.encoding = recipe.scales == QuantScales::kShift ? kernels::Encoding::kBcqShift
                                                    : kernels::Encoding::kBcqFree;
  p.planes = ToHost<uint32_t, int32_t>(Join(chunks, width, &Codes::planes, 1));
  auto scales = ToHost<uint16_t, int16_t>(Join(chunks, width, &Codes::half_scale, 0));
  if (recipe.scales == QuantScales::kShift) {
    p.scale = std::move(scales);
    p.sets = ToHost<uint8_t, uint8_t>(Join(chunks, width, &Codes::set, 0));
  } else {
    p.alpha = std::move(scales);
  }
  if (recipe.offset) p.zeta = ToHost<uint16_t, int16_t>(Join(chunks, width, &Codes::zeta, 0));
  if (h.rotation.defined()) {
    out->signs = h.signs;
    p.rotation = kernels::Rotation::kWht128;
    p.signs = out->signs.data();
  }
  return out;
}

absl::StatusOr<std::string> BuildBlob(PackedLayer* layer) {
  LayerPacking& p = layer->packing;
  if (!p.sets.empty()) {
    p.exponents.assign(p.n * ((p.groups() + 1) / 2), 0);
    kernels::PackExponents(p.sets.data(), p.n, p.groups(), p.exponents.data());
  }
  return BuildLayerBlob(p.name, p.View());
}

struct Norms {
  double weight = 0.0, output = 0.0, criterion = 0.0;
};
Norms LayerNorms(const std::vector<ChunkQuantizer>& chunks, double weights) {
  Norms out;
  double sum = 0.0, square = 0.0;
  for (const ChunkQuantizer& chunk : chunks) {
    out.weight += chunk.weight_norm();
    out.output += chunk.output_norm();
    sum += chunk.importance_sum();
    square += chunk.importance_square();
  }
  const double mean = sum / weights;
  out.criterion = std::sqrt(square) * std::max(square / weights - mean * mean, 0.0);
  return out;
}

Candidate Figures(int bits, const Norms& norms, const std::vector<ChunkQuantizer*>& chunks,
                  size_t width, const LayerPacking& packing, const QuantRecipe& recipe) {
  Candidate c;
  const double weights = static_cast<double>(packing.n * packing.k);
  for (ChunkQuantizer* chunk : chunks) {
    c.sums.weight += chunk->widths()[width].weight;
    c.sums.output += chunk->widths()[width].output;
  }
  c.bits = bits;
  const int64_t exponents = packing.sets.empty() ? 0 : packing.n * ((packing.groups() + 1) / 2);
  c.stored_bytes =
      packing.planes.size() * sizeof(uint32_t) +
      (packing.scale.size() + packing.alpha.size() + packing.zeta.size()) * sizeof(uint16_t) +
      static_cast<uint64_t>(exponents);
  c.stored_bits = 8.0 * static_cast<double>(c.stored_bytes) / weights;
  c.sums.weight_norm = norms.weight;
  c.sums.output_norm = norms.output;
  c.weight_error = norms.weight > 0.0 ? c.sums.weight / norms.weight : 0.0;
  c.output_error = norms.output > 0.0 ? c.sums.output / norms.output : 0.0;
  c.importance = weights * c.output_error;
  c.guided_error = recipe.hessian == QuantHessian::kGuided ? c.sums.output : 0.0;
  c.paper_criterion = norms.criterion;
  return c;
}

absl::Status CheckChunks(const std::string& name, int64_t n, int64_t k,
                         const std::vector<std::shared_ptr<const DeviceHessian>>& hessians,
                         const std::vector<int>& bits) {
  if (hessians.empty() || static_cast<int64_t>(hessians.size()) > n) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", name, ": found ", hessians.size(), " Hessians for ", n, " rows"));
  }
  for (const auto& h : hessians) {
    if (quantize::Impl(*h).k == k) continue;
    return absl::InvalidArgumentError(absl::StrCat("tensor ", name, ": Hessian of width ",
                                                   quantize::Impl(*h).k, ", expected ", k));
  }
  for (const int q : bits) {
    if (q >= 1 && q <= kernels::kMaxPlanes) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", name, ": bits is ", q, ", expected 1 to ", kernels::kMaxPlanes));
  }
  return absl::OkStatus();
}

}  // namespace

bool HasDeviceQuantizer() { return true; }

bool DeviceQuantizes(const QuantRecipe& recipe) {
  return recipe.method == QuantMethod::kShiftAdd && recipe.inner_rounds >= 1 &&
         (recipe.group <= 0 || recipe.group % 32 == 0);
}

absl::StatusOr<std::vector<DeviceCandidate>> QuantizeLayerOnDevice(
    const WeightProvider& source, const std::string& name, int64_t n, int64_t k,
    const std::vector<std::shared_ptr<const DeviceHessian>>& hessians, const QuantRecipe& recipe,
    const std::vector<int>& bits, TaskControl* control, StageSeconds* seconds) {
  SA_RETURN_IF_ERROR(CheckChunks(name, n, k, hessians, bits));
  std::vector<DeviceCandidate> out;
  const absl::Status status = CatchTorch([&]() -> absl::Status {
    const DeviceHessianImpl& first = quantize::Impl(*hessians[0]);
    SA_ASSIGN_OR_RETURN(
        const at::Tensor weights,
        reference::ReadToDevice(source, name, {n, k}, at::kFloat, first.u.device()));
    const auto count = static_cast<int64_t>(hessians.size());
    std::vector<ChunkQuantizer> chunks;
    chunks.reserve(hessians.size());
    for (int64_t c = 0; c < count; ++c) {
      const int64_t begin = ChunkBegin(n, count, c), end = ChunkBegin(n, count, c + 1);
      chunks.emplace_back(quantize::Impl(*hessians[c]), recipe,
                          weights.narrow(0, begin, end - begin), name, begin);
      SA_RETURN_IF_ERROR(chunks.back().Run(bits, seconds));
      if (control == nullptr) continue;
      ++control->progress_count;
      SA_RETURN_IF_ERROR(control->Check());
    }
    const quantize::StageTimer timer(&seconds->measure);
    const Norms norms = LayerNorms(chunks, static_cast<double>(n * k));
    std::vector<ChunkQuantizer*> pointers;
    pointers.reserve(chunks.size());
    for (ChunkQuantizer& chunk : chunks) pointers.push_back(&chunk);
    for (size_t i = 0; i < bits.size(); ++i) {
      const std::shared_ptr<PackedLayer> packed =
          ToPackedLayer(name, n, bits[i], first, recipe, i, chunks);
      out.push_back({Figures(bits[i], norms, pointers, i, packed->packing, recipe),
                     [packed] { return BuildBlob(packed.get()); }});
    }
    return absl::OkStatus();
  });
  if (!status.ok()) return Annotate(status, absl::StrCat("quantizing ", name, " on the GPU"));
  return out;
}

}  // namespace shiftadd
