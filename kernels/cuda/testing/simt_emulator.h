// Runs CUDA kernels on the CPU, so that their logic is tested where there is no GPU: every thread
// of a block is a fiber, and warp and block operations are points where fibers wait for each other.
// It covers what the quantization kernels use, not CUDA: whole warps, full masks, no atomics. Races
// that only real concurrency shows stay unseen (compute-sanitizer is for those).
//
// A kernel source includes kernels/cuda/quantize/platform.h, which includes this header when the
// compiler is not nvcc. One block runs at a time; not thread-safe.
#ifndef SHIFTADD_KERNELS_CUDA_TESTING_SIMT_EMULATOR_H_
#define SHIFTADD_KERNELS_CUDA_TESTING_SIMT_EMULATOR_H_

#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <new>
#include <vector>

#include "kernels/packed_matrix.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__
#define __launch_bounds__(...)
#define __grid_constant__

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct uint3 {
  unsigned x = 0, y = 0, z = 0;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }

inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;

namespace simt {

inline constexpr int kWarp = 32;
inline constexpr size_t kStack = 128 << 10;

struct Fiber {
  ucontext_t start;
  jmp_buf state;
  bool started = false, done = false;
  std::unique_ptr<char[]> stack{new char[kStack]};
};

struct WarpState {
  int arrived = 0;
  unsigned generation = 0;
  alignas(16) char values[2][kWarp][64];
};

struct Machine {
  std::vector<std::unique_ptr<Fiber>> fibers;  // reused from block to block
  std::vector<WarpState> warps;
  std::vector<char> shared;
  std::function<void()> kernel;
  jmp_buf scheduler;
  int current = 0, live = 0, waiting = 0;
  unsigned block_generation = 0;
};
inline Machine& TheMachine() {
  static Machine machine;
  return machine;
}

// Lets the other fibers run.
[[gnu::noinline]] inline void Yield() {
  Machine& m = TheMachine();
  if (_setjmp(m.fibers[m.current]->state) == 0) _longjmp(m.scheduler, 1);
}

inline void FiberMain() {
  Machine& m = TheMachine();
  m.kernel();
  m.fibers[m.current]->done = true;
  --m.live;
  _longjmp(m.scheduler, 1);
}

[[gnu::noinline]] inline void Resume(int index) {
  Machine& m = TheMachine();
  Fiber& fiber = *m.fibers[index];
  m.current = index;
  threadIdx.x = static_cast<unsigned>(index);
  if (_setjmp(m.scheduler) != 0) return;
  if (fiber.started) _longjmp(fiber.state, 1);
  fiber.started = true;
  setcontext(&fiber.start);
}

inline void RunBlock(int threads) {
  Machine& m = TheMachine();
  m.live = threads;
  m.waiting = 0;
  m.warps.assign(threads / kWarp, WarpState());
  while (static_cast<int>(m.fibers.size()) < threads) m.fibers.push_back(std::make_unique<Fiber>());
  for (int i = 0; i < threads; ++i) {
    Fiber& fiber = *m.fibers[i];
    fiber.started = fiber.done = false;
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = fiber.stack.get();
    fiber.start.uc_stack.ss_size = kStack;
    fiber.start.uc_link = nullptr;
    makecontext(&fiber.start, FiberMain, 0);
  }
  while (m.live > 0) {
    for (int i = 0; i < threads; ++i) {
      if (!m.fibers[i]->done) Resume(i);
    }
  }
}

// Every lane of the warp brings a value and sees all 32 of them, until its next exchange.
template <class T>
const T* Exchange(const T& value) {
  static_assert(sizeof(T) <= 64);
  Machine& m = TheMachine();
  WarpState& warp = m.warps[m.current / kWarp];
  const unsigned generation = warp.generation;
  char(*values)[64] = warp.values[generation & 1];
  std::memcpy(values[m.current % kWarp], &value, sizeof value);
  if (++warp.arrived == kWarp) {
    warp.arrived = 0;
    ++warp.generation;
  } else {
    while (warp.generation == generation) Yield();
  }
  return reinterpret_cast<const T*>(values);  // 64 bytes apart, see At
}
template <class T>
const T& At(const T* values, int lane) {
  return *reinterpret_cast<const T*>(reinterpret_cast<const char*>(values) + 64 * lane);
}

inline int Lane() { return TheMachine().current % kWarp; }

inline float HalfValue(uint16_t bits) {
  static const std::vector<float> table = [] {
    std::vector<float> t(65536);
    for (int i = 0; i < 65536; ++i) t[i] = shiftadd::kernels::HalfToFloat(static_cast<uint16_t>(i));
    return t;
  }();
  return table[bits];
}

}  // namespace simt

// ---- Warp and block operations ------------------------------------------------------------------

