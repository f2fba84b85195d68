// What a GGUF file may say: values that are not supported, and parts that do not fit together, are
// refused by name.
#include <unistd.h>

#include <functional>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/model/families.h"
#include "worker/model/model_source.h"
#include "worker/model/testing/tiny_llama.h"
#include "worker/model/testing/tiny_tokenizer.h"
#include "worker/tensor/mapped_file.h"
#include "worker/tensor/testing/gguf_builder.h"

namespace shiftadd {
namespace {

using absl::StatusCode;
using ::testing::AllOf;
using testing::GgufBuilder;
using ::testing::HasSubstr;

constexpr int64_t kVocab = 262;
using Add = std::function<void(GgufBuilder*, const std::string&)>;

Add Text(const char* value) {
  return [=](GgufBuilder* b, const std::string& key) { b->AddString(key, value); };
}
Add Number(uint32_t value) {
  return [=](GgufBuilder* b, const std::string& key) { b->AddU32(key, value); };
}
Add Types(int64_t count) {
  return [=](GgufBuilder* b, const std::string& key) {
    b->AddInts(key, std::vector<int32_t>(static_cast<size_t>(count), 1));
  };
}
Add Tokens(int64_t count) {
  return [=](GgufBuilder* b, const std::string& key) {
    b->AddStrings(key, testing::MakeTinyTokenizer(count).tokens);
  };
}
// An array of as many float32, all 0.
Add Scores(uint64_t count) {
  return [=](GgufBuilder* b, const std::string& key) {
    const uint32_t float32 = 6, array = 9;
    std::string bytes(reinterpret_cast<const char*>(&float32), sizeof(float32));
    bytes.append(reinterpret_cast<const char*>(&count), sizeof(count));
    b->AddRaw(key, array, bytes + std::string(count * sizeof(float), '\0'));
  };
}

using Pairs = std::map<std::string, Add>;

// A LLaMA of one block, all weights 0, that opens.
Pairs Good() {
  return {{"general.architecture", Text("llama")},
          {"llama.context_length", Number(512)},
          {"llama.embedding_length", Number(8)},
          {"llama.feed_forward_length", Number(8)},
          {"llama.block_count", Number(1)},
          {"llama.attention.head_count", Number(2)},
          {"llama.attention.head_count_kv", Number(1)},
          {"tokenizer.ggml.model", Text("gpt2")},
          {"tokenizer.ggml.pre", Text("smollm")},
          {"tokenizer.ggml.tokens", Tokens(kVocab)},
          {"tokenizer.ggml.token_type", Types(kVocab)},
          {"tokenizer.ggml.merges",
           [](GgufBuilder* b, const std::string& key) { b->AddStrings(key, {}); }}};
}

absl::Status Open(const Pairs& changes) {
  Pairs pairs = Good();
  for (const auto& [key, add] : changes) pairs[key] = add;
  GgufBuilder builder;
  for (const auto& [key, add] : pairs) add(&builder, key);
  testing::TinyLlamaOptions options;
  options.hidden = options.intermediate = 8;
  options.heads = 2;
  options.kv_heads = options.blocks = 1;
  options.vocab = kVocab;
  for (const FamilyTensor& t : Families().front().tensors(testing::TinyLlamaSpec(options))) {
    size_t bytes = sizeof(float);
    for (const int64_t size : t.shape) bytes *= static_cast<size_t>(size);
    builder.AddTensor(t.gguf, 0, t.shape, std::string(bytes, '\0'));
  }
  const std::string path =
      ::testing::TempDir() + "/gguf_fields_test_" + std::to_string(::getpid()) + ".gguf";
  EXPECT_TRUE(WriteFile(path, builder.Finish()).ok());
  const absl::Status status = ModelSource::Open(path).status();
  ::unlink(path.c_str());
  return status;
}

TEST(GgufFieldsTest, RefusedByName) {
  struct Case {
    Pairs changes;
    StatusCode code;
    std::vector<std::string> message;
  };
  const StatusCode no = StatusCode::kUnimplemented, wrong = StatusCode::kInvalidArgument;
  const std::vector<Case> cases = {
      {{{"tokenizer.ggml.model", Text("bert")}}, no, {"'tokenizer.ggml.model' is 'bert'", "gpt2"}},
      {{{"tokenizer.ggml.model", Text("rwkv")}}, no, {"'tokenizer.ggml.model' is 'rwkv'"}},
      {{{"tokenizer.ggml.pre", Text("falcon")}}, no, {"'tokenizer.ggml.pre' is 'falcon'", "qwen2"}},
      {{{"tokenizer.ggml.token_type", Types(kVocab - 1)}},
       wrong,
       {"'tokenizer.ggml.token_type' is an array of 261", "262 integers"}},
      {{{"tokenizer.ggml.model", Text("llama")}}, wrong, {"'tokenizer.ggml.scores' is missing"}},
      {{{"tokenizer.ggml.model", Text("llama")}, {"tokenizer.ggml.scores", Scores(kVocab + 1)}},
       wrong,
       {"'tokenizer.ggml.scores' is an array of 263", "262 numbers"}},
      {{{"tokenizer.ggml.model", Text("t5")}, {"tokenizer.ggml.scores", Scores(3)}},
       wrong,
       {"'tokenizer.ggml.scores' is an array of 3"}},
      {{{"llama.vocab_size", Number(300)}}, wrong, {"'llama.vocab_size' is 300", "262"}},
      {{{"tokenizer.ggml.tokens", Tokens(kVocab + 1)},
        {"tokenizer.ggml.token_type", Types(kVocab + 1)}},
       wrong,
       {"the tokenizer has token 262", "below 262"}},
      {{{"llama.attention.sliding_window", Number(16)}},
       no,
       {"'llama.attention.sliding_window' is 16"}},
      {{{"llama.attention.key_length", Number(4)}, {"llama.attention.value_length", Number(8)}},
       no,
       {"4 key elements, 8 value elements"}},
      {{{"llama.rope.dimension_count", Number(2)}}, no, {"2 rotated ones"}},
      {{{"llama.expert_count", Number(8)}}, no, {"'llama.expert_count' is 8", "experts"}},
      {{{"llama.rope.scaling.type", Text("yarn")}}, no, {"'llama.rope.scaling.type' is 'yarn'"}},
  };
  for (const Case& c : cases) {
    const absl::Status status = Open(c.changes);
    EXPECT_EQ(status.code(), c.code) << c.message[0] << ": " << status;
    for (const std::string& part : c.message) {
      EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr(".gguf"), HasSubstr(part)));
    }
  }
}

TEST(GgufFieldsTest, TheSameThatSaysNothingIsTaken) {
  EXPECT_TRUE(Open({}).ok()) << Open({});
  for (const Pairs& changes : {Pairs{{"llama.vocab_size", Number(kVocab)}},
                               Pairs{{"llama.attention.sliding_window", Number(512)}},
                               Pairs{{"llama.attention.key_length", Number(4)},
                                     {"llama.attention.value_length", Number(4)},
                                     {"llama.rope.dimension_count", Number(4)}},
                               Pairs{{"llama.expert_count", Number(0)}},
                               Pairs{{"tokenizer.ggml.tokens", Tokens(kVocab - 1)},
                                     {"tokenizer.ggml.token_type", Types(kVocab - 1)}}}) {
    EXPECT_TRUE(Open(changes).ok()) << changes.begin()->first << ": " << Open(changes);
  }
}

}  // namespace
}  // namespace shiftadd
