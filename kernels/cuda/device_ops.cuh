// The few instructions that the kernels are made of.
#ifndef SHIFTADD_KERNELS_CUDA_DEVICE_OPS_CUH_
#define SHIFTADD_KERNELS_CUDA_DEVICE_OPS_CUH_

#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/cuda/layout.h"

namespace shiftadd::kernels::cuda {

// c[row][bit] = popc(a & b) of 16 rows and 8 columns over 128 inputs; and.popc is native from
// sm_80.
__device__ __forceinline__ void BinaryMma(uint32_t a0, uint32_t a1, uint32_t b, int (&c)[4]) {
  asm("mma.sync.aligned.m16n8k128.row.col.s32.b1.b1.s32.and.popc {%0,%1,%2,%3},{%4,%5},{%6},"
      "{%7,%8,%9,%10};"
      : "=r"(c[0]), "=r"(c[1]), "=r"(c[2]), "=r"(c[3])
      : "r"(a0), "r"(a1), "r"(b), "r"(0), "r"(0), "r"(0), "r"(0));
}

// c += a b over 32 inputs, signed bytes.
__device__ __forceinline__ void IntegerMma(const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                           int (&c)[4]) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},"
      "{%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// c += a b over 16 inputs, fp16, sums in fp32.
__device__ __forceinline__ void HalfMma(const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                        float (&c)[4]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},"
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Bytes of (low, high) by the nibbles of `selector`, each 0..7. (__byte_perm would mask them
// first.)
__device__ __forceinline__ uint32_t PickBytes(uint32_t low, uint32_t high, uint32_t selector) {
  uint32_t v;
  asm("prmt.b32 %0,%1,%2,%3;" : "=r"(v) : "r"(low), "r"(high), "r"(selector));
  return v;
}
// Bits of `ones` where `mask` is 1, of `zeros` elsewhere.
__device__ __forceinline__ uint32_t PickBits(uint32_t mask, uint32_t ones, uint32_t zeros) {
  uint32_t v;
  asm("lop3.b32 %0,%1,%2,%3,0xca;" : "=r"(v) : "r"(mask), "r"(ones), "r"(zeros));
  return v;
}

__device__ __forceinline__ float2 HalvesToFloats(uint32_t pair) {
  return __half22float2(*reinterpret_cast<const __half2*>(&pair));
}
__device__ __forceinline__ float HalfBits(uint16_t bits) {
  return __half2float(__ushort_as_half(bits));
}

// Weights are read once: keep them out of L1, where the activations live. Volatile, so that they
// stay above the wait for the previous kernel.
__device__ __forceinline__ uint4 LoadWeights16(const uint8_t* p) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3},[%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
}
__device__ __forceinline__ uint2 LoadWeights8(const uint8_t* p) {
  uint2 v;
  asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1},[%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
  return v;
}
__device__ __forceinline__ uint32_t LoadWeights4(const uint8_t* p) {
  uint32_t v;
  asm volatile("ld.global.nc.L1::no_allocate.u32 %0,[%1];" : "=r"(v) : "l"(p));
  return v;
}
__device__ __forceinline__ uint32_t LoadWeights2(const uint8_t* p) {
  uint16_t v;
  asm volatile("ld.global.nc.L1::no_allocate.u16 %0,[%1];" : "=h"(v) : "l"(p));
  return v;
}

// Activations: volatile and coherent, so that no compiler moves them above the wait.
__device__ __forceinline__ uint32_t LoadActivations4(const uint32_t* p) {
  uint32_t v;
  asm volatile("ld.global.u32 %0,[%1];" : "=r"(v) : "l"(p));
  return v;
}
__device__ __forceinline__ uint4 LoadActivations16(const uint4* p) {
  uint4 v;
  asm volatile("ld.global.v4.u32 {%0,%1,%2,%3},[%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
}
__device__ __forceinline__ ColumnScale LoadScale(const ColumnScale* p) {
  ColumnScale v;
  asm volatile("ld.global.v2.u32 {%0,%1},[%2];" : "=f"(v.scale), "=r"(v.sum) : "l"(p));
  return v;
}

// Those of two columns; p is aligned to 16 bytes.
__device__ __forceinline__ void LoadTwoScales(const ColumnScale* p, ColumnScale* out) {
  asm volatile("ld.global.v4.u32 {%0,%1,%2,%3},[%4];"
               : "=f"(out[0].scale), "=r"(out[0].sum), "=f"(out[1].scale), "=r"(out[1].sum)
               : "l"(p));
}

// Asks for `bytes` (a multiple of 16) in L2, without waiting. No-op before Hopper.
__device__ __forceinline__ void PrefetchToL2(const uint8_t* p, uint32_t bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.prefetch.L2.global [%0],%1;" ::"l"(p), "r"(bytes) : "memory");
#endif
}

// Programmatic dependent launch: let the next kernel of the stream start; wait until the one before
// is done and its writes are seen. No-ops in an ordinary launch.
__device__ __forceinline__ void StartNextKernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}
__device__ __forceinline__ void WaitForPreviousKernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

}  // namespace shiftadd::kernels::cuda

#endif  // SHIFTADD_KERNELS_CUDA_DEVICE_OPS_CUH_
