#include "worker/model/architecture_spec.h"

#include <cmath>
#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/model/families.h"
#include "worker/model/llama_family.h"
#include "worker/model/testing/tiny_llama.h"

namespace shiftadd {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

ArchitectureSpec Full() {
  testing::TinyLlamaOptions options;
  options.rope_scaling = RopeScaling::kLlama3;
  options.tied = false;
  options.attention_bias = true;
  return testing::TinyLlamaSpec(options);
}

TEST(ArchitectureSpecTest, JsonComesBack) {
  const json text = ToJson(Full());
  const auto spec = ArchitectureSpecFromJson(json::parse(text.dump()));
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(ToJson(*spec).dump(), text.dump());
  EXPECT_EQ(spec->rope_scaling, RopeScaling::kLlama3);
  EXPECT_EQ(spec->eos_tokens, (std::vector<int64_t>{2, 0}));
}

TEST(ArchitectureSpecTest, EveryFieldIsNeededAndTyped) {
  const json good = ToJson(Full());
  for (const auto& [key, value] : good.items()) {
    json without = good;
    without.erase(key);
    const auto missing = ArchitectureSpecFromJson(without);
    EXPECT_EQ(missing.status().code(), absl::StatusCode::kInvalidArgument) << key;
    EXPECT_THAT(std::string(missing.status().message()), HasSubstr("'" + key + "' is missing"));
    json wrong = good;
    wrong[key] = json::object();
    const auto typed = ArchitectureSpecFromJson(wrong);
    EXPECT_EQ(typed.status().code(), absl::StatusCode::kInvalidArgument) << key;
    EXPECT_THAT(std::string(typed.status().message()), HasSubstr("'" + key + "' is {}"));
  }
  json extra = good;
  extra["new"] = 1;
  EXPECT_THAT(std::string(ArchitectureSpecFromJson(extra).status().message()),
              HasSubstr("unknown field 'new'"));
  EXPECT_FALSE(ArchitectureSpecFromJson(json::array()).ok());
}

TEST(ArchitectureSpecTest, ValuesOutOfRange) {
  const std::pair<const char*, json> edits[] = {{"vocab", 0},
                                                {"vocab", (1 << 24) + 1},
                                                {"vocab", ~0ULL},
                                                {"hidden", -1},
                                                {"blocks", 1025},
                                                {"heads", 3},
                                                {"kv_heads", 3},
                                                {"head_dim", 33},
                                                {"context", 0},
                                                {"norm_eps", 0},
                                                {"norm_eps", 2},
                                                {"rope_theta", -1},
                                                {"rope_factor", 0},
                                                {"bos_token", 320},
                                                {"bos_token", -2},
                                                {"eos_tokens", {320}},
                                                {"eos_tokens", {-1}},
                                                {"eos_tokens", {"a"}},
                                                {"gated", 0},
                                                {"norm", "batch"},
                                                {"activation", "gelu"},
                                                {"family", "gpt2"},
                                                {"norm_place", "above"},
                                                {"embed_scale", 0},
                                                {"embed_width", 0},
                                                {"window", 0},
                                                {"local_blocks", {0}},
                                                {"qk_norm", 1},
                                                {"attention_cap", -1},
                                                {"rope_scaling", "yarn"},
                                                {"rope_original_context", 0},
                                                {"rope_high_freq_factor", 1.0}};
  for (const auto& [field, value] : edits) {
    json wrong = ToJson(Full());
    wrong[field] = value;
    EXPECT_FALSE(ArchitectureSpecFromJson(wrong).ok()) << field << " " << value;
  }
}

TEST(ArchitectureSpecTest, LayersOfABlock) {
  ArchitectureSpec s = Full();
  s.head_dim = 48;
  const std::vector<LinearLayer> layers = BlockLayers(s, 7);
  ASSERT_EQ(layers.size(), 7u);
  EXPECT_EQ(layers[0].name, "blocks.7.attn.q");
  EXPECT_EQ(layers[0].rows, 192);
  EXPECT_EQ(layers[1].rows, 96);
  EXPECT_EQ(layers[3].kind, "o");
  EXPECT_EQ(layers[3].cols, 192);
  EXPECT_EQ(layers[6].name, "blocks.7.mlp.down");
  EXPECT_EQ(layers[6].cols, 256);
  EXPECT_EQ(layers[6].input, BlockInput::kMlpAct);
}

TEST(RopeTest, FrequenciesEqualGolden) {
  std::ifstream in(std::string(SHIFTADD_SOURCE_DIR) + "/tests/golden/rope.json");
  ASSERT_TRUE(in.good());
  const json golden = json::parse(in);
  const Family& llama = Families().front();
  for (const json& c : golden.at("cases")) {
    json config = llama.to_config(Full());
    for (const char* field : {"head_dim", "rope_theta", "rope_scaling"}) config[field] = c[field];
    const auto spec = llama.from_config(config, "config.json");
    ASSERT_TRUE(spec.ok()) << spec.status();
    const std::vector<double> f = RopeInverseFrequencies(*spec);
    const std::vector<double> expected = c.at("inverse_frequencies");
    ASSERT_EQ(f.size(), expected.size());
    for (size_t i = 0; i < f.size(); ++i) {
      EXPECT_NEAR(f[i], expected[i], 2e-6 * expected[i]) << c.at("rope_scaling") << i;
    }
  }
}

// GGUF keeps only the divisors: the parameters must come back from them.
TEST(RopeTest, ScalingIsFoundFromFactors) {
  struct Case {
    int64_t head_dim, original;
    double theta, factor, high;
  };
  for (const Case& c : {Case{128, 8192, 5e5, 8, 4}, Case{64, 8192, 5e5, 32, 4},
                        Case{64, 4096, 1e4, 4, 8}, Case{96, 2048, 1e6, 16, 3}}) {
    ArchitectureSpec s = Full();
    s.head_dim = c.head_dim;
    s.rope_theta = c.theta;
    s.rope_scaling = RopeScaling::kNone;
    const std::vector<double> base = RopeInverseFrequencies(s);
    ArchitectureSpec scaled = s;
    scaled.rope_scaling = RopeScaling::kLlama3;
    scaled.rope_factor = c.factor;
    scaled.rope_low_freq_factor = 1;
    scaled.rope_high_freq_factor = c.high;
    scaled.rope_original_context = c.original;
    const std::vector<double> f = RopeInverseFrequencies(scaled);
    std::vector<float> factors;
    for (size_t i = 0; i < f.size(); ++i) factors.push_back(static_cast<float>(base[i] / f[i]));
    ASSERT_TRUE(RopeScalingFromFactors(factors, "f", &s).ok());
    EXPECT_EQ(ToJson(s), ToJson(scaled));
  }
  ArchitectureSpec s = Full();
  s.rope_scaling = RopeScaling::kNone;
  const std::vector<float> odd = {1, 5, 2, 9, 1, 7, 3, 3, 1, 5, 2, 9, 1, 7, 3, 3};
  EXPECT_EQ(RopeScalingFromFactors(odd, "f", &s).code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(RopeScalingFromFactors({0, 0}, "f", &s).code(), absl::StatusCode::kUnimplemented);
  EXPECT_TRUE(RopeScalingFromFactors({1, 1}, "f", &s).ok());
  EXPECT_EQ(s.rope_scaling, RopeScaling::kNone);
}

}  // namespace
}  // namespace shiftadd
