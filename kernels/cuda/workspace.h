// What CudaWorkspace is made of.
#ifndef SHIFTADD_KERNELS_CUDA_WORKSPACE_H_
#define SHIFTADD_KERNELS_CUDA_WORKSPACE_H_

#include <memory>
#include <string>

#include "kernels/cuda/activations.h"
#include "kernels/cuda/buffer.h"
#include "kernels/cuda/cublas.h"
#include "kernels/cuda/linear.h"

namespace shiftadd::kernels::cuda {

class DenseWorkspace : public CudaWorkspace {
 public:
  static CudaStatus Make(int64_t max_m, int64_t max_k, uint64_t weight_bytes,
                         std::unique_ptr<DenseWorkspace>* out);

  bool dense() const override { return cublas_ != nullptr; }
  std::string cublas() const override;
  uint64_t bytes() const override;

  // Whether a product of `x` fits, and the current device is the workspace's.
  CudaStatus Check(const PackedActivations& x) const;
  // x as fp16, for the products that follow.
  CudaStatus Start(const PackedActivations& x, cudaStream_t stream);
  CudaStatus Multiply(const PackedActivations& x, const PackedLinear& w, const CudaProduct& product,
                      cudaStream_t stream);

 private:
  DenseWorkspace() = default;

  int64_t max_m_ = 0, max_k_ = 0;
  int device_ = 0;
  std::string why_not_;
  std::unique_ptr<Cublas> cublas_;
  Buffer x_, weights_, scalars_;
};

}  // namespace shiftadd::kernels::cuda

#endif  // SHIFTADD_KERNELS_CUDA_WORKSPACE_H_
