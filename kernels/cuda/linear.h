// What CudaLinear is made of; products read it.
#ifndef SHIFTADD_KERNELS_CUDA_LINEAR_INTERNAL_H_
#define SHIFTADD_KERNELS_CUDA_LINEAR_INTERNAL_H_

#include <memory>

#include "kernels/cuda/buffer.h"
#include "kernels/cuda/layout.h"
#include "kernels/cuda/shift_table.h"

namespace shiftadd::kernels::cuda {

class PackedLinear : public CudaLinear {
 public:
  static CudaStatus Make(const PackedMatrix& m, CudaStream stream,
                         std::unique_ptr<PackedLinear>* out);

  CudaStatus GatherRows(const int32_t* rows, int64_t count, float* out, int64_t ld,
                        CudaStream stream) const override;
  int64_t n() const override { return view_.n; }
  int64_t k() const override { return view_.k; }
  int64_t group() const override { return view_.group; }
  Rotation rotation() const override {
    return view_.signs != nullptr ? Rotation::kWht128 : Rotation::kNone;
  }
  uint64_t bytes() const override;

  const DeviceMatrix& view() const { return view_; }
  const ShiftTable& shift_table() const { return shift_table_; }
  uint64_t signs_hash() const { return signs_hash_; }
  // Weights divided by 2^half_exponent() are below 2^15: for fp16.
  int half_exponent() const { return half_exponent_; }

 private:
  PackedLinear() = default;
  void ChooseForm(const PackedMatrix& m);
  CudaStatus Upload(const PackedMatrix& m, cudaStream_t stream);
  CudaStatus Tile(cudaStream_t stream);

  DeviceMatrix view_;
  ShiftTable shift_table_;
  uint64_t signs_hash_ = 0;
  int half_exponent_ = 0;
  Buffer blocks_, signs_;
  Buffer planes_, scale_, exponents_, alpha_, zetas_, codes_;  // kPlain, and until tiled
};

}  // namespace shiftadd::kernels::cuda

#endif  // SHIFTADD_KERNELS_CUDA_LINEAR_INTERNAL_H_
