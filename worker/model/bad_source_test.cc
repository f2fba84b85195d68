// Sources that are wrong: one clear error each, never a crash.
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "worker/model/gguf_metadata.h"
#include "worker/model/model_source.h"
#include "worker/model/testing/tiny_llama.h"
#include "worker/model/testing/tiny_tokenizer.h"
#include "worker/tensor/mapped_file.h"
#include "worker/tensor/testing/gguf_builder.h"

namespace shiftadd {
namespace {

using absl::StatusCode;
using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::TinyLlamaOptions;

TinyLlamaOptions Small() {
  TinyLlamaOptions options;
  options.hidden = 8;
  options.heads = 2;
  options.kv_heads = 1;
  options.intermediate = 8;
  options.blocks = 1;
  options.vocab = 262;
  return options;
}

class BadSourceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = ::testing::TempDir() + "/bad_source_test_" + std::to_string(::getpid());
    std::filesystem::remove_all(root_);
    std::filesystem::create_directories(root_);
    directory_ = root_ + "/hf";
    gguf_ = root_ + "/m.gguf";
    Reset(Small());
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  void Reset(const TinyLlamaOptions& options) {
    std::filesystem::remove_all(directory_);
    ASSERT_TRUE(testing::WriteTinyLlamaDirectory(directory_, options).ok());
    ASSERT_TRUE(testing::WriteTinyLlamaGguf(gguf_, options).ok());
  }
  std::string Text(const std::string& file) {
    return *ReadTextFile(directory_ + "/" + file, size_t{1} << 30);
  }
  void Put(const std::string& file, const std::string& text) {
    Write(directory_ + "/" + file, text);
  }
  // A new file: some file systems wait for the disk when an old one is cut and written again.
  static void Write(const std::string& path, const std::string& data) {
    std::filesystem::remove(path);
    ASSERT_TRUE(WriteFile(path, data).ok());
  }
  void Edit(const std::string& file, const std::function<void(json&)>& edit) {
    json document = json::parse(Text(file));
    edit(document);
    Put(file, document.dump());
  }
  void ExpectError(const std::string& path, StatusCode code, const std::string& message) {
    const auto model = ModelSource::Open(path);
    EXPECT_EQ(model.status().code(), code) << message << ": " << model.status();
    EXPECT_THAT(std::string(model.status().message()), AllOf(HasSubstr(path), HasSubstr(message)));
  }
  // The directory with one edit of config.json.
  void ExpectConfig(const std::string& field, const json& value, StatusCode code) {
    const std::string before = Text("config.json");
    Edit("config.json", [&](json& c) {
      if (value.is_discarded()) {
        c.erase(field);
      } else {
        c[field] = value;
      }
    });
    ExpectError(directory_, code, "");
    Put("config.json", before);
  }

