#include "worker/model/model_source.h"

#include <filesystem>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/model/testing/golden_family.h"
#include "worker/model/testing/tiny_llama.h"
#include "worker/tensor/mapped_file.h"

namespace shiftadd {
namespace {

using nlohmann::json;
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

// Gemma 3 with its pictures' tower, under both names that its parts have had.
TEST(ModelSourceTest, LanguageModelOfALargerModel) {
  const json& golden = testing::GoldenCase(testing::GoldenFamilies(), "gemma3");
  const std::string alone = FreshFolder("alone"), inside = FreshFolder("inside");
  ASSERT_TRUE(testing::WriteGoldenFamily(golden, alone).ok());
  const auto expected = ModelSource::Open(alone);
  ASSERT_TRUE(expected.ok()) << expected.status();
  for (const auto& [language, tower] :
       {std::pair<std::string, std::string>{"language_model.model.", "vision_tower."},
        {"model.language_model.", "model.vision_tower."}}) {
    json larger = golden;
    json& config = larger["config"] = {{"architectures", {"Gemma3ForConditionalGeneration"}},
                                       {"vision_config", {{"hidden_size", 8}}},
                                       {"mm_tokens_per_image", 256},
                                       {"vocab_size", golden["config"]["vocab_size"]}};
    config["text_config"] = golden["config"];
    json& tensors = larger["tensors"] = json::object();
    for (const auto& [name, shape] : golden["tensors"].items()) {
      tensors[language + name.substr(sizeof("model.") - 1)] = shape;
    }
    tensors["language_model.lm_head.weight"] = golden["tensors"]["model.embed_tokens.weight"];
    tensors[tower + "patch.weight"] = {4, 4};
    ASSERT_TRUE(testing::WriteGoldenFamily(larger, inside).ok());
    json told = config;
    told.erase("vocab_size");
    ASSERT_TRUE(WriteFile(inside + "/config.json", told.dump()).ok());
    const auto model = ModelSource::Open(inside);
    ASSERT_TRUE(model.ok()) << model.status();
    EXPECT_EQ((*model)->config_json(), (*expected)->config_json());
    EXPECT_EQ((*model)->tensors().size(), (*expected)->tensors().size());
    for (const SourceTensor& tensor : (*expected)->tensors()) {
      EXPECT_TRUE((*model)->Has(tensor.name)) << tensor.name;
      EXPECT_TRUE((*model)->Read(tensor.name).ok()) << tensor.name;
    }
    tensors["audio_tower.weight"] = {4, 4};
    ASSERT_TRUE(testing::WriteGoldenFamily(larger, inside).ok());
    ASSERT_TRUE(WriteFile(inside + "/config.json", told.dump()).ok());
    EXPECT_THAT(std::string(ModelSource::Open(inside).status().message()),
                ::testing::HasSubstr("'audio_tower.weight'"));
  }
}

}  // namespace
}  // namespace shiftadd
