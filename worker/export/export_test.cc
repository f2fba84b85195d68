// What is exported is what is served: read back with our own readers, and every number compared.
#include "worker/export/export.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "nlohmann/json.hpp"
#include "worker/model/model_source.h"
#include "worker/model/testing/golden_family.h"
#include "worker/model/tokenizer.h"
#include "worker/serve/testing/tiny_package.h"
#include "worker/tensor/dtype.h"

namespace shiftadd {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class Export : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "/export-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    dir_ = pattern;
    fs::copy(SHIFTADD_SOURCE_DIR "/tests/golden/tiny_package", dir_ / "layout",
             fs::copy_options::recursive);
    Open("golden:v1");
  }
  void TearDown() override { fs::remove_all(dir_); }

  void Open(const std::string& reference) {
    PackageLocation location;
    location.reference = reference;
    location.package_dir = dir_ / "layout";
    auto package = ResolvePackage(location);
    ASSERT_TRUE(package.ok()) << package.status();
    auto weights = PackageWeights::Open(*std::move(package));
    ASSERT_TRUE(weights.ok()) << weights.status();
    weights_ = *std::move(weights);
  }

  absl::Status Write(const fs::path& to, ExportFormat format, uint64_t shard = 1 << 30) {
    ExportOptions options;
    options.format = format;
    options.shard_bytes = shard;
    return ExportPackage(weights_.get(), options, to);
  }

  // Every tensor as the package has it, matrices rounded to fp16.
  void ExpectSameWeights(const ModelSource& model, bool halve_vectors) {
    for (const FamilyTensor& tensor : weights_->family().tensors(weights_->spec())) {
      std::vector<float> expected;
      ASSERT_TRUE(weights_
                      ->Read(tensor,
                             [&](const std::vector<float>& rows) {
                               expected.insert(expected.end(), rows.begin(), rows.end());
                               return absl::OkStatus();
                             })
                      .ok());
      if (tensor.shape.size() > 1 || halve_vectors) {
        const float plus = halve_vectors ? tensor.hugging_face_plus : 0;  // is not in the file
        for (float& v : expected) v = HalfToFloat(FloatToHalf(v - plus)) + plus;
      }
      const auto found = model.Read(tensor.canonical);
      ASSERT_TRUE(found.ok()) << found.status();
      EXPECT_EQ(*found, expected) << tensor.canonical;
    }
  }
  void ExpectSameTokens(const ModelSource& model) {
    const auto ours = Tokenizer::FromJson(weights_->tokenizer().dump());
    const auto theirs = Tokenizer::FromJson(model.tokenizer_json());
    ASSERT_TRUE(ours.ok() && theirs.ok()) << theirs.status();
    const std::string text = "Shift and add: 日本語 😀. <|im_end|> 12345";
    for (const bool special : {false, true}) {
      EXPECT_EQ((*ours)->Encode(text, special, special), (*theirs)->Encode(text, special, special));
    }
    EXPECT_EQ(nlohmann::json::parse(model.tokenizer_json())["shiftadd"],
              weights_->tokenizer()["shiftadd"]);
    EXPECT_EQ(ToJson(model.spec()), ToJson(weights_->spec()));
  }

  fs::path dir_;
  std::unique_ptr<PackageWeights> weights_;
};

TEST_F(Export, HuggingFaceDirectoryHoldsTheServedNumbers) {
  ASSERT_TRUE(Write(dir_ / "hf", ExportFormat::kHuggingFace).ok());
  const auto model = ModelSource::Open(dir_ / "hf");
  ASSERT_TRUE(model.ok()) << model.status();
  ExpectSameWeights(**model, true);
  ExpectSameTokens(**model);
}

