// How many sequences are decoded together when a model writes its own calibration text.
#ifndef SHIFTADD_WORKER_REFERENCE_MICROBATCH_H_
#define SHIFTADD_WORKER_REFERENCE_MICROBATCH_H_

namespace shiftadd {

// Part of a job's signature: the rounding of a matrix product depends on its shape, so another
// microbatch gives other tokens. Weights are read once a step for all sequences of a microbatch: on
// one core 16 sequences take about 1.2 times as long as 8. Sequences 0..15, 16..31, … go together
// whoever samples them (ReferenceModel::Sample), so tasks should be cut at multiples of it.
inline constexpr int kMicrobatch = 16;

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_REFERENCE_MICROBATCH_H_
