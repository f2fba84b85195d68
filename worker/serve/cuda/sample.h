// Tokens from logits on the device, as Sampler (worker/serve/sampler.h) draws them without filters.
#ifndef SHIFTADD_WORKER_SERVE_CUDA_SAMPLE_H_
#define SHIFTADD_WORKER_SERVE_CUDA_SAMPLE_H_

#include <cuda_runtime.h>

#include <cstdint>

namespace shiftadd::cuda {

inline constexpr int kSampleParts = 64;  // of a row's logits, one thread block each

// What a part found.
struct SamplePart {
  double sum;    // of exp((logit - top) / temperature)
  float top;     // the largest logit; -infinity if all are NaN
  int32_t best;  // the first that is the largest; -1 if all are NaN
};

struct SampleParams {
  const float* logits = nullptr;  // [rows, vocab]
  int64_t vocab = 0;
  const float* temperature = nullptr;  // [rows]; below 1e-6: greedy
  const double* uniform = nullptr;     // [rows], in [0, 1)
  SamplePart* parts = nullptr;         // [rows, kSampleParts]
  int32_t* tokens = nullptr;           // [rows]: the token, or -1 if no logit is finite
};
// Greedy: the first of the largest logits. Otherwise the first token whose cumulative weight
// exceeds `uniform` of the total; weights are exponentials in fp32, sums are fp64, all in a fixed
// order.
cudaError_t LaunchSample(const SampleParams& p, int64_t rows, cudaStream_t stream);

}  // namespace shiftadd::cuda

#endif  // SHIFTADD_WORKER_SERVE_CUDA_SAMPLE_H_