TEST_F(Export, LargeModelsGetShardsAndAnIndex) {
  ASSERT_TRUE(Write(dir_ / "hf", ExportFormat::kHuggingFace, 50'000).ok());
  EXPECT_FALSE(fs::exists(dir_ / "hf/model.safetensors"));
  EXPECT_TRUE(fs::exists(dir_ / "hf/model.safetensors.index.json"));
  const auto model = ModelSource::Open(dir_ / "hf");
  ASSERT_TRUE(model.ok()) << model.status();
  ExpectSameWeights(**model, true);
}

TEST_F(Export, GgufHoldsTheServedNumbers) {
  ASSERT_TRUE(Write(dir_ / "gguf", ExportFormat::kGguf).ok());
  const auto model = ModelSource::Open(dir_ / "gguf/model-f16.gguf");
  ASSERT_TRUE(model.ok()) << model.status();
  ExpectSameWeights(**model, false);
  ExpectSameTokens(**model);
}

// Plain numbers of every family: fused and interleaved tensors, norms without their 1, positions.
TEST_F(Export, EveryFamilyIsReadBack) {
  for (const nlohmann::json& golden : testing::GoldenFamilies()) {
    std::string name = golden.at("name");
    for (char& c : name) c = c == '_' ? '-' : c;
    SCOPED_TRACE(name);
    const fs::path folder = dir_ / name;
    ASSERT_TRUE(testing::WriteGoldenFamily(golden, folder / "source", "", /*halves=*/true).ok());
    const auto source = ModelSource::Open(folder / "source");
    ASSERT_TRUE(source.ok()) << source.status();
    const auto digest =
        testing::MakeRawPackage(**source).WriteLayout(dir_ / "layout", name + ":v1");
    ASSERT_TRUE(digest.ok()) << digest.status();
    Open(name + ":v1");
    ASSERT_TRUE(Write(folder / "hf", ExportFormat::kHuggingFace).ok());
    const auto model = ModelSource::Open(folder / "hf");
    ASSERT_TRUE(model.ok()) << model.status();
    ExpectSameWeights(**model, true);
    EXPECT_EQ(ToJson((*model)->spec()), ToJson(weights_->spec()));

    const absl::Status gguf = Write(folder / "gguf", ExportFormat::kGguf);
    const std::map<std::string, std::string> refused = {
        {"mistral", "local_blocks"},   {"qwen2-windows", "local_blocks"},
        {"gemma2", "attention_scale"}, {"gemma3", "attention_scale"},
        {"opt", "family opt"},         {"opt-post-norm", "family opt"}};
    if (const auto found = refused.find(name); found != refused.end()) {
      EXPECT_EQ(gguf.code(), absl::StatusCode::kUnimplemented) << gguf;
      EXPECT_THAT(std::string(gguf.message()), HasSubstr(found->second));
      EXPECT_FALSE(fs::exists(folder / "gguf"));
      continue;
    }
    ASSERT_TRUE(gguf.ok()) << gguf;
    const auto file = ModelSource::Open(folder / "gguf/model-f16.gguf");
    ASSERT_TRUE(file.ok()) << file.status();
    ExpectSameWeights(**file, false);
    ArchitectureSpec read = (*file)->spec();
    read.family = weights_->spec().family;  // "mistral" is "llama" there
    EXPECT_EQ(ToJson(read), ToJson(weights_->spec()));
  }
}

// What a package would lose in the file is refused: llama.cpp divides no frequencies of Qwen's.
TEST_F(Export, AScalingThatGgufHasOnlyForLlamaIsRefusedElsewhere) {
  for (const nlohmann::json& golden : testing::GoldenFamilies()) {
    if (golden.at("name") != "qwen3") continue;
    nlohmann::json scaled = golden;
    scaled["config"]["rope_parameters"] = {
        {"rope_type", "llama3"},   {"rope_theta", 10000.0},
        {"factor", 8.0},           {"low_freq_factor", 1.0},
        {"high_freq_factor", 4.0}, {"original_max_position_embeddings", 32}};
    ASSERT_TRUE(testing::WriteGoldenFamily(scaled, dir_ / "source").ok());
    const auto source = ModelSource::Open(dir_ / "source");
    ASSERT_TRUE(source.ok()) << source.status();
    ASSERT_TRUE(testing::MakeRawPackage(**source).WriteLayout(dir_ / "layout", "scaled:v1").ok());
    Open("scaled:v1");
    const absl::Status status = Write(dir_ / "gguf", ExportFormat::kGguf);
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("qwen3 whose rope_"));
  }
}

TEST_F(Export, OnlyANewOrAnEmptyFolderIsWrittenTo) {
  fs::create_directories(dir_ / "empty");
  EXPECT_TRUE(Write(dir_ / "empty", ExportFormat::kGguf).ok());
  const absl::Status full = Write(dir_ / "empty", ExportFormat::kHuggingFace);
  EXPECT_EQ(full.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(full.message()), HasSubstr("is not empty"));
  EXPECT_FALSE(fs::exists(dir_ / "empty/config.json"));
  std::ofstream(dir_ / "file") << "x";
  EXPECT_THAT(std::string(Write(dir_ / "file", ExportFormat::kGguf).message()),
              HasSubstr("is a file"));
  const absl::Status nowhere = Write("", ExportFormat::kGguf);
  EXPECT_EQ(nowhere.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(nowhere.message()), HasSubstr("expected a new or an empty folder"));
  for (const auto& entry : fs::directory_iterator(dir_)) {
    EXPECT_THAT(entry.path().string(), ::testing::Not(HasSubstr("partial")));
  }
}

TEST_F(Export, ATokenizerThatIsNoneIsRefused) {
  for (const char* tokenizer :
       {"{}", R"({"model":5})",
        R"({"model":{"vocab":{},"merges":[[]],"type":"BPE","byte_fallback":true}})",
        R"({"model":{"vocab":{},"merges":[7]},"added_tokens":[5]})",
        R"({"model":{"vocab":{},"merges":[],"type":"BPE","byte_fallback":7}})"}) {
    PackageLocation location;
    location.reference = "golden:v1";
    location.package_dir = dir_ / "layout";
    ResolvedPackage package = ResolvePackage(location).value();
    const std::string digest = nlohmann::json::parse(package.config_json)["tokenizer"];
    package.read = [read = package.read, digest,
                    tokenizer](const std::string& asked) -> absl::StatusOr<std::string> {
      return asked == digest ? std::string(tokenizer) : read(asked);
    };
    weights_ = PackageWeights::Open(std::move(package)).value();
    const absl::Status status = Write(dir_ / "out", ExportFormat::kGguf);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << tokenizer << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("tokenizer.json"));
    EXPECT_FALSE(fs::exists(dir_ / "out"));
  }
}

TEST_F(Export, WhatKilledExportsLeftGoes) {
  for (const char* left : {"out.partial-1", "out.partial-2", "out.partial-x", "out2.partial-1"}) {
    fs::create_directories(dir_ / left);
    std::ofstream(dir_ / left / "model-f16.gguf") << "half";
  }
  // Another process writes to this one.
  const int fd = open((dir_ / "out.partial-2").c_str(), O_RDONLY | O_DIRECTORY);
  ASSERT_EQ(flock(fd, LOCK_EX), 0);
  EXPECT_TRUE(Write(dir_ / "out", ExportFormat::kGguf).ok());
  close(fd);
  EXPECT_FALSE(fs::exists(dir_ / "out.partial-1"));
  for (const char* others : {"out.partial-2", "out.partial-x", "out2.partial-1"}) {
    EXPECT_TRUE(fs::exists(dir_ / others / "model-f16.gguf")) << others;
  }
}

}  // namespace
}  // namespace shiftadd
