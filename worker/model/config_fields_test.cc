// What config.json may say: every field of the published files is taken, and what would change the
// arithmetic is refused by name.
#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "worker/model/families.h"
#include "worker/model/testing/golden_family.h"

namespace shiftadd {
namespace {

using absl::StatusCode;
using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;

const json& Published() {
  static const auto* const cases = [] {
    std::ifstream in(std::string(SHIFTADD_SOURCE_DIR) + "/tests/golden/published_configs.json");
    return new json(json::parse(in).at("cases"));
  }();
  return *cases;
}

absl::StatusOr<ArchitectureSpec> Read(const json& config) {
  const auto family = FamilyByHuggingFaceName(config.at("architectures").at(0));
  if (!family.ok()) return family.status();
  return (*family)->from_config(config, "config.json");
}

class PublishedConfigTest : public ::testing::TestWithParam<std::string> {};

TEST_P(PublishedConfigTest, IsTaken) {
  const json& published = testing::GoldenCase(Published(), GetParam());
  const auto spec = Read(published.at("config"));
  ASSERT_TRUE(spec.ok()) << spec.status();
  const json found = ToJson(*spec);
  for (const auto& [name, value] : published.at("spec").items()) {
    EXPECT_EQ(found.value(name, json()), value) << name;
  }
  EXPECT_TRUE(ArchitectureSpecFromJson(found).ok()) << ArchitectureSpecFromJson(found).status();
  const Family& family = **FamilyByName(spec->family);
  const auto again = family.from_config(family.to_config(*spec), "config.json");
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(ToJson(*again), found);
  int64_t parameters = 0;
  for (const FamilyTensor& tensor : family.tensors(*spec)) {
    int64_t elements = 1;
    for (const int64_t size : tensor.shape) elements *= size;
    parameters += elements;
  }
  EXPECT_EQ(parameters, published.at("parameters").get<int64_t>());
}

INSTANTIATE_TEST_SUITE_P(Models, PublishedConfigTest,
                         ::testing::ValuesIn(testing::GoldenNames(Published())),
                         [](const auto& info) { return testing::GoldenTestName(info.param); });

// A golden model's config.json with some fields set.
absl::Status With(const std::string& family, const json& fields) {
  json config = testing::GoldenCase(testing::GoldenFamilies(), family).at("config");
  config.update(fields);
  return Read(config).status();
}

TEST(ConfigFieldsTest, ValuesThatAreNotSupportedAreRefusedByName) {
  struct Case {
    const char* family;
    const char* field;
    json value;
    StatusCode code = StatusCode::kUnimplemented;
  };
  const std::vector<Case> cases = {
      {"bloom", "apply_residual_connection_post_layernorm", true},
      {"bloom", "n_head", 5, StatusCode::kInvalidArgument},
      {"opt", "activation_function", "gelu"},
      {"opt", "layer_norm_elementwise_affine", false},
      {"opt", "output_projection", false},
      {"opt", "num_attention_heads", 3, StatusCode::kInvalidArgument},
      {"mistral", "hidden_act", "gelu"},
      {"qwen2", "use_mrope", true},
      {"qwen2", "hidden_act", "gelu"},
      {"qwen3", "hidden_act", "gelu"},
      {"qwen3", "layer_types", json::array({"full_attention"}), StatusCode::kInvalidArgument},
      {"gemma", "use_bidirectional_attention", true},
      {"gemma", "hidden_activation", "relu"},
      {"gemma2", "use_bidirectional_attention", true},
      {"gemma2", "hidden_activation", "silu"},
      {"gemma2", "cache_implementation", "quantized"},
      {"gemma2", "sliding_window_size", 7, StatusCode::kInvalidArgument},
      {"gemma2", "query_pre_attn_scalar", 0, StatusCode::kInvalidArgument},
      {"gemma3", "use_bidirectional_attention", true},
      {"gemma3", "hidden_activation", "silu"},
      {"gemma3", "sliding_window_pattern", 0, StatusCode::kInvalidArgument},
  };
  for (const Case& c : cases) {
    ASSERT_TRUE(With(c.family, json::object()).ok()) << c.family;
    const absl::Status status = With(c.family, {{c.field, c.value}});
    EXPECT_EQ(status.code(), c.code) << c.family << " " << c.field << ": " << status;
    EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("config.json"), HasSubstr(c.field)));
  }
}

TEST(ConfigFieldsTest, WhatNobodyKnowsIsRefusedInEveryFamily) {
  for (const std::string& name : testing::GoldenNames(testing::GoldenFamilies())) {
    EXPECT_TRUE(With(name, {{"logit_scale", nullptr}}).ok()) << name;
    for (const char* field : {"logit_scale", "quantization_config"}) {
      const absl::Status status = With(name, {{field, {{"bits", 4}}}});
      EXPECT_EQ(status.code(), StatusCode::kUnimplemented) << name << ": " << status;
      EXPECT_THAT(std::string(status.message()), HasSubstr(field));
    }
  }
}

