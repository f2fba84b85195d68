#include "worker/model/model_source.h"

#include <filesystem>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/model/testing/tiny_llama.h"

namespace shiftadd {
namespace {

using testing::TinyLlamaOptions;

std::string FreshFolder(const std::string& name) {
  const std::string path = ::testing::TempDir() + "/model_source_test_" + name;
  std::filesystem::remove_all(path);
  std::filesystem::create_directories(path);
  return path;
}

void ExpectWeights(const ModelSource& model, const TinyLlamaOptions& options) {
  const auto weights = testing::TinyLlamaWeights(options);
  EXPECT_EQ(model.tensors().size(), weights.size());
  for (const auto& [name, values] : weights) {
    ASSERT_TRUE(model.Has(name)) << name;
    const auto read = model.Read(name);
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_TRUE(*read == values) << name;
  }
}

std::vector<TinyLlamaOptions> Variants() {
  std::vector<TinyLlamaOptions> variants(6);
  variants[1].tied = false;
  variants[1].attention_bias = true;
  variants[1].mlp_bias = true;
  variants[2].rope_scaling = RopeScaling::kLinear;
  variants[2].head_dim = 24;
  variants[2].dtype = DType::kF16;
  variants[3].rope_scaling = RopeScaling::kLlama3;
  variants[3].bos = false;
  variants[3].dtype = DType::kBF16;
  variants[4].shards = 3;
  variants[4].kv_heads = 4;
  variants[5].vocab = 700;
  variants[5].seed = 99;
  return variants;
}

TEST(ModelSourceTest, BothFormatsGiveTheSameModel) {
  int i = 0;
  for (const TinyLlamaOptions& options : Variants()) {
    SCOPED_TRACE(i);
    const std::string folder = FreshFolder(std::to_string(i++));
    ASSERT_TRUE(testing::WriteTinyLlamaDirectory(folder + "/hf", options).ok());
    ASSERT_TRUE(testing::WriteTinyLlamaGguf(folder + "/m.gguf", options).ok());
    const auto hf = ModelSource::Open(folder + "/hf");
    ASSERT_TRUE(hf.ok()) << hf.status();
    const auto gguf = ModelSource::Open(folder + "/m.gguf");
    ASSERT_TRUE(gguf.ok()) << gguf.status();
    const nlohmann::json spec = ToJson(testing::TinyLlamaSpec(options));
    EXPECT_EQ(ToJson((*hf)->spec()), spec);
    EXPECT_EQ(ToJson((*gguf)->spec()), spec);
    ExpectWeights(**hf, options);
    ExpectWeights(**gguf, options);
    EXPECT_EQ((*hf)->config_json(), (*gguf)->config_json());
    EXPECT_EQ((*hf)->generation_config_json(), (*gguf)->generation_config_json());
  }
}

}  // namespace
}  // namespace shiftadd
