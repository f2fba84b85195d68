// Small random models in memory, for tests.
#ifndef SHIFTADD_WORKER_REFERENCE_TESTING_RANDOM_MODEL_H_
#define SHIFTADD_WORKER_REFERENCE_TESTING_RANDOM_MODEL_H_

#include <atomic>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "worker/model/model_source.h"

namespace shiftadd::testing {

// 2 blocks, hidden 48, 6 heads over 2 key/value heads of 8, vocabulary 61: nothing is a power of
// two by chance.
ArchitectureSpec TinySpec();

// Weights that a test may look at and change. Counts reads.
class RandomModel : public WeightProvider {
 public:
  // Normal weights of deviation 1/sqrt(inputs), norms around 1, biases of 0.1: a function of (spec,
  // seed).
  RandomModel(const ArchitectureSpec& spec, uint64_t seed);
  const ArchitectureSpec& spec() const override { return spec_; }
  bool Has(const std::string& name) const override { return tensors.count(name) > 0; }
  absl::StatusOr<std::vector<float>> Read(const std::string& name) const override;

  std::map<std::string, std::vector<float>> tensors;
  mutable std::atomic<int64_t> reads{0};

 private:
  ArchitectureSpec spec_;
};

// Evenly drawn tokens, a function of (seed, count, vocab).
std::vector<int32_t> RandomTokens(uint64_t seed, int64_t count, int64_t vocab);

}  // namespace shiftadd::testing

#endif  // SHIFTADD_WORKER_REFERENCE_TESTING_RANDOM_MODEL_H_
