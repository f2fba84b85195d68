// Tiny models of every family, as tests/golden/make_families.py made them with transformers.
#ifndef SHIFTADD_WORKER_MODEL_TESTING_GOLDEN_FAMILY_H_
#define SHIFTADD_WORKER_MODEL_TESTING_GOLDEN_FAMILY_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "nlohmann/json.hpp"

namespace shiftadd::testing {

// Cases of tests/golden/families.json. Aborts if the file cannot be read.
const nlohmann::json& GoldenFamilies();

// Cases of tests/golden/family_ggufs.json.
const nlohmann::json& GoldenGgufs();

// The names of such cases, and the case that has this one. Aborts if there is none.
std::vector<std::string> GoldenNames(const nlohmann::json& cases);
const nlohmann::json& GoldenCase(const nlohmann::json& cases, const std::string& name);
// The name as one of a test.
std::string GoldenTestName(const std::string& name);

// Writes the file of such a case: its head as the gguf package made it, the tensors behind it.
absl::Status WriteGoldenGguf(const nlohmann::json& golden, const std::string& path);

// The weights that make_families.py gave tensor `name`.
std::vector<float> GoldenWeight(const std::string& name, const std::vector<int64_t>& shape,
                                bool zero_norms);

// Creates the directory of a case's model: config.json, model.safetensors in fp32, or `halves`: in
// fp16, and the tiny LLaMA's tokenizer. `drop`: tensors that begin with this are written without
// it.
absl::Status WriteGoldenFamily(const nlohmann::json& golden, const std::string& directory,
                               const std::string& drop = "", bool halves = false);

// The largest difference from the logits of a case, [tokens, vocab], over its range of logits.
double GoldenError(const nlohmann::json& golden, const std::vector<float>& logits);

}  // namespace shiftadd::testing

#endif  // SHIFTADD_WORKER_MODEL_TESTING_GOLDEN_FAMILY_H_