  std::string root_, directory_, gguf_;
};

TEST_F(BadSourceTest, NothingThere) {
  ExpectError(root_ + "/none", StatusCode::kNotFound, "no such source");
  ExpectError(root_, StatusCode::kNotFound, "config.json");
  for (const char* file : {"config.json", "tokenizer.json", "model.safetensors"}) {
    Reset(Small());
    std::filesystem::remove(directory_ + "/" + file);
    ExpectError(directory_, StatusCode::kNotFound,
                file == std::string("model.safetensors") ? ".safetensors" : file);
  }
}

TEST_F(BadSourceTest, Architectures) {
  Edit("config.json", [](json& c) { c["architectures"] = {"FalconForCausalLM"}; });
  ExpectError(directory_, StatusCode::kUnimplemented,
              "'FalconForCausalLM' is not supported, supported are: LlamaForCausalLM");
  testing::GgufBuilder builder;
  builder.AddString("general.architecture", "falcon");
  ASSERT_TRUE(WriteFile(gguf_, builder.Finish()).ok());
  ExpectError(gguf_, StatusCode::kUnimplemented, "'falcon' is not supported, supported are: llama");
  testing::GgufBuilder empty;
  ASSERT_TRUE(WriteFile(gguf_, empty.Finish()).ok());
  ExpectError(gguf_, StatusCode::kInvalidArgument, "'general.architecture' is missing");
}

TEST_F(BadSourceTest, Configurations) {
  const json gone(json::value_t::discarded);
  for (const char* field : {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
                            "intermediate_size"}) {
    for (const json& value : {gone, json("x"), json(0), json(-4), json(1.5), json(1LL << 40),
                              json(~0ULL), json(json::array())}) {
      ExpectConfig(field, value, StatusCode::kInvalidArgument);
    }
  }
  for (const char* field : {"num_key_value_heads", "head_dim"}) {
    for (const json& value : {json("x"), json(0), json(3), json(1LL << 40)}) {
      ExpectConfig(field, value, StatusCode::kInvalidArgument);
    }
  }
  ExpectConfig("rms_norm_eps", "x", StatusCode::kInvalidArgument);
  ExpectConfig("rms_norm_eps", -1.0, StatusCode::kInvalidArgument);
  ExpectConfig("rope_theta", 0.0, StatusCode::kInvalidArgument);
  ExpectConfig("tie_word_embeddings", 1, StatusCode::kInvalidArgument);
  ExpectConfig("eos_token_id", "x", StatusCode::kInvalidArgument);
  ExpectConfig("bos_token_id", 5.5, StatusCode::kInvalidArgument);
  ExpectConfig("architectures", gone, StatusCode::kInvalidArgument);
  ExpectConfig("architectures", "LlamaForCausalLM", StatusCode::kInvalidArgument);
  ExpectConfig("rope_scaling", "x", StatusCode::kInvalidArgument);
  ExpectConfig("rope_scaling", {{"type", "yarn"}, {"factor", 2.0}}, StatusCode::kUnimplemented);
  ExpectConfig("rope_scaling", {{"type", "linear"}}, StatusCode::kInvalidArgument);
  ExpectConfig("rope_scaling", {{"rope_type", "llama3"}, {"factor", 2.0}},
               StatusCode::kInvalidArgument);
  ExpectConfig("hidden_act", "gelu", StatusCode::kUnimplemented);
  ExpectConfig("quantization_config", json::object(), StatusCode::kUnimplemented);
  ExpectConfig("partial_rotary_factor", 0.5, StatusCode::kUnimplemented);
  // What nobody knows may change the arithmetic.
  ExpectConfig("some_new_field", {1, 2}, StatusCode::kUnimplemented);
  EXPECT_TRUE(ModelSource::Open(directory_).ok());
  for (const char* text : {"", "{", "[]", "null", "{\"a\":1,\"a\":2}", "\xff"}) {
    Put("config.json", text);
    ExpectError(directory_, StatusCode::kInvalidArgument, "config.json");
  }
}

TEST_F(BadSourceTest, GgufKeysThatNobodyKnows) {
  std::string data = *ReadTextFile(gguf_, size_t{1} << 30);
  const std::string known = "llama.rope.freq_base", unknown = "llama.logits_scaling";
  ASSERT_EQ(known.size(), unknown.size());
  const size_t at = data.find(known);
  ASSERT_NE(at, std::string::npos);
  Write(gguf_, data.replace(at, known.size(), unknown));
  ExpectError(gguf_, StatusCode::kUnimplemented, "metadata 'llama.logits_scaling' is 1");

  const json off = {{"general.name", "x"},
                    {"llama.a", 0},
                    {"llama.b", false},
                    {"llama.c", "none"},
                    {"llama.d", 0.0},
                    {"llama.attention.causal", true},
                    {"llama.tensor_data_layout", "Meta AI original pth"},
                    {"llama.read", 7}};
  const GgufMetadata meta(off, "m.gguf");
  EXPECT_FALSE(meta.RefuseUnread("llama.").ok());
  EXPECT_EQ(*meta.Int("llama.read", 0), 7);
  EXPECT_TRUE(meta.RefuseUnread("llama.").ok()) << meta.RefuseUnread("llama.");
  const auto fault = [](const json& metadata) {
    return std::string(GgufMetadata(metadata, "m.gguf").RefuseUnread("llama.").message());
  };
  EXPECT_THAT(fault({{"llama.attention.causal", false}}),
              AllOf(HasSubstr("m.gguf"), HasSubstr("'llama.attention.causal' is false")));
  EXPECT_THAT(fault({{"llama.attention.scale", 0.5}}), HasSubstr("'llama.attention.scale' is 0.5"));
}

TEST_F(BadSourceTest, ConfigurationsThatAreGood) {
  Edit("config.json", [](json& c) {
    c["eos_token_id"] = 2;
    c.erase("head_dim");
    c.erase("rope_scaling");
    c["rope_parameters"] = {{"rope_theta", 500.0}, {"rope_type", "default"}};
    c["some_new_field"] = nullptr;
    c["initializer_range"] = 0.02;
  });
  Edit("generation_config.json", [](json& c) { c["eos_token_id"] = {2, 0, 1}; });
  const auto model = ModelSource::Open(directory_);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->spec().eos_tokens, (std::vector<int64_t>{2, 0, 1}));
  EXPECT_EQ((*model)->spec().head_dim, 4);
  EXPECT_EQ((*model)->spec().rope_theta, 500.0);
  EXPECT_EQ(json::parse((*model)->generation_config_json()).at("eos_token_id").size(), 3u);
}

