// Self-written calibration text, decoded on a device. ATen types: include from .cc files of
// worker/reference only.
#ifndef SHIFTADD_WORKER_REFERENCE_DEVICE_SAMPLER_H_
#define SHIFTADD_WORKER_REFERENCE_DEVICE_SAMPLER_H_

#include <cstdint>
#include <memory>

#include "worker/reference/plain_decoder.h"
#include "worker/reference/reference_model.h"

namespace shiftadd::reference {

// Decodes kMicrobatch sequences at a time: sequence s always in place s % kMicrobatch among as many
// others, so that every product has the same shape and s is the same whichever call makes it. Not
// thread-safe.
class DeviceSampler {
 public:
  // Sequences of at most `length` tokens. The whole model is on the device, in `type`; the head and
  // its product are in fp32.
  static absl::StatusOr<std::unique_ptr<DeviceSampler>> Create(const WeightProvider& weights,
                                                               at::Device device,
                                                               at::ScalarType type, int64_t length);

  // What the weights and caches of Create take on the device.
  static uint64_t Bytes(const ArchitectureSpec& spec, at::ScalarType type, int64_t length);

  int64_t length() const { return length_; }

  // As ReferenceModel::Sample; the arguments have been checked. `threads` draw on the host.
  // `control` may be null.
  absl::Status Sample(uint64_t seed, int64_t first, int64_t count, int64_t length, int threads,
                      TaskControl* control, int32_t* out);

 private:
  DeviceSampler(const ArchitectureSpec& spec, at::Device device, int64_t length)
      : s_(spec), device_(device), length_(length) {}
  // Sequences kMicrobatch * group …: tokens [kMicrobatch, length]. Those outside [begin, end) were
  // not asked for: their logits may be anything.
  absl::Status SampleGroup(uint64_t seed, int64_t group, int64_t begin, int64_t end, int64_t length,
                           int threads, double share, TaskControl* control, int32_t* tokens);

  const ArchitectureSpec s_;
  const at::Device device_;
  const int64_t length_;
  std::unique_ptr<PlainDecoder> decoder_;
  at::Tensor host_logits_;  // [kMicrobatch, vocab] fp32
};

}  // namespace shiftadd::reference

#endif  // SHIFTADD_WORKER_REFERENCE_DEVICE_SAMPLER_H_
