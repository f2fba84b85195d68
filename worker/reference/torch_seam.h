// Where LibTorch's exceptions become statuses, and threads that compute with it. No LibTorch type
// appears here.
#ifndef SHIFTADD_WORKER_REFERENCE_TORCH_SEAM_H_
#define SHIFTADD_WORKER_REFERENCE_TORCH_SEAM_H_

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"

namespace shiftadd {

// Runs `work` in inference mode (no autograd). Out of memory becomes RESOURCE_EXHAUSTED, any other
// exception INTERNAL, each with the exception's first line.
absl::Status CatchTorch(const std::function<absl::Status()>& work);

// work(0) … work(count - 1) over at most `threads` threads, each with one ATen thread, in inference
// mode. Indices are handed out in order. After an error no further index starts; the error of the
// lowest index that failed is returned.
absl::Status ParallelFor(int64_t count, int threads,
                         const std::function<absl::Status(int64_t)>& work);

// "2.11.0", and the CUDA that its CUDA half is built for (13000 is 13.0).
std::string TorchVersion();
inline constexpr int kTorchCuda = 13000;
// Why LibTorch's CUDA half could not be loaded although there is a driver; else empty. After
// InitTorch.
const std::string& CudaLibraryFault();
// True if LibTorch's CUDA half is loaded and sees a device. After InitTorch.
bool HasCuda();
// Whether the CUDA device still answers: INTERNAL says how it failed. After some faults (a device
// that is gone, a kernel that went astray) none of the process's work on it succeeds any more.
absl::Status CheckCuda();

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_REFERENCE_TORCH_SEAM_H_
