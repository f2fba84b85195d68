#include "worker/reference/torch_seam.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/ones.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>
#include <dlfcn.h>
#include <torch/headeronly/version.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "worker/reference/reference_model.h"

namespace shiftadd {
namespace {

absl::Status FromMessage(std::string message) {
  message.resize(std::min(message.size(), message.find('\n')));
  if (absl::StrContains(message, "allocate memory") ||
      absl::StrContains(message, "out of memory")) {
    return absl::ResourceExhaustedError(absl::StrCat("LibTorch is out of memory: ", message));
  }
  return absl::InternalError(absl::StrCat("LibTorch: ", message));
}

std::string& LibraryFault() {
  static std::string fault;
  return fault;
}

}  // namespace

void InitTorch() {
  static std::once_flag once;
  std::call_once(once, [] {
    // The CUDA half of LibTorch registers itself when it is loaded. It is large: not without a
    // driver.
    if (dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL) != nullptr &&
        dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL) == nullptr) {
      const char* const error = dlerror();
      LibraryFault() = error == nullptr ? "libtorch_cuda.so cannot be loaded" : error;
    }
    at::set_num_threads(1);
    // fp32 means fp32.
    at::globalContext().setAllowTF32CuBLAS(false);
    // Where a fixed order is asked for (half_block.cc), memory need not be filled for it.
    at::globalContext().setDeterministicFillUninitializedMemory(false);
  });
}

std::string TorchVersion() { return TORCH_VERSION; }

const std::string& CudaLibraryFault() { return LibraryFault(); }

bool HasCuda() { return at::hasCUDA() && at::getNumGPUs() > 0; }

absl::Status CheckCuda() {
  return CatchTorch([]() -> absl::Status {
    const at::Tensor one = at::ones({1}, at::TensorOptions(at::kCUDA)).add_(1.0).cpu();
    if (one.item<float>() == 2.0f) return absl::OkStatus();
    return absl::InternalError(absl::StrCat("1 + 1 is ", one.item<float>()));
  });
}

absl::Status CatchTorch(const std::function<absl::Status()>& work) {
  try {
    c10::InferenceMode inference;
    return work();
  } catch (const c10::Error& e) {
    return FromMessage(e.what_without_backtrace());
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("out of memory");
  } catch (const std::exception& e) {
    return FromMessage(e.what());
  }
}

absl::Status ParallelFor(int64_t count, int threads,
                         const std::function<absl::Status(int64_t)>& work) {
  std::atomic<int64_t> next{0};
  std::mutex mutex;
  int64_t failed_index = count;
  absl::Status failure;
  const auto run = [&] {
    at::set_num_threads(1);  // OpenMP keeps this per thread
    while (true) {
      const int64_t i = next.fetch_add(1);
      if (i >= count) return;
      absl::Status status = CatchTorch([&] { return work(i); });
      if (status.ok()) continue;
      next = count;
      std::lock_guard<std::mutex> lock(mutex);
      if (i < failed_index) {
        failed_index = i;
        failure = std::move(status);
      }
    }
  };
  std::vector<std::thread> others;
  const int64_t wanted = std::min<int64_t>(count, std::max(threads, 1));
  for (int64_t t = 1; t < wanted; ++t) {
    try {
      others.emplace_back(run);
    } catch (const std::exception&) {
      break;  // no more threads to be had: those that run do the work
    }
  }
  run();
  for (std::thread& thread : others) thread.join();
  return failure;
}

}  // namespace shiftadd
