// What CudaActivations is made of; products read view().
#ifndef SHIFTADD_KERNELS_CUDA_ACTIVATIONS_H_
#define SHIFTADD_KERNELS_CUDA_ACTIVATIONS_H_

#include <memory>

#include "kernels/cuda/buffer.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/layout.h"

namespace shiftadd::kernels::cuda {

inline constexpr int64_t kMaxTokens = int64_t{1} << 20;

// Tells sign vectors of one width apart; 0 for null.
uint64_t HashSigns(const uint32_t* signs, int64_t k);

class PackedActivations : public CudaActivations {
 public:
  static CudaStatus Make(int64_t max_m, int64_t k, int64_t group, Precision precision,
                         const uint32_t* signs, std::unique_ptr<PackedActivations>* out);

  CudaStatus Prepare(const float* x, int64_t ldx, int64_t m, CudaStream stream) override;
  CudaStatus PrepareRmsNorm(const float* x, int64_t ldx, const float* weight, float eps, int64_t m,
                            CudaStream stream) override;
  CudaStatus PrepareAddRmsNorm(const float* x, const float* add, float* sum, int64_t ldx,
                               const float* weight, float eps, int64_t m,
                               CudaStream stream) override;
  CudaStatus PrepareSiluMul(const float* gate, const float* up, int64_t ld, int64_t m,
                            CudaStream stream) override;
  CudaStatus ToHost(CudaStream stream, Activations* out) const override;

  int64_t m() const override { return view_.m; }
  int64_t k() const override { return k_; }
  int64_t group() const override { return group_; }
  Precision precision() const override { return precision_; }

  const DeviceActivations& view() const { return view_; }
  // view() as it would be with so many tokens.
  DeviceActivations ViewFor(int64_t m) const;
  uint64_t signs_hash() const { return signs_hash_; }
  bool programmatic() const { return programmatic_; }  // whether the device has it

 private:
  PackedActivations() = default;
  CudaStatus Run(PrepareParams params, Source source, int64_t m, CudaStream stream);

  int64_t max_m_ = 0, k_ = 0, group_ = 0;
  Precision precision_ = Precision::kA8;
  uint64_t signs_hash_ = 0;
  bool programmatic_ = false;
  DeviceActivations view_;
  Buffer bits_, bytes_, scales_, signs_;
};

}  // namespace shiftadd::kernels::cuda

#endif  // SHIFTADD_KERNELS_CUDA_ACTIVATIONS_H_
