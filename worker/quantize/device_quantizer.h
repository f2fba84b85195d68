// Quantizes layers on the GPU: method shiftadd, from the sums that a model on the device has left
// there to packed candidates. What layer_quantizer.h does on the CPU, and in its terms. No LibTorch
// type appears here.
//
// Precision: H, its rotation and its factor in fp64, as on the CPU; the fits in fp32 with products
// of 22 bits (kernels/cuda_quantize.h); tr(W H W^T), which is only a denominator, from products in
// bf16 summed in fp32. Results differ from the CPU's as two runs with flipped ties do, and are the
// same bytes from run to run on one kind of GPU.
#ifndef SHIFTADD_WORKER_QUANTIZE_DEVICE_QUANTIZER_H_
#define SHIFTADD_WORKER_QUANTIZE_DEVICE_QUANTIZER_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/model/model_source.h"
#include "worker/quantize/layer_quantizer.h"

namespace shiftadd {

// Whether this build has the CUDA quantizer (SHIFTADD_CUDA).
bool HasDeviceQuantizer();
// Whether it takes this recipe: method shiftadd, groups of a multiple of 32 inputs or whole rows.
bool DeviceQuantizes(const QuantRecipe& recipe);

// PreparedHessian on the device. Immutable.
class DeviceHessian {
 public:
  virtual ~DeviceHessian() = default;
  // Takes `sum`, of a model on a device, over `tokens` tokens. As PreparedHessian::Create.
  // RESOURCE_EXHAUSTED says for what the device's memory was too small.
  static absl::StatusOr<std::shared_ptr<const DeviceHessian>> Create(InputSum* sum, int64_t tokens,
                                                                     const QuantRecipe& recipe);
};

struct DeviceCandidate {
  Candidate figures;  // all but the blob
  // Makes the blob: on any thread, once. INVALID_ARGUMENT: a scale that leaves fp16's range.
  std::function<absl::StatusOr<std::string>()> blob;
};

// QuantizeLayer, of `weights`' tensor `name` [n, k]. One Hessian for all rows, or one for each of
// equal consecutive chunks of rows. Returns when the device is done.
absl::StatusOr<std::vector<DeviceCandidate>> QuantizeLayerOnDevice(
    const WeightProvider& weights, const std::string& name, int64_t n, int64_t k,
    const std::vector<std::shared_ptr<const DeviceHessian>>& chunks, const QuantRecipe& recipe,
    const std::vector<int>& bits, TaskControl* control, StageSeconds* seconds);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_QUANTIZE_DEVICE_QUANTIZER_H_
