// What the quantization kernels use of CUDA beyond its builtins: launches, asynchronous copies and
// the fp16 tensor core. Another compiler than nvcc gets an emulation of all of CUDA instead.
#ifndef SHIFTADD_KERNELS_CUDA_QUANTIZE_PLATFORM_H_
#define SHIFTADD_KERNELS_CUDA_QUANTIZE_PLATFORM_H_

#ifndef __CUDACC__

#include "kernels/cuda/testing/simt_emulator.h"

#else

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace shiftadd::kernels::quantize {

__device__ __forceinline__ char* DynamicShared() {
  extern __shared__ __align__(1024) char shared[];
  return shared;
}

// c (16x8) += a (16x16) b (16x8), fp16 with fp32 sums; fragments as PTX lays them out.
__device__ __forceinline__ void MmaF16(float* c, const uint32_t* a, const uint32_t* b) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four 8x8 fp16 matrices; lane i gives the address of row i % 8 of matrix i / 8.
__device__ __forceinline__ void LoadMatrix4(uint32_t* out, const void* row) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(address)
               : "memory");
}

// The two fp16 of a word.
__device__ __forceinline__ float2 UnpackHalves(uint32_t word) {
  return __half22float2(*reinterpret_cast<const __half2*>(&word));
}
__device__ __forceinline__ void AtomicLargest(uint32_t* to, uint32_t value) {
  atomicMax(to, value);
}

// 16 bytes to shared memory, or zeros.
__device__ __forceinline__ void CopyAsync16(void* shared, const void* global, bool valid) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  const int size = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(global),
               "r"(size)
               : "memory");
}
__device__ __forceinline__ void CopyCommit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void CopyWait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Launches `kernel`; the error is returned and not left behind.
template <class... Parameters, class... Arguments>
cudaError_t Launch(void (*kernel)(Parameters...), dim3 grid, int threads, size_t shared,
                   cudaStream_t stream, const Arguments&... arguments) {
  if (shared > (48 << 10)) {
    const cudaError_t error = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
    if (error != cudaSuccess) {
      (void)cudaGetLastError();
      return error;
    }
  }
  kernel<<<grid, threads, shared, stream>>>(arguments...);
  return cudaGetLastError();
}

struct DeviceLimits {
  int major = 0, multiprocessors = 0;
  int shared_bytes = 0;  // that a block may have
};
inline cudaError_t CurrentDevice(DeviceLimits* out) {
  int device = 0;
  cudaError_t error = cudaGetDevice(&device);
  const auto get = [&](int* to, cudaDeviceAttr attribute) {
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(to, attribute, device);
  };
  get(&out->major, cudaDevAttrComputeCapabilityMajor);
  get(&out->multiprocessors, cudaDevAttrMultiProcessorCount);
  get(&out->shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  if (error != cudaSuccess) (void)cudaGetLastError();
  return error;
}

// Whether `p` is memory that kernels of the current device can read.
inline bool IsDevicePointer(const void* p) {
  cudaPointerAttributes attributes;
  if (cudaPointerGetAttributes(&attributes, p) != cudaSuccess) {
    (void)cudaGetLastError();
    return false;
  }
  return attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged;
}

}  // namespace shiftadd::kernels::quantize

#endif  // __CUDACC__
#endif  // SHIFTADD_KERNELS_CUDA_QUANTIZE_PLATFORM_H_
