// What a job of EvaluatePackage reads from the package that it measures; no I/O.
#ifndef SHIFTADD_SERVICES_COORDINATOR_EVALUATED_PACKAGE_H_
#define SHIFTADD_SERVICES_COORDINATOR_EVALUATED_PACKAGE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "shiftadd/v1/package.pb.h"
#include "shiftadd/v1/task.pb.h"

namespace shiftadd::coordinator {

struct EvaluatedPackage {
  v1::Plan plan;         // architecture, tokenizer, source files with their digests; no layers
  uint64_t context = 0;  // tokens; 0 if the architecture does not say
  v1::Variant variant;   // every layer with its blob
  std::string head_digest, unquantized_digest;
  std::string source;  // by its provenance; empty if that does not say
};

// `package`: as GetPackage gives it. DATA_LOSS names the field of its config that is not as
// services/packaging/package_format.h says.
absl::StatusOr<EvaluatedPackage> ReadEvaluatedPackage(const v1::Package& package);

// Config and layers: what must not be collected while it is measured.
std::vector<std::string> PackageBlobs(const v1::Package& package);

}  // namespace shiftadd::coordinator

#endif  // SHIFTADD_SERVICES_COORDINATOR_EVALUATED_PACKAGE_H_
