// cuBLAS, opened at run time: the benchmark is built where there is none.
#ifndef SHIFTADD_KERNELS_BENCHMARKS_CUBLAS_H_
#define SHIFTADD_KERNELS_BENCHMARKS_CUBLAS_H_

#include <cuda_runtime.h>
#include <dlfcn.h>

#include <cstdint>
#include <stdexcept>
#include <string>

namespace shiftadd::kernels {

class Cublas {
 public:
  Cublas() {
    for (const char* name : {"libcublas.so.13", "libcublas.so.12", "libcublas.so",
                             "/usr/local/cuda/lib64/libcublas.so"}) {
      if (library_ == nullptr) library_ = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    }
    if (library_ == nullptr) return;
    create_ = Symbol<Create>("cublasCreate_v2");
    set_stream_ = Symbol<SetStream>("cublasSetStream_v2");
    set_workspace_ = Symbol<SetWorkspace>("cublasSetWorkspace_v2");
    gemm_ = Symbol<Gemm>("cublasGemmEx");
    if (create_(&handle_) != 0) throw std::runtime_error("cublasCreate failed");
    if (cudaMalloc(&workspace_, kWorkspace) != cudaSuccess) throw std::runtime_error("no memory");
  }
  Cublas(const Cublas&) = delete;
  Cublas& operator=(const Cublas&) = delete;

  bool available() const { return handle_ != nullptr; }

  // y [m, n] = x [m, k] w [n, k]^T, all fp16, sums in fp32.
  void Multiply(const void* x, const void* w, void* y, int64_t m, int64_t n, int64_t k,
                cudaStream_t stream) {
    constexpr int kTranspose = 1, kNone = 0, kHalf = 2 /* CUDA_R_16F */;
    constexpr int kSum32 = 68 /* CUBLAS_COMPUTE_32F */, kDefault = -1;
    const float one = 1, zero = 0;
    const int in = static_cast<int>(k), out = static_cast<int>(n);
    if (set_stream_(handle_, stream) != 0 || set_workspace_(handle_, workspace_, kWorkspace) != 0 ||
        gemm_(handle_, kTranspose, kNone, out, static_cast<int>(m), in, &one, w, kHalf, in, x,
              kHalf, in, &zero, y, kHalf, out, kSum32, kDefault) != 0) {
      throw std::runtime_error("cublasGemmEx failed");
    }
  }

 private:
  static constexpr size_t kWorkspace = size_t{32} << 20;
  using Create = int (*)(void**);
  using SetStream = int (*)(void*, cudaStream_t);
  using SetWorkspace = int (*)(void*, void*, size_t);
  using Gemm = int (*)(void*, int, int, int, int, int, const void*, const void*, int, int,
                       const void*, int, int, const void*, void*, int, int, int, int);

  template <typename T>
  T Symbol(const char* name) {
    void* symbol = dlsym(library_, name);
    if (symbol == nullptr) throw std::runtime_error(std::string("cuBLAS has no ") + name);
    return reinterpret_cast<T>(symbol);
  }

  void* library_ = nullptr;  // never closed: cuBLAS does not like it
  void* handle_ = nullptr;
  void* workspace_ = nullptr;
  Create create_ = nullptr;
  SetStream set_stream_ = nullptr;
  SetWorkspace set_workspace_ = nullptr;
  Gemm gemm_ = nullptr;
};

}  // namespace shiftadd::kernels

#endif  // SHIFTADD_KERNELS_BENCHMARKS_CUBLAS_H_
