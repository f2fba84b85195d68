// Random numbers as a pure function of where they are used: Philox4x32-10 (Salmon, Moraes, Dror,
// Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011). No state, so nothing depends on
// order or on the number of workers.
#ifndef SHIFTADD_WORKER_REFERENCE_COUNTER_RANDOM_H_
#define SHIFTADD_WORKER_REFERENCE_COUNTER_RANDOM_H_

#include <array>
#include <cstdint>

namespace shiftadd {

// The Philox4x32 bijection with 10 rounds.
std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

// Uniform in [0, 1), a multiple of 2^-53: a function of (seed, sequence, position) only.
double UniformAt(uint64_t seed, uint64_t sequence, uint64_t position);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_REFERENCE_COUNTER_RANDOM_H_
