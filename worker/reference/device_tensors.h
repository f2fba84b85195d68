// Tensors from a model's source to a device. ATen types: include from .cc files of worker/reference
// and worker/quantize only.
#ifndef SHIFTADD_WORKER_REFERENCE_DEVICE_TENSORS_H_
#define SHIFTADD_WORKER_REFERENCE_DEVICE_TENSORS_H_

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <string>

#include "absl/status/statusor.h"
#include "worker/model/model_source.h"

namespace shiftadd::reference {

// Of a WeightProvider that has some tensors on a device already, exactly as its source has them.
class ResidentTensors {
 public:
  virtual ~ResidentTensors() = default;
  virtual at::Tensor Find(const std::string& name) const = 0;  // undefined: not there
};

// `name` as `type` (rounded to nearest where that is less than the source's), checked for its size
// and for numbers that are not finite: INVALID_ARGUMENT names it. What the source stores plainly
// crosses to the device as it is stored, and what `weights` has there (ResidentTensors) not at all.
// Not an inference tensor.
absl::StatusOr<at::Tensor> ReadToDevice(const WeightProvider& weights, const std::string& name,
                                        at::IntArrayRef shape, at::ScalarType type,
                                        at::Device device);

}  // namespace shiftadd::reference

#endif  // SHIFTADD_WORKER_REFERENCE_DEVICE_TENSORS_H_
