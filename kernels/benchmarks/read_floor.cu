#include "kernels/benchmarks/read_floor.h"

namespace shiftadd::kernels {
namespace {

__device__ uint4 Load(const uint4* p) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3},[%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
}

// Each CTA reads kDepth * blockDim.x consecutive vectors at a time; if kAhead > 0, it asks for the
// first 1/kAhead of those it reads next in L2.
template <int kDepth, int kAhead>
__global__ void ReadKernel(const uint4* data, int64_t count, uint32_t* sink) {
  uint32_t sum = 0;
  const int64_t step = int64_t{kDepth} * blockDim.x;
  for (int64_t at = blockIdx.x * step + threadIdx.x; at < count; at += gridDim.x * step) {
    uint4 v[kDepth];
#if __CUDA_ARCH__ >= 900
    if constexpr (kAhead > 0) {
      const int64_t next = at + gridDim.x * step;
      if (threadIdx.x == 0 && next + step <= count) {
        asm volatile("cp.async.bulk.prefetch.L2.global [%0],%1;" ::"l"(data + next),
                     "r"(static_cast<uint32_t>(step / kAhead) * 16)
                     : "memory");
      }
    }
#endif
#pragma unroll
    for (int i = 0; i < kDepth; ++i) {
      v[i] = make_uint4(0, 0, 0, 0);
      if (at + i * int64_t{blockDim.x} < count) v[i] = Load(data + at + i * int64_t{blockDim.x});
    }
#pragma unroll
    for (int i = 0; i < kDepth; ++i) sum += v[i].x ^ v[i].y ^ v[i].z ^ v[i].w;
  }
  if (sum == 0x12345678u) *sink = sum;
}

}  // namespace

cudaError_t LaunchRead(int variant, const void* data, int64_t bytes, uint32_t* sink,
                       cudaStream_t stream) {
  const int64_t count = bytes / 16;
  const auto* from = static_cast<const uint4*>(data);
  int threads = 256;
  int64_t ctas = 132 * 8;
  const int depth = variant == 0 ? 4 : 8;
  if (variant == 2) ctas = int64_t{1} << 30;  // one pass each
  if (variant == 3) threads = 512, ctas = 132 * 4;
  const int64_t most = (count + int64_t{depth} * threads - 1) / (int64_t{depth} * threads);
  const auto grid = static_cast<unsigned>(ctas < most ? ctas : most);
  const auto kernel = variant == 0   ? ReadKernel<4, 0>
                      : variant == 4 ? ReadKernel<8, 1>
                      : variant == 5 ? ReadKernel<8, 4>
                                     : ReadKernel<8, 0>;
  kernel<<<grid, threads, 0, stream>>>(from, count, sink);
  return cudaGetLastError();
}

}  // namespace shiftadd::kernels