TEST_F(BadSourceTest, AllFaultsOfTheTensorsAtOnce) {
  Edit("config.json", [](json& c) {
    c["num_hidden_layers"] = 2;
    c["intermediate_size"] = 12;
  });
  const auto model = ModelSource::Open(directory_);
  EXPECT_EQ(model.status().code(), StatusCode::kInvalidArgument);
  const std::string message(model.status().message());
  for (const char* part :
       {"12 faults", "'model.layers.1.self_attn.q_proj.weight' is missing, expected [8, 8]",
        "'model.layers.0.mlp.gate_proj.weight' has shape [8, 8], expected [12, 8]",
        "'model.layers.1.mlp.down_proj.weight' is missing"}) {
    EXPECT_THAT(message, HasSubstr(part));
  }
  Edit("config.json", [](json& c) {
    c["num_hidden_layers"] = 1024;
    c["num_key_value_heads"] = 2;
  });
  EXPECT_THAT(std::string(ModelSource::Open(directory_).status().message()), HasSubstr("more"));
}

TEST_F(BadSourceTest, TensorsOfAnotherModel) {
  TinyLlamaOptions biased = Small();
  biased.attention_bias = true;
  Reset(biased);
  Edit("config.json", [](json& c) { c["attention_bias"] = false; });
  ExpectError(directory_, StatusCode::kInvalidArgument, "is not one that this model has");
  TinyLlamaOptions untied = Small();
  untied.tied = false;
  Reset(untied);
  Edit("config.json", [](json& c) { c["tie_word_embeddings"] = true; });
  EXPECT_TRUE(ModelSource::Open(directory_).ok()) << "a tied head may be stored";
  Reset(Small());
  Edit("config.json", [](json& c) { c["tie_word_embeddings"] = false; });
  ExpectError(directory_, StatusCode::kInvalidArgument, "'lm_head.weight' is missing");
}

TEST_F(BadSourceTest, TiedWeightsThatAreMissing) {
  // The head's copy stands for the embedding nowhere.
  TinyLlamaOptions untied = Small();
  untied.tied = false;
  Reset(untied);
  Edit("config.json", [](json& c) { c["tie_word_embeddings"] = true; });
  std::string data = Text("model.safetensors");
  const std::string name = "model.embed_tokens.weight";
  const size_t at = data.find(name);
  ASSERT_NE(at, std::string::npos);
  data.replace(at, name.size(), "model.embed_tokens.weighs");
  Put("model.safetensors", data);
  ExpectError(directory_, StatusCode::kInvalidArgument, "'model.embed_tokens.weight' is missing");
}