json Llama3(const json& more = json::object()) {
  json rope = {{"rope_type", "llama3"},
               {"factor", 8.0},
               {"low_freq_factor", 1.0},
               {"high_freq_factor", 4.0},
               {"original_max_position_embeddings", 64}};
  rope.update(more);
  return rope;
}

// The golden LLaMA's with these fields alone about its positions.
absl::Status WithRope(const json& fields) {
  json config = testing::GoldenCase(testing::GoldenFamilies(), "llama").at("config");
  for (const char* name : {"rope_theta", "rope_scaling", "rope_parameters"}) config.erase(name);
  config.update(fields);
  return Read(config).status();
}

TEST(ConfigFieldsTest, RopeFieldsThatNobodyReadsAreRefusedByName) {
  struct Case {
    json fields;
    const char* where;  // what the message names
    StatusCode code = StatusCode::kUnimplemented;
  };
  const json linear = {{"rope_type", "linear"}, {"factor", 2.0}};
  json more = linear;
  more["attention_factor"] = 1.2;
  const std::vector<Case> cases = {
      {{{"rope_scaling", more}}, "attention_factor"},
      {{{"rope_parameters", more}}, "attention_factor"},
      {{{"rope_scaling", Llama3({{"beta_fast", 32}})}}, "beta_fast"},
      {{{"rope_scaling", {{"rope_type", "default"}, {"mrope_section", {1, 1}}}}}, "mrope_section"},
      {{{"rope_scaling", {{"rope_type", "default"}, {"factor", 4.0}}}}, "factor"},
      {{{"rope_scaling", {{"factor", 4.0}}}}, "factor"},
      {{{"rope_scaling", {{"type", "linear"}, {"rope_type", "llama3"}, {"factor", 4.0}}}}, "type"},
      {{{"rope_scaling", {{"rope_type", "yarn"}, {"factor", 4.0}}}}, "rope_type"},
      {{{"rope_scaling", {{"type", "dynamic"}, {"factor", 4.0}}}}, "'type'"},
      {{{"rope_parameters", {{"rope_theta", 1e4}, {"partial_rotary_factor", 0.5}}}},
       "partial_rotary_factor"},
      // The two say different things.
      {{{"rope_parameters", {{"rope_type", "default"}}}, {"rope_scaling", linear}}, "rope_scaling"},
      {{{"rope_parameters", linear}, {"rope_scaling", Llama3()}}, "rope_scaling"},
      {{{"rope_parameters", linear}, {"rope_scaling", "x"}},
       "rope_scaling",
       StatusCode::kInvalidArgument},
      {{{"rope_parameters",
         {{"full_attention", linear}, {"sliding_attention", {}}, {"chunked_attention", {}}}}},
       "full_attention",
       StatusCode::kInvalidArgument},
      {{{"rope_parameters", {{"full_attention", json::object()}, {"sliding_attention", linear}}}},
       "sliding_attention"},
  };
  for (const Case& c : cases) {
    const absl::Status status = WithRope(c.fields);
    EXPECT_EQ(status.code(), c.code) << c.fields << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.where)) << c.fields;
  }
}

TEST(ConfigFieldsTest, RopeFieldsThatSayNothingOrTheSameTwice) {
  const json linear = {{"type", "linear"}, {"rope_type", "linear"}, {"factor", 2.0}};
  json context = linear;
  context["original_max_position_embeddings"] = 512;
  for (const json& fields :
       {json{{"rope_scaling", linear}}, json{{"rope_parameters", context}},
        json{{"rope_parameters", linear}, {"rope_scaling", context}},
        json{{"rope_parameters", Llama3({{"rope_theta", 5e5}})}, {"rope_scaling", Llama3()}},
        json{{"rope_scaling", {{"rope_type", "default"}, {"factor", nullptr}}}}}) {
    EXPECT_TRUE(WithRope(fields).ok()) << fields << ": " << WithRope(fields);
  }
}

TEST(ConfigFieldsTest, TextConfigIsReadAsStrictlyAsAConfigOfItsOwn) {
  json config = testing::GoldenCase(Published(), "google/gemma-3-4b-it").at("config");
  const auto message = [](const json& c) { return std::string(Read(c).status().message()); };
  EXPECT_EQ(message(config), "");
  json other = config;
  other["text_config"]["attention_chunk_size"] = 8192;
  EXPECT_THAT(message(other),
              AllOf(HasSubstr("config.json: text_config"), HasSubstr("'attention_chunk_size'")));
  other = config;
  other["audio_config"] = json::object({{"hidden_size", 8}});
  EXPECT_THAT(message(other), HasSubstr("'audio_config'"));
  other = config;
  other["text_config"] = 3;
  EXPECT_THAT(message(other), HasSubstr("'text_config'"));
  other = config;
  other["quantization_config"] = json::object();
  EXPECT_THAT(message(other), HasSubstr("'quantization_config'"));
}

}  // namespace
}  // namespace shiftadd
