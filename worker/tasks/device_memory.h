// What a worker's GPU and its host hold at most, phase by phase: arithmetic over shapes, made while
// planning. It follows what half_model.cc, half_guide.cc, staged_weights.cc, calibrate.cc,
// device_hessian.cc and cuda_quantize.h allocate, for a model of which one block at a time is on
// the GPU (smaller ones stay there whole), rounded up where an operator's own scratch is not known.
#ifndef SHIFTADD_WORKER_TASKS_DEVICE_MEMORY_H_
#define SHIFTADD_WORKER_TASKS_DEVICE_MEMORY_H_

#include <cstdint>
#include <vector>

#include "shiftadd/v1/job.pb.h"
#include "worker/model/architecture_spec.h"

namespace shiftadd {

// Whether a GPU calibrates a model in fp32: those beyond the LLaMA form with at most 2^30 weights.
// bf16 products cost Gemma-3-270M 8 % of KL (tests/results/families_real.md), and save it a few
// seconds. What is planned and what runs ask here.
bool CalibratesInFloat(const ArchitectureSpec& spec);

// Phases in the order of the job: token weights (guided only), Hessians, the factor and the fits of
// the layer that takes most, evaluation.
std::vector<v1::DevicePhase> PlanDeviceMemory(const ArchitectureSpec& spec,
                                              const v1::Recipe& recipe,
                                              const v1::Calibration& calibration,
                                              const v1::Evaluation& evaluation);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_TASKS_DEVICE_MEMORY_H_
