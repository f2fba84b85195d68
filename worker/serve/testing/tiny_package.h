// A small random package in memory, for tests: planes and scales are drawn, nothing is quantized.
#ifndef SHIFTADD_WORKER_SERVE_TESTING_TINY_PACKAGE_H_
#define SHIFTADD_WORKER_SERVE_TESTING_TINY_PACKAGE_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "nlohmann/json.hpp"
#include "worker/model/architecture_spec.h"
#include "worker/model/model_source.h"
#include "worker/model/testing/tiny_llama.h"
#include "worker/serve/packed_model.h"

namespace shiftadd::testing {

struct TinyPackageOptions {
  TinyLlamaOptions model;
  std::optional<ArchitectureSpec> spec;  // instead of the tiny LLaMA's
  std::vector<int> bits = {2, 3, 4};     // taken in turn by the layers; 0 = raw
  bool rotated = true;
  bool zeta = false;
  bool free_scales = false;
  bool raw_head = false;
  int64_t group = 128;
};

struct TinyPackage {
  ArchitectureSpec spec;
  nlohmann::json config;
  std::map<std::string, std::string> blobs;  // by digest; the config too
  // Every tensor under its canonical name, as the package defines it, unrotated.
  std::map<std::string, std::vector<float>> weights;
  std::string tokenizer_json;

  std::string config_json() const { return config.dump(); }
  // The package must outlive it.
  BlobReader Reader() const;
  // Stores `blob` and gives its digest.
  std::string Put(const std::string& blob);
  // Writes an OCI image layout with one package under `reference`; gives the manifest's digest.
  absl::StatusOr<std::string> WriteLayout(const std::string& dir,
                                          const std::string& reference) const;
};

// The same package for the same options. Aborts on errors: for tests only.
TinyPackage MakeTinyPackage(const TinyPackageOptions& options);

// The package of a source with nothing quantized: every matrix raw. Aborts on errors.
TinyPackage MakeRawPackage(const ModelSource& source);

// Logits [tokens, vocab] in double, computed from `package.weights` by the definition of the
// architecture.
std::vector<double> ReferenceLogits(const TinyPackage& package, const std::vector<int32_t>& tokens);

}  // namespace shiftadd::testing

#endif  // SHIFTADD_WORKER_SERVE_TESTING_TINY_PACKAGE_H_
