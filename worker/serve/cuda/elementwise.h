// Small float kernels between the products. Launches; arguments are checked by callers. Rows are
// contiguous unless a stride is named.
#ifndef SHIFTADD_WORKER_SERVE_CUDA_ELEMENTWISE_H_
#define SHIFTADD_WORKER_SERVE_CUDA_ELEMENTWISE_H_

#include <cuda_runtime.h>

#include <cstdint>

namespace shiftadd::cuda {

// out = RMSNorm(x + add) * weight; add may be null, otherwise the sum goes to `sum`. [rows, width]
struct NormParams {
  const float* x = nullptr;
  const float* add = nullptr;
  float* sum = nullptr;
  const float* weight = nullptr;
  float eps = 0;
  float* out = nullptr;
  int64_t width = 0;
};
cudaError_t LaunchRmsNorm(const NormParams& p, int64_t rows, cudaStream_t stream);

// out [rows, width] = silu(gate) * up; gate, up: row stride ld.
cudaError_t LaunchSiluMul(const float* gate, const float* up, int64_t ld, float* out, int64_t rows,
                          int64_t width, cudaStream_t stream);

// y[row] += bias; row stride of y: ld.
cudaError_t LaunchAddBias(float* y, int64_t ld, const float* bias, int64_t rows, int64_t width,
                          cudaStream_t stream);

// out[i] = x[wanted[i]] + add[wanted[i]]; add may be null.
cudaError_t LaunchGatherSum(const float* x, const float* add, const int32_t* wanted, float* out,
                            int64_t count, int64_t width, cudaStream_t stream);

// x[row] = x[row] * scale + table[positions[row] + offset]; table [.., width] may be null.
struct EmbedParams {
  float* x = nullptr;
  float scale = 1;
  const float* table = nullptr;
  const int32_t* positions = nullptr;
  int64_t offset = 0, width = 0;
};
cudaError_t LaunchFinishEmbedding(const EmbedParams& p, int64_t rows, cudaStream_t stream);

// A norm's weights [width]; a bias makes it a layer norm, otherwise RMS. weight null: no norm.
struct NormView {
  const float* weight = nullptr;
  const float* bias = nullptr;
};
// What stands between two sublayers, for every place that norms can have:
//   sum = x + post(delta), or norm(x + delta) if `after`;   out = norm(sum), or sum if `after`
// delta may be null (0); sum may be x, and out null (not written) or sum.
struct JoinParams {
  const float* x = nullptr;
  const float* delta = nullptr;
  NormView post, norm;
  bool after = false;
  float eps = 0;
  float* sum = nullptr;
  float* out = nullptr;
  int64_t width = 0;
};
cudaError_t LaunchJoin(const JoinParams& p, int64_t rows, cudaStream_t stream);

// out [rows, width] = act(gate) * up, or act(gate) where up is null; row stride of both: ld.
enum class ActKind { kSilu, kGeluTanh, kRelu };
cudaError_t LaunchActivate(ActKind kind, const float* gate, const float* up, int64_t ld, float* out,
                           int64_t rows, int64_t width, cudaStream_t stream);

// x = cap * tanh(x / cap), `count` numbers.
cudaError_t LaunchSoftCap(float* x, float cap, int64_t count, cudaStream_t stream);

// How the numbers of a raw matrix are kept: the narrowest that holds them all exactly.
enum class RawType { kF16, kBF16, kF32 };
struct RawMatrix {
  RawType type = RawType::kF32;
  const void* data = nullptr;  // device [rows, cols]
  int64_t rows = 0, cols = 0;
};
// y [tokens, w.rows] (row stride ldy) = x [tokens, w.cols] w^T in fp32. A token's sums do not
// depend on the others.
cudaError_t LaunchRawMultiply(const RawMatrix& w, const float* x, int64_t tokens, float* y,
                              int64_t ldy, cudaStream_t stream);
// out [count, w.cols]: rows of w.
cudaError_t LaunchRawGather(const RawMatrix& w, const int32_t* rows, int64_t count, float* out,
                            cudaStream_t stream);

}  // namespace shiftadd::cuda

#endif  // SHIFTADD_WORKER_SERVE_CUDA_ELEMENTWISE_H_
