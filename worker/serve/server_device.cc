#include "worker/serve/server_device.h"

#include "worker/machine/gpu.h"
#include "worker/machine/probe.h"
#include "worker/serve/cuda/cuda_model.h"

namespace shiftadd {
namespace {

// The driver's own answer says more than the runtime's.
absl::Status Fault(const CudaFindings& found) {
  const absl::Status status = DescribeCudaDevice().status();
  if (status.ok() || CudaVersionOfBuild() == 0) return status;
  const std::string fault = CudaFault(found, CudaVersionOfBuild());
  return fault.empty() ? status : absl::FailedPreconditionError(fault);
}

}  // namespace

absl::Status CudaServes() { return Fault(FindCudaHere()); }

std::string ServerProbe() {
  Probe probe = StartProbe("shiftadd-server");
  const absl::Status fault = Fault(probe.cuda);
  probe.cuda_fault = std::string(fault.message());
  if (fault.ok()) {
    const absl::StatusOr<std::string> cublas = DescribeCublas();
    probe.libraries.push_back(
        {"cuBLAS", cublas.ok() ? *cublas : "", std::string(cublas.status().message())});
  }
  return ToJson(probe);
}

}  // namespace shiftadd
