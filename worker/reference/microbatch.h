// How many windows a part of the calibration or of the held-out set has.
#ifndef SHIFTADD_WORKER_REFERENCE_MICROBATCH_H_
#define SHIFTADD_WORKER_REFERENCE_MICROBATCH_H_

namespace shiftadd {

// Part of a job's signature: statistics over windows are summed part by part. It is also what a
// model that writes its own text decodes side by side (decode_kernels.h), reading its weights once
// for all of them.
inline constexpr int kMicrobatch = 16;

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_REFERENCE_MICROBATCH_H_
