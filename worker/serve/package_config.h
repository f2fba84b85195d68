// The config blob of a package (services/packaging/package_format.h) as a struct.
#ifndef SHIFTADD_WORKER_SERVE_PACKAGE_CONFIG_H_
#define SHIFTADD_WORKER_SERVE_PACKAGE_CONFIG_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/packed_matrix.h"
#include "worker/model/architecture_spec.h"

namespace shiftadd {

struct PackageLayer {
  std::string name;  // canonical
  int64_t bits = 0;  // 0: raw
  int64_t rows = 0, cols = 0;
  std::string digest;
};

// What an executor needs of it.
struct PackageConfig {
  ArchitectureSpec spec;
  std::vector<PackageLayer> layers;  // in model order, exactly those of the architecture
  std::map<int, kernels::ExponentTable> exponent_sets;  // by planes
  std::string head, unquantized, tokenizer;             // digests
};

// FAILED_PRECONDITION: a format of another major version. INVALID_ARGUMENT names the field, what
// was found and what was expected.
absl::StatusOr<PackageConfig> ParsePackageConfig(const std::string& config_json);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_SERVE_PACKAGE_CONFIG_H_
