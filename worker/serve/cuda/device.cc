#include "worker/serve/cuda/device.h"

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"

namespace shiftadd::cuda {

absl::Status ToStatus(const kernels::CudaStatus& status) {
  switch (status.code) {
    case kernels::CudaCode::kOk:
      return absl::OkStatus();
    case kernels::CudaCode::kInvalidArgument:
      return absl::InvalidArgumentError(status.message);
    case kernels::CudaCode::kUnavailable:
      return absl::FailedPreconditionError(status.message);
    case kernels::CudaCode::kOutOfMemory:
      return absl::ResourceExhaustedError(status.message);
    case kernels::CudaCode::kInternal:
      break;
  }
  return absl::InternalError(status.message);
}

absl::Status ToStatus(cudaError_t error, absl::string_view what) {
  if (error == cudaSuccess) return absl::OkStatus();
  return ToStatus(kernels::cuda::FromCuda(error, std::string(what)));
}

absl::StatusOr<std::string> DescribeDevice() {
  SA_RETURN_IF_ERROR(ToStatus(kernels::CudaAvailable()));
  int device = 0, driver = 0;
  cudaDeviceProp properties = {};
  SA_RETURN_IF_ERROR(ToStatus(cudaGetDevice(&device), "finding the device"));
  SA_RETURN_IF_ERROR(ToStatus(cudaGetDeviceProperties(&properties, device), "the device"));
  SA_RETURN_IF_ERROR(ToStatus(cudaDriverGetVersion(&driver), "the driver"));
  return absl::StrCat("cuda:", device, ", ", properties.name, " (compute capability ",
                      properties.major, ".", properties.minor, ", ",
                      properties.totalGlobalMem >> 20, " MiB, driver for CUDA ", driver / 1000, ".",
                      driver % 1000 / 10, ")");
}

absl::StatusOr<DeviceMemory> AskMemory() {
  DeviceMemory out;
  SA_RETURN_IF_ERROR(ToStatus(cudaMemGetInfo(&out.free, &out.total), "asking for free memory"));
  return out;
}

absl::StatusOr<Stream> Stream::Create() {
  cudaStream_t stream = nullptr;
  SA_RETURN_IF_ERROR(
      ToStatus(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "creating a stream"));
  return Stream(stream);
}

absl::Status PinnedBuffer::Allocate(size_t size) {
  return ToStatus(cudaMallocHost(&data_, size),
                  absl::StrCat("allocating ", size, " bytes of page-locked memory"));
}

}  // namespace shiftadd::cuda