template <class T>
T __shfl_sync(unsigned, T value, int lane) {
  const T* values = simt::Exchange(value);
  return simt::At(values, lane & 31);
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  const T* values = simt::Exchange(value);
  return simt::At(values, simt::Lane() ^ mask);
}
inline unsigned __ballot_sync(unsigned, bool predicate) {
  const int* values = simt::Exchange<int>(predicate);
  unsigned out = 0;
  for (int i = 0; i < 32; ++i) out |= static_cast<unsigned>(simt::At(values, i) != 0) << i;
  return out;
}
inline bool __all_sync(unsigned mask, bool predicate) {
  return __ballot_sync(mask, predicate) == ~0u;
}
inline void __syncwarp() { simt::Exchange(0); }
inline void __syncthreads() {
  simt::Machine& m = simt::TheMachine();
  const unsigned generation = m.block_generation;
  if (++m.waiting == m.live) {
    m.waiting = 0;
    ++m.block_generation;
  } else {
    while (m.block_generation == generation) simt::Yield();
  }
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline unsigned __float_as_uint(float x) {
  unsigned bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
inline float __uint_as_float(unsigned bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
// a b + c, rounded down.
inline float __fmaf_rd(float a, float b, float c) {
  const double exact = static_cast<double>(a) * b + c;
  const float x = static_cast<float>(exact);
  return x > exact ? std::nextafterf(x, -__builtin_huge_valf()) : x;
}

struct __half {
  uint16_t bits = 0;
};
inline __half __float2half_rn(float x) { return {shiftadd::kernels::FloatToHalf(x)}; }
inline float __half2float(__half x) { return simt::HalfValue(x.bits); }

// ---- What platform.h gives through PTX on a GPU -------------------------------------------------

namespace shiftadd::kernels::quantize {

inline char* DynamicShared() { return simt::TheMachine().shared.data(); }

inline void MmaF16(float* c, const uint32_t* a, const uint32_t* b) {
  struct Fragments {
    uint32_t a[4], b[2];
  };
  Fragments mine;
  std::memcpy(mine.a, a, sizeof mine.a);
  std::memcpy(mine.b, b, sizeof mine.b);
  const Fragments* all = simt::Exchange(mine);
  const auto half = [](uint32_t word, int i) {
    return simt::HalfValue(static_cast<uint16_t>(word >> (16 * i)));
  };
  const int row = simt::Lane() / 4, column = simt::Lane() % 4 * 2;
  for (int i = 0; i < 4; ++i) {
    const int r = row + i / 2 * 8, n = column + i % 2;
    float sum = c[i];
    for (int k = 0; k < 16; ++k) {
      const uint32_t wa =
          simt::At(all, r % 8 * 4 + k % 8 / 2).a[(r >= 8 ? 1 : 0) + (k >= 8 ? 2 : 0)];
      const uint32_t wb = simt::At(all, n * 4 + k % 8 / 2).b[k >= 8 ? 1 : 0];
      sum += half(wa, k % 2) * half(wb, k % 2);
    }
    c[i] = sum;
  }
}

inline void LoadMatrix4(uint32_t* out, const void* row) {
  const void* const* rows = simt::Exchange(row);
  for (int i = 0; i < 4; ++i) {
    const char* from = static_cast<const char*>(simt::At(rows, i * 8 + simt::Lane() / 4));
    std::memcpy(out + i, from + simt::Lane() % 4 * 4, 4);
  }
}

inline float2 UnpackHalves(uint32_t word) {
  return {simt::HalfValue(static_cast<uint16_t>(word)),
          simt::HalfValue(static_cast<uint16_t>(word >> 16))};
}
inline void AtomicLargest(uint32_t* to, uint32_t value) { *to = value > *to ? value : *to; }

inline void CopyAsync16(void* shared, const void* global, bool valid) {
  if (valid) {
    std::memcpy(shared, global, 16);
  } else {
    std::memset(shared, 0, 16);
  }
}
inline void CopyCommit() {}
template <int kPending>
void CopyWait() {}

}  // namespace shiftadd::kernels::quantize

// ---- The runtime --------------------------------------------------------------------------------

using cudaStream_t = void*;
enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInitializationError = 3,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoDevice = 100,
  cudaErrorNoKernelImageForDevice = 209,
  cudaErrorNotSupported = 801
};
enum cudaMemcpyKind { cudaMemcpyDeviceToDevice };

inline const char* cudaGetErrorString(cudaError_t) { return "emulated error"; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaMallocAsync(void** p, size_t size, cudaStream_t) {
  // As a GPU would: more than its memory is refused, nothing is zeroed.
  if (size > (size_t{8} << 30)) return cudaErrorMemoryAllocation;
  *p = std::malloc(size);
  if (*p == nullptr) return cudaErrorMemoryAllocation;
  std::memset(*p, 0xff, size);
  return cudaSuccess;
}
inline cudaError_t cudaFreeAsync(void* p, cudaStream_t) {
  std::free(p);
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* p, int value, size_t size, cudaStream_t) {
  std::memset(p, value, size);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t size, cudaMemcpyKind,
                                   cudaStream_t) {
  std::memcpy(to, from, size);
  return cudaSuccess;
}

namespace shiftadd::kernels::quantize {

template <class... Parameters, class... Arguments>
cudaError_t Launch(void (*kernel)(Parameters...), dim3 grid, int threads, size_t shared,
                   cudaStream_t, const Arguments&... arguments) {
  simt::Machine& m = simt::TheMachine();
  m.shared.assign(shared + 16, static_cast<char>(0xff));
  m.kernel = [&] { kernel(arguments...); };
  blockDim = dim3(threads);
  gridDim = grid;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = {x, y, z};
        simt::RunBlock(threads);
      }
    }
  }
  m.kernel = nullptr;
  return cudaSuccess;
}

// A device that is always there.
struct DeviceLimits {
  int major = 8, multiprocessors = 4;
  int shared_bytes = 163 << 10;
};
inline cudaError_t CurrentDevice(DeviceLimits*) { return cudaSuccess; }
inline bool IsDevicePointer(const void* p) { return p != nullptr; }

}  // namespace shiftadd::kernels::quantize

#endif  // SHIFTADD_KERNELS_CUDA_TESTING_SIMT_EMULATOR_H_
