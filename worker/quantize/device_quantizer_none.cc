// A build without CUDA.
#include "worker/quantize/device_quantizer.h"

namespace shiftadd {

bool HasDeviceQuantizer() { return false; }
bool DeviceQuantizes(const QuantRecipe&) { return false; }

absl::StatusOr<std::shared_ptr<const DeviceHessian>> DeviceHessian::Create(InputSum*, int64_t,
                                                                           const QuantRecipe&) {
  return absl::UnimplementedError("this build has no CUDA quantizer (SHIFTADD_CUDA)");
}

absl::StatusOr<std::vector<DeviceCandidate>> QuantizeLayerOnDevice(
    const WeightProvider&, const std::string&, int64_t, int64_t,
    const std::vector<std::shared_ptr<const DeviceHessian>>&, const QuantRecipe&,
    const std::vector<int>&, TaskControl*, StageSeconds*) {
  return absl::UnimplementedError("this build has no CUDA quantizer (SHIFTADD_CUDA)");
}

}  // namespace shiftadd
