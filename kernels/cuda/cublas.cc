#include "kernels/cuda/cublas.h"

#include <dlfcn.h>

#include <cstdlib>

namespace shiftadd::kernels::cuda {
namespace {

constexpr size_t kWorkspaceBytes = size_t{32} << 20;  // what NVIDIA recommends for sm_90
// Values of cuBLAS's own enumerations.
constexpr int kNone = 0, kTranspose = 1, kHalf = 2, kFloat = 0, kSumInFloat = 68, kDefault = -1;
constexpr int kPointersToDevice = 1;

CudaStatus FromCublas(int status, const char* call) {
  if (status == 0) return {};
  (void)cudaGetLastError();
  const bool memory = status == 3;  // CUBLAS_STATUS_ALLOC_FAILED
  return {memory ? CudaCode::kOutOfMemory : CudaCode::kInternal,
          std::string(call) + " failed with status " + std::to_string(status)};
}

// Libraries stay open: cuBLAS does not like to be closed.
CudaStatus OpenLibrary(void** out) {
  const char* named = std::getenv("SHIFTADD_CUBLAS");
  std::string errors;
  for (const char* name :
       {named, "libcublas.so.13", "libcublas.so.12", "/usr/local/cuda/lib64/libcublas.so.13",
        "/usr/local/cuda/lib64/libcublas.so.12"}) {
    if (name == nullptr) continue;
    *out = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (*out != nullptr) return {};
    const char* error = dlerror();
    errors += (errors.empty() ? "" : "; ") + std::string(error == nullptr ? name : error);
    if (named != nullptr) break;
  }
  return {CudaCode::kUnavailable, "no cuBLAS: " + errors};
}

template <typename T>
CudaStatus FindSymbol(void* library, const char* name, T* out) {
  *out = reinterpret_cast<T>(dlsym(library, name));
  if (*out != nullptr) return {};
  return {CudaCode::kUnavailable, std::string("cuBLAS has no ") + name};
}

}  // namespace

CudaStatus Cublas::FindSymbols(void* library) {
  SHIFTADD_CUDA_RETURN_IF_ERROR(FindSymbol(library, "cublasCreate_v2", &create_));
  SHIFTADD_CUDA_RETURN_IF_ERROR(FindSymbol(library, "cublasDestroy_v2", &destroy_));
  SHIFTADD_CUDA_RETURN_IF_ERROR(FindSymbol(library, "cublasGetVersion_v2", &get_version_));
  SHIFTADD_CUDA_RETURN_IF_ERROR(FindSymbol(library, "cublasSetStream_v2", &set_stream_));
  SHIFTADD_CUDA_RETURN_IF_ERROR(FindSymbol(library, "cublasSetWorkspace_v2", &set_workspace_));
  SHIFTADD_CUDA_RETURN_IF_ERROR(FindSymbol(library, "cublasSetPointerMode_v2", &set_pointer_mode_));
  return FindSymbol(library, "cublasGemmEx_64", &gemm_);
}

CudaStatus Cublas::Open(std::unique_ptr<Cublas>* out) {
  void* library = nullptr;
  SHIFTADD_CUDA_RETURN_IF_ERROR(OpenLibrary(&library));
  auto cublas = std::unique_ptr<Cublas>(new Cublas);
  SHIFTADD_CUDA_RETURN_IF_ERROR(cublas->FindSymbols(library));
  if (const CudaStatus s = FromCublas(cublas->create_(&cublas->handle_), "cublasCreate"); !s.ok()) {
    cublas->handle_ = nullptr;
    return s;
  }
  int version = 0;
  SHIFTADD_CUDA_RETURN_IF_ERROR(
      FromCublas(cublas->get_version_(cublas->handle_, &version), "cublasGetVersion"));
  cublas->version_ = "cuBLAS " + std::to_string(version / 10000) + "." +
                     std::to_string(version / 100 % 100) + "." + std::to_string(version % 100);
  SHIFTADD_CUDA_RETURN_IF_ERROR(FromCublas(
      cublas->set_pointer_mode_(cublas->handle_, kPointersToDevice), "cublasSetPointerMode"));
  SHIFTADD_CUDA_RETURN_IF_ERROR(cublas->workspace_.Allocate(kWorkspaceBytes));
  *out = std::move(cublas);
  return {};
}

Cublas::~Cublas() {
  if (handle_ != nullptr) (void)destroy_(handle_);
}

CudaStatus Cublas::Multiply(const HalfProduct& p, cudaStream_t stream) {
  SHIFTADD_CUDA_RETURN_IF_ERROR(FromCublas(set_stream_(handle_, stream), "cublasSetStream"));
  // A new stream takes the workspace away.
  SHIFTADD_CUDA_RETURN_IF_ERROR(FromCublas(
      set_workspace_(handle_, workspace_.as<void>(), kWorkspaceBytes), "cublasSetWorkspace"));
  // Column-major, y is [n, m].
  return FromCublas(
      gemm_(handle_, kTranspose, kNone, p.n, p.m, p.k, p.factor, p.w, kHalf, p.ldw, p.x, kHalf,
            p.ldx, p.zero, p.y, p.half_output ? kHalf : kFloat, p.ldy, kSumInFloat, kDefault),
      "cublasGemmEx");
}

}  // namespace shiftadd::kernels::cuda
