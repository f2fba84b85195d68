// cuda_model.h in a build without CUDA.
#include "worker/serve/cuda/cuda_model.h"

namespace shiftadd {
namespace {

absl::Status NoCuda() {
  return absl::FailedPreconditionError(
      "this build has no CUDA; build with -DSHIFTADD_CUDA=ON, or use --device cpu");
}

}  // namespace

absl::StatusOr<std::string> DescribeCudaDevice() { return NoCuda(); }
int CudaVersionOfBuild() { return 0; }
absl::StatusOr<std::string> DescribeCublas() { return NoCuda(); }

absl::StatusOr<std::unique_ptr<PackedModel>> LoadCudaModel(const std::string&, const BlobReader&,
                                                           const CudaModelOptions&) {
  return NoCuda();
}

}  // namespace shiftadd
