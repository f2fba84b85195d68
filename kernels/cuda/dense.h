// Launches that turn activations and weights to fp16, for cuBLAS.
//
// Both put input 32 w + j + 4 m of a half (w, j = 0..3, m = 0..7) at 32 j + 8 w + m of its 128
// values: the order that planes are decoded in. A sum over inputs does not care. Both are scaled by
// powers of two so that their largest magnitude lies below 2^15; factor takes that back.
#ifndef SHIFTADD_KERNELS_CUDA_DENSE_H_
#define SHIFTADD_KERNELS_CUDA_DENSE_H_

#include "kernels/cuda/layout.h"

namespace shiftadd::kernels::cuda {

inline constexpr int kDenseParts = 64;
inline constexpr int kDenseTopExponent = 14;

struct DenseScalars {
  float factor;  // of the product in progress
  float zero;
  float x_unit;             // what a unit of the fp16 activations stands for
  float tops[kDenseParts];  // largest scales of parts of the activations
};

struct DenseWeights {
  int64_t first_row = 0, rows = 0;  // first_row is a multiple of kTileRows
  int64_t stride = 0;               // of `out`, in values; a multiple of 128, >= k
  uint16_t* out = nullptr;          // [rows rounded up to kTileRows, stride]
  DenseScalars* scalars = nullptr;
  int exponent = 0;  // weights are divided by 2^exponent
  ShiftSets sets;    // bcq/shift: integer path
  float unit = 1;    // bcq/shift: of the integers
};

// out [x.m, stride]; sets x_unit.
cudaError_t LaunchDenseActivations(const DeviceActivations& x, int64_t stride, uint16_t* out,
                                   DenseScalars* scalars, cudaStream_t stream);
// Rows of any matrix; sets factor.
cudaError_t LaunchDenseWeights(const DeviceMatrix& w, const DenseWeights& to, cudaStream_t stream);
// The part of it for Form::kPlain.
cudaError_t LaunchDensePlain(const DeviceMatrix& w, const DenseWeights& to, cudaStream_t stream);

}  // namespace shiftadd::kernels::cuda

#endif  // SHIFTADD_KERNELS_CUDA_DENSE_H_
