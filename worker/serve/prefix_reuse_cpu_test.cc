// prefix_reuse_test.cc on the CPU.
#include "worker/serve/testing/executor_cases.h"
#include "worker/serve/testing/prefix_backend.h"

namespace shiftadd::testing {

std::string NoPrefixBackend() { return ""; }

std::unique_ptr<PackedModel> LoadPrefixBackend(const TinyPackage& package, bool fixed) {
  using Precision = PackedModelOptions::Precision;
  return LoadOnCpu(package, fixed ? Precision::kAuto : Precision::kA16);
}

}  // namespace shiftadd::testing
