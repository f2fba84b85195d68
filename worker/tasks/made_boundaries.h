// Activations that this worker has stored itself and may be asked to read.
#ifndef SHIFTADD_WORKER_TASKS_MADE_BOUNDARIES_H_
#define SHIFTADD_WORKER_TASKS_MADE_BOUNDARIES_H_

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "worker/reference/reference_model.h"

namespace shiftadd {

// A boundary on the host: `hidden` says its shape, `rows` its numbers.
struct MadeBoundary {
  HiddenStates hidden;
  std::shared_ptr<HostCopy> rows;  // null: none
};

// By the digest of their blob, so what is found is what the store would give. Thread-safe.
class MadeBoundaries {
 public:
  // At most `bytes` of numbers are kept; the oldest go first.
  explicit MadeBoundaries(uint64_t bytes) : most_(bytes) {}

  void Keep(const std::string& digest, MadeBoundary boundary);
  MadeBoundary Find(const std::string& digest) const;

 private:
  const uint64_t most_;
  mutable std::mutex mutex_;
  uint64_t bytes_ = 0;
  std::list<std::pair<std::string, MadeBoundary>> kept_;  // the oldest in front
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_TASKS_MADE_BOUNDARIES_H_
