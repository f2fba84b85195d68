#include "kernels/cuda/workspace.h"

#include <algorithm>

#include "kernels/cuda/dense.h"

namespace shiftadd::kernels {
namespace cuda {
namespace {

constexpr int64_t kMaxInputs = (int64_t{1} << 31) - 1;

// An fp16 row's length: whole halves.
int64_t DenseStride(int64_t k) { return (k + kHalfInputs - 1) / kHalfInputs * kHalfInputs; }

}  // namespace

CudaStatus DenseWorkspace::Make(int64_t max_m, int64_t max_k, uint64_t weight_bytes,
                                std::unique_ptr<DenseWorkspace>* out) {
  SHIFTADD_CUDA_RETURN_IF_ERROR(CudaAvailable());
  SHIFTADD_CUDA_RETURN_IF_ERROR(CheckRange("max_m", max_m, 1, kMaxTokens));
  SHIFTADD_CUDA_RETURN_IF_ERROR(CheckRange("max_k", max_k, 1, kMaxInputs));
  const int64_t tile_bytes = DenseStride(max_k) * 2 * kTileRows;
  SHIFTADD_CUDA_RETURN_IF_ERROR(
      CheckRange("weight_bytes", static_cast<int64_t>(std::min<uint64_t>(weight_bytes, INT64_MAX)),
                 tile_bytes, int64_t{1} << 40));
  auto w = std::unique_ptr<DenseWorkspace>(new DenseWorkspace);
  w->max_m_ = max_m, w->max_k_ = max_k;
  SHIFTADD_CUDA_RETURN_IF_ERROR(FromCuda(cudaGetDevice(&w->device_), "finding the current device"));
  const CudaStatus opened = Cublas::Open(&w->cublas_);
  if (opened.code == CudaCode::kUnavailable) {
    w->why_not_ = opened.message;
    *out = std::move(w);
    return {};
  }
  SHIFTADD_CUDA_RETURN_IF_ERROR(opened);
  SHIFTADD_CUDA_RETURN_IF_ERROR(
      w->x_.Allocate(static_cast<size_t>(max_m) * static_cast<size_t>(DenseStride(max_k)) * 2));
  SHIFTADD_CUDA_RETURN_IF_ERROR(w->weights_.Allocate(weight_bytes));
  SHIFTADD_CUDA_RETURN_IF_ERROR(w->scalars_.Allocate(sizeof(DenseScalars)));
  SHIFTADD_CUDA_RETURN_IF_ERROR(FromCuda(
      cudaMemset(w->scalars_.as<void>(), 0, sizeof(DenseScalars)), "clearing a workspace"));
  SHIFTADD_CUDA_RETURN_IF_ERROR(FromCuda(cudaStreamSynchronize(nullptr), "clearing a workspace"));
  *out = std::move(w);
  return {};
}

std::string DenseWorkspace::cublas() const {
  return cublas_ == nullptr ? why_not_ : cublas_->version();
}

uint64_t DenseWorkspace::bytes() const {
  return x_.size() + weights_.size() + scalars_.size() +
         (cublas_ == nullptr ? 0 : cublas_->bytes());
}

CudaStatus DenseWorkspace::Check(const PackedActivations& x) const {
  if (cublas_ == nullptr) return {CudaCode::kUnavailable, why_not_};
  int device = 0;
  SHIFTADD_CUDA_RETURN_IF_ERROR(FromCuda(cudaGetDevice(&device), "finding the current device"));
  if (device != device_) {
    return InvalidArgument("the workspace is of device " + std::to_string(device_) +
                           ", the current device is " + std::to_string(device));
  }
  SHIFTADD_CUDA_RETURN_IF_ERROR(CheckRange("m in this workspace", x.m(), 1, max_m_));
  return CheckRange("k in this workspace", x.k(), 1, max_k_);
}

CudaStatus DenseWorkspace::Start(const PackedActivations& x, cudaStream_t stream) {
  return FromCuda(LaunchDenseActivations(x.view(), DenseStride(x.k()), x_.as<uint16_t>(),
                                         scalars_.as<DenseScalars>(), stream),
                  "launching the conversion of activations");
}

CudaStatus DenseWorkspace::Multiply(const PackedActivations& x, const PackedLinear& w,
                                    const CudaProduct& product, cudaStream_t stream) {
  DenseWeights weights;
  weights.stride = DenseStride(w.k());
  weights.out = weights_.as<uint16_t>();
  weights.scalars = scalars_.as<DenseScalars>();
  weights.exponent = w.half_exponent();
  weights.sets = w.shift_table().integer;
  weights.unit = w.shift_table().unit;
  HalfProduct p;
  p.x = x_.as<void>();
  p.ldx = p.ldw = p.k = weights.stride;
  p.w = weights_.as<void>();
  p.m = x.m();
  p.ldy = product.ldy;
  p.factor = &weights.scalars->factor;
  p.zero = &weights.scalars->zero;
  const int64_t rows = static_cast<int64_t>(weights_.size()) / (2 * weights.stride);
  const int64_t most = rows >= 256 ? rows / 128 * 128 : rows / kTileRows * kTileRows;
  for (int64_t row = 0; row < w.n(); row += most) {
    weights.first_row = row;
    weights.rows = p.n = std::min(most, w.n() - row);
    p.y = product.y + row;
    SHIFTADD_CUDA_RETURN_IF_ERROR(FromCuda(LaunchDenseWeights(w.view(), weights, stream),
                                           "launching the decoding of weights"));
    SHIFTADD_CUDA_RETURN_IF_ERROR(cublas_->Multiply(p, stream));
  }
  return {};
}

}  // namespace cuda

CudaStatus CudaWorkspace::Create(int64_t max_m, int64_t max_k, uint64_t weight_bytes,
                                 std::unique_ptr<CudaWorkspace>* out) {
  std::unique_ptr<cuda::DenseWorkspace> made;
  SHIFTADD_CUDA_RETURN_IF_ERROR(cuda::DenseWorkspace::Make(max_m, max_k, weight_bytes, &made));
  *out = std::move(made);
  return {};
}

}  // namespace shiftadd::kernels