TEST_F(BadSourceTest, VocabulariesOfAnotherSize) {
  for (const int64_t vocab : {261, 263}) {
    Reset(Small());
    Edit("config.json", [vocab](json& c) { c["vocab_size"] = vocab; });
    ExpectError(directory_, StatusCode::kInvalidArgument,
                vocab == 261 ? "expected ids below 261"
                             : "'model.embed_tokens.weight' has shape [262, 8], expected [263, 8]");
  }
}

TEST_F(BadSourceTest, Shards) {
  TinyLlamaOptions options = Small();
  options.shards = 2;
  const std::string index = "model.safetensors.index.json";
  const std::string first = "model-00001-of-00002.safetensors";
  Reset(options);
  EXPECT_TRUE(ModelSource::Open(directory_).ok());
  std::filesystem::remove(directory_ + "/" + first);
  ExpectError(directory_, StatusCode::kNotFound, first + ": the shard is missing");
  Reset(options);
  Edit(index, [&](json& i) { i["weight_map"]["model.norm.weight"] = "../x.safetensors"; });
  ExpectError(directory_, StatusCode::kInvalidArgument, "../x.safetensors");
  Reset(options);
  Edit(index, [&](json& i) { i["weight_map"]["extra"] = first; });
  ExpectError(directory_, StatusCode::kInvalidArgument, "'extra' is said to be in " + first);
  Reset(options);
  Edit(index, [&](json& i) { i["weight_map"].erase("model.norm.weight"); });
  ExpectError(directory_, StatusCode::kInvalidArgument, "is not in the weight_map");
  Reset(options);
  Edit(index, [&](json& i) { i.erase("weight_map"); });
  ExpectError(directory_, StatusCode::kInvalidArgument, "weight_map");
  Put(index, "not JSON");
  ExpectError(directory_, StatusCode::kInvalidArgument, "is not JSON");
}

TEST_F(BadSourceTest, TokenizerThatDoesNotFit) {
  Edit("tokenizer.json", [](json& t) { t["model"]["vocab"]["zzz"] = 262; });
  ExpectError(directory_, StatusCode::kInvalidArgument, "expected ids below 262");
  Edit("tokenizer.json", [](json& t) { t["model"]["type"] = "WordLevel"; });
  ExpectError(directory_, StatusCode::kUnimplemented, "WordLevel");
}

