// Kernel launches; each returns the launch's own error. Arguments are checked by callers.
#ifndef SHIFTADD_KERNELS_CUDA_LAUNCH_H_
#define SHIFTADD_KERNELS_CUDA_LAUNCH_H_

#include "kernels/cuda/layout.h"

namespace shiftadd::kernels::cuda {

inline constexpr int kMaxBinaryColumns = 4;
// Tiles and groups of 8 columns of a thread block of LaunchPrompt.
inline constexpr int kPromptTiles = 6;
inline constexpr int kPromptGroups8 = 8;

// p.x.columns <= kMaxBinaryColumns, p.x.slots <= 2, no part is int8/group; units >= config.warps.
cudaError_t LaunchBinary(const LaunchParams& p, const LaunchConfig& config);
// p.x.slots <= 2. config.warps <= 8.
cudaError_t LaunchInteger(const LaunchParams& p, const LaunchConfig& config);
// The same in fp16; int8/group stays in integers.
cudaError_t LaunchHalf(const LaunchParams& p, const LaunchConfig& config);
// cudaSuccess if this build has code for the current device.
cudaError_t HasCode();
// One matrix; p.x.slots is 1 and p.x.groups8 a multiple of 8.
cudaError_t LaunchPrompt(const LaunchParams& p, const LaunchConfig& config);
// Any matrix of Form::kPlain.
cudaError_t LaunchPlain(const DeviceMatrix& w, const DeviceActivations& x, float* y, int64_t ldy,
                        bool programmatic, cudaStream_t stream);

// blocks of `w` from its packed arrays; w.form is not kPlain.
cudaError_t LaunchRepack(const DeviceMatrix& w, uint8_t* blocks, cudaStream_t stream);

cudaError_t LaunchGather(const DeviceMatrix& w, const int32_t* rows, int64_t count, float* out,
                         int64_t ld, cudaStream_t stream);

enum class Source { kPlain, kRmsNorm, kAddRmsNorm, kSiluMul };

struct PrepareParams {
  const float* x = nullptr;
  const float* other = nullptr;  // RMSNorm: weight [k]; kSiluMul: up [m, ldx], x is gate
  const float* add = nullptr;    // kAddRmsNorm: [m, ldx]; the sum with x goes to `sum` [m, ldx]
  float* sum = nullptr;
  float eps = 0;
  int64_t ldx = 0, k = 0, group = 0;
  const uint32_t* signs = nullptr;
  // Writable views of `out`.
  uint32_t* bits = nullptr;
  uint8_t* bytes = nullptr;
  ColumnScale* scales = nullptr;
  DeviceActivations out;
  bool programmatic = false;
};
cudaError_t LaunchPrepare(const PrepareParams& p, Source source, cudaStream_t stream);

// Launches with or without programmatic dependent launch.
template <typename... P, typename... A>
cudaError_t LaunchShared(void (*kernel)(P...), dim3 grid, unsigned threads, size_t shared_bytes,
                         bool programmatic, cudaStream_t stream, const A&... arguments) {
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = programmatic ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, P(arguments)...);
}
template <typename... P, typename... A>
cudaError_t Launch(void (*kernel)(P...), dim3 grid, unsigned threads, bool programmatic,
                   cudaStream_t stream, const A&... arguments) {
  return LaunchShared(kernel, grid, threads, 0, programmatic, stream, arguments...);
}

// Thread blocks that run at the same time.
inline cudaError_t ResidentBlocks(void (*kernel)(LaunchParams), unsigned threads, size_t bytes,
                                  unsigned* blocks) {
  int device = 0, multiprocessors = 0, each = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  }
  if (error == cudaSuccess) {
    error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, kernel, static_cast<int>(threads),
                                                          bytes);
  }
  *blocks = static_cast<unsigned>(multiprocessors * each);
  return error;
}

// A kernel whose thread blocks multiply a tile each, and one whose share the tiles, or none.
struct TileKernels {
  void (*each)(LaunchParams) = nullptr;
  void (*shared)(LaunchParams) = nullptr;
};
// `floats`: sums of a warp.
inline cudaError_t LaunchTiles(const TileKernels& kernels, int column_groups, int floats,
                               LaunchParams p, const LaunchConfig& config) {
  const unsigned threads = static_cast<unsigned>(config.warps) * 32;
  const size_t bytes = sizeof(float) * static_cast<size_t>(config.warps * floats);
  const auto groups = static_cast<unsigned>(column_groups);
  p.ahead_units = static_cast<uint32_t>(config.ahead_units);
  if (config.share && kernels.shared != nullptr) {
    unsigned blocks = config.blocks;
    if (blocks == 0) {
      const cudaError_t error = ResidentBlocks(kernels.shared, threads, 2 * bytes, &blocks);
      if (error != cudaSuccess) return error;
    }
    if (blocks < p.tiles) {
      if (config.ahead_units > 0) p.ahead = blocks;
      return LaunchShared(kernels.shared, dim3(blocks, groups), threads, 2 * bytes,
                          config.programmatic, config.stream, p);
    }
  }
  if (config.ahead_units > 0) {
    const cudaError_t error = ResidentBlocks(kernels.each, threads, bytes, &p.ahead);
    if (error != cudaSuccess) return error;
  }
  return LaunchShared(kernels.each, dim3(p.tiles, groups), threads, bytes, config.programmatic,
                      config.stream, p);
}

}  // namespace shiftadd::kernels::cuda

#endif  // SHIFTADD_KERNELS_CUDA_LAUNCH_H_
