// prefix_reuse_test.cc on a GPU.
#include <gtest/gtest.h>

#include "worker/serve/cuda/cuda_model.h"
#include "worker/serve/testing/prefix_backend.h"

namespace shiftadd::testing {

std::string NoPrefixBackend() { return std::string(DescribeCudaDevice().status().message()); }

std::unique_ptr<PackedModel> LoadPrefixBackend(const TinyPackage& package, bool fixed) {
  CudaModelOptions options;
  options.batch_invariant = fixed;
  if (!fixed) options.precision = PackedModelOptions::Precision::kA16;
  auto model = LoadCudaModel(package.config_json(), package.Reader(), options);
  EXPECT_TRUE(model.ok()) << model.status();
  return model.ok() ? *std::move(model) : nullptr;
}

}  // namespace shiftadd::testing