TEST_F(BadSourceTest, NanNamesTensorAndElement) {
  const std::string name = "model.layers.0.self_attn.q_proj.weight";
  std::string data = Text("model.safetensors");
  uint64_t header;
  std::memcpy(&header, data.data(), 8);
  const uint64_t begin = json::parse(data.substr(8, header))[name]["data_offsets"][0];
  const float nan = std::nanf("");
  std::memcpy(&data[8 + header + begin + 4 * 11], &nan, 4);
  Put("model.safetensors", data);
  const auto model = ModelSource::Open(directory_);
  ASSERT_TRUE(model.ok()) << model.status();
  const auto read = (*model)->Read("blocks.0.attn.q");
  EXPECT_EQ(read.status().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(
      std::string(read.status().message()),
      AllOf(HasSubstr(directory_), HasSubstr(name), HasSubstr("element 11"), HasSubstr("NaN")));
  EXPECT_TRUE((*model)->Read("blocks.0.attn.k").ok());
  EXPECT_EQ((*model)->Read("blocks.1.attn.k").status().code(), StatusCode::kNotFound);
}

// Opens and, if that works, reads everything.
absl::Status UseAll(const std::string& path) {
  const auto model = ModelSource::Open(path);
  if (!model.ok()) return model.status();
  for (const SourceTensor& t : (*model)->tensors()) {
    const auto values = (*model)->Read(t.name);
    if (!values.ok()) return values.status();
  }
  return absl::OkStatus();
}

void ExpectClean(const absl::Status& status, int round) {
  switch (status.code()) {
    case StatusCode::kOk:
      return;
    case StatusCode::kInvalidArgument:
    case StatusCode::kUnimplemented:
    case StatusCode::kNotFound:
    case StatusCode::kResourceExhausted:
      EXPECT_FALSE(status.message().empty());
      return;
    default:
      ADD_FAILURE() << "round " << round << ": " << status;
  }
}

// Cuts, changes, repeats or drops bytes, mostly near the start, where the headers are.
std::string Damage(std::string data, size_t header, std::mt19937* random) {
  const auto pick = [&](size_t bound) { return bound == 0 ? 0 : (*random)() % bound; };
  if (pick(8) == 0) return data.substr(0, pick(data.size()));
  const size_t edits = 1 + pick(4);
  for (size_t e = 0; e < edits && !data.empty(); ++e) {
    const size_t at = pick(pick(4) == 0 ? data.size() : std::min(header, data.size()));
    switch (pick(5)) {
      case 0:
        data[at] = static_cast<char>(data[at] ^ (1 << pick(8)));
        break;
      case 1:
        data[at] = static_cast<char>((*random)());
        break;
      case 2:  // a wild number
        for (size_t i = at; i < std::min(at + 8, data.size()); ++i) {
          data[i] = pick(2) == 0 ? '\xff' : static_cast<char>((*random)());
        }
        break;
      case 3:
        data.erase(at, 1 + pick(16));
        break;
      default:
        data.insert(at, data.substr(at, 1 + pick(32)));
    }
  }
  return data;
}

// SHIFTADD_FUZZ_FACTOR in the environment makes the tests below that many times as long.
int Rounds(int rounds) {
  const char* factor = std::getenv("SHIFTADD_FUZZ_FACTOR");
  return factor == nullptr ? rounds : rounds * std::max(1, std::atoi(factor));
}

TEST_F(BadSourceTest, DamagedGgufFiles) {
  const std::string good = *ReadTextFile(gguf_, size_t{1} << 30);
  ASSERT_TRUE(UseAll(gguf_).ok());
  std::mt19937 random(11);
  int refused = 0;
  const int rounds = Rounds(1500);
  for (int round = 0; round < rounds; ++round) {
    // Half of the damage goes to the counts and the first keys, half to all of the header.
    Write(gguf_, Damage(good, round % 2 == 0 ? 700 : 14000, &random));
    const absl::Status status = UseAll(gguf_);
    ExpectClean(status, round);
    refused += status.ok() ? 0 : 1;
  }
  EXPECT_GT(refused, rounds / 15 * 7);
  EXPECT_LT(refused, rounds) << "damage inside numbers that are only data goes unnoticed";
}

TEST_F(BadSourceTest, DamagedDirectories) {
  TinyLlamaOptions options = Small();
  options.shards = 2;
  Reset(options);
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(directory_)) {
    files.push_back(entry.path().filename().string());
  }
  std::sort(files.begin(), files.end());
  ASSERT_EQ(files.size(), 7u);
  std::mt19937 random(12);
  int refused = 0;
  const int rounds = Rounds(1400);
  for (int round = 0; round < rounds; ++round) {
    const std::string& file = files[static_cast<size_t>(round) % files.size()];
    const std::string good = Text(file);
    Put(file, Damage(good, 1500, &random));
    const absl::Status status = UseAll(directory_);
    ExpectClean(status, round);
    refused += status.ok() ? 0 : 1;
    Put(file, good);
  }
  EXPECT_GT(refused, rounds / 2);
  EXPECT_TRUE(UseAll(directory_).ok());
}

}  // namespace
}  // namespace shiftadd
