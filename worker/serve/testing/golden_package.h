// The golden package (tests/golden/tiny_package): a package of format 1.0 that every later version
// must load, and the logits that it must give.
#ifndef SHIFTADD_WORKER_SERVE_TESTING_GOLDEN_PACKAGE_H_
#define SHIFTADD_WORKER_SERVE_TESTING_GOLDEN_PACKAGE_H_

#include <string>

#include "absl/status/statusor.h"
#include "worker/model/testing/tiny_llama.h"

namespace shiftadd::testing {

inline constexpr char kGoldenReference[] = "golden:v1";
// What is tokenized and run.
inline constexpr char kGoldenText[] = "Shift and add: 日本語 😀.";
// The answers hold the logits of every kGoldenStride-th token id, at each position.
inline constexpr int kGoldenStride = 8;

// The model that was quantized: a tail in every width (64 = half a rotation block, 160 = 128 + 32).
TinyLlamaOptions GoldenModelOptions();

// Loads the package from the OCI image layout in `directory` and gives the JSON of answers.json:
// {"text", "ids", "stride", "logits": [position][id / stride]} at 16-bit activations.
absl::StatusOr<std::string> GoldenAnswers(const std::string& directory);

}  // namespace shiftadd::testing

#endif  // SHIFTADD_WORKER_SERVE_TESTING_GOLDEN_PACKAGE_H_
