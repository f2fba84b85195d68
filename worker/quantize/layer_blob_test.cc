#include "worker/quantize/layer_blob.h"

#include <limits>
#include <map>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/quantize/testing/layers.h"

namespace shiftadd::quantize {
namespace {

// A LLaMA of two blocks with biases on q, k, v; every tensor is a function of its name.
class FakeWeights : public WeightProvider {
 public:
  explicit FakeWeights(bool tied) {
    spec_.vocab = 40;
    spec_.hidden = 32;
    spec_.intermediate = 80;
    spec_.blocks = 2;
    spec_.heads = 4;
    spec_.kv_heads = 2;
    spec_.head_dim = 8;
    spec_.tied_embeddings = tied;
    spec_.qkv_bias = true;
    Put("embed", 40 * 32);
    if (!tied) Put("head", 40 * 32);
    Put("final_norm", 32);
    for (int b = 0; b < 2; ++b) {
      Put(absl::StrCat("blocks.", b, ".attn_norm"), 32);
      Put(absl::StrCat("blocks.", b, ".mlp_norm"), 32);
      for (const LinearLayer& layer : BlockLayers(spec_, b)) {
        if (layer.input == BlockInput::kAttn) Put(layer.name + ".bias", layer.rows);
      }
    }
  }
  const ArchitectureSpec& spec() const override { return spec_; }
  bool Has(const std::string& name) const override { return tensors_.count(name) > 0; }
  absl::StatusOr<std::vector<float>> Read(const std::string& name) const override {
    const auto it = tensors_.find(name);
    if (it == tensors_.end()) return absl::NotFoundError(absl::StrCat("no tensor ", name));
    return it->second;
  }
  void Put(const std::string& name, int64_t size) {
    tensors_[name] = testing::GaussianWeights(1, size, static_cast<uint32_t>(tensors_.size()));
  }
  std::map<std::string, std::vector<float>> tensors_;

 private:
  ArchitectureSpec spec_;
};

nlohmann::json Header(const std::string& blob) {
  uint64_t size;
  std::memcpy(&size, blob.data(), 8);
  return nlohmann::json::parse(blob.substr(8, size));
}

std::unique_ptr<TensorSource> Parse(const std::string& blob) {
  auto source = ParseSafetensors(blob, "blob");
  if (!source.ok()) throw std::runtime_error(std::string(source.status().message()));
  return std::move(*source);
}

TEST(HeadBlob, Int8) {
  for (const bool tied : {true, false}) {
    const FakeWeights weights(tied);
    const auto blob = BuildHeadBlob(weights, /*int8=*/true);
    ASSERT_TRUE(blob.ok()) << blob.status();
    const auto source = Parse(*blob);
    EXPECT_EQ(source->tensors().size(), tied ? 2u : 4u);
    EXPECT_EQ(source->tensors().at("embed.codes").dtype, DType::kI8);
    EXPECT_EQ(source->tensors().at("embed.codes").shape, (std::vector<int64_t>{40, 32}));
    EXPECT_EQ(source->tensors().at("embed.scale").dtype, DType::kF16);
    EXPECT_EQ(source->tensors().at("embed.scale").shape, (std::vector<int64_t>{40, 1}));
    EXPECT_EQ(source->tensors().count("head.codes"), tied ? 0u : 1u);
    const nlohmann::json meta = Header(*blob).at("__metadata__");
    EXPECT_EQ(meta.at("embed.encoding"), "int8/group");
    EXPECT_EQ(meta.at("embed.group"), "128");
  }
}

TEST(HeadBlob, RawKeepsEveryValueInTheSmallestType) {
  FakeWeights weights(/*tied=*/true);
  std::vector<float>& embed = weights.tensors_["embed"];
  const std::vector<float> full = embed;
  const auto check = [&](DType expected) {
    const auto blob = BuildHeadBlob(weights, /*int8=*/false);
    ASSERT_TRUE(blob.ok()) << blob.status();
    const auto source = Parse(*blob);
    EXPECT_EQ(source->tensors().at("embed").dtype, expected);
    std::vector<float> back(embed.size());
    ASSERT_TRUE(source->ReadRows("embed", 0, 40, back.data()).ok());
    EXPECT_EQ(back, embed);
    EXPECT_EQ(Header(*blob).at("__metadata__").at("embed.encoding"), "raw");
  };
  check(DType::kF32);
  for (float& x : embed) x = kernels::HalfToFloat(kernels::FloatToHalf(x));
  check(DType::kF16);
  for (size_t i = 0; i < full.size(); ++i) {
    uint32_t bits;
    std::memcpy(&bits, &full[i], 4);
    bits &= 0xffff0000u;
    std::memcpy(&embed[i], &bits, 4);
  }
  embed[3] = 1e20f;  // no half
  uint32_t bits = 0x60000000u;
  std::memcpy(&embed[3], &bits, 4);
  check(DType::kBF16);
}

TEST(UnquantizedBlob, NormsBiasesAndSigns) {
  FakeWeights weights(/*tied=*/true);
  QuantRecipe recipe;
  recipe.seed = 5;
  const auto blob = BuildUnquantizedBlob(weights, recipe);
  ASSERT_TRUE(blob.ok()) << blob.status();
  const auto source = Parse(*blob);
  for (const auto& [name, values] : weights.tensors_) {
    if (name == "embed") continue;
    ASSERT_EQ(source->tensors().count(name), 1u) << name;
    EXPECT_EQ(source->tensors().at(name).dtype, DType::kF32);
    std::vector<float> back(values.size());
    ASSERT_TRUE(source->ReadRows(name, 0, static_cast<int64_t>(values.size()), back.data()).ok());
    EXPECT_EQ(back, values) << name;
  }
  for (const int64_t k : {32, 80}) {
    const auto bytes = source->Bytes(absl::StrCat("signs.", k));
    ASSERT_TRUE(bytes.ok());
    const std::vector<uint32_t> expected = RotationSigns(5, k);
    ASSERT_EQ(bytes->size(), expected.size() * 4);
    EXPECT_EQ(std::memcmp(bytes->data(), expected.data(), bytes->size()), 0);
  }
  recipe.method = QuantMethod::kRtn;
  const auto plain = BuildUnquantizedBlob(weights, recipe);
  ASSERT_TRUE(plain.ok());
  EXPECT_EQ(Parse(*plain)->tensors().count("signs.32"), 0u);
  weights.tensors_.erase("blocks.1.attn.k.bias");
  EXPECT_THAT(std::string(BuildUnquantizedBlob(weights, recipe).status().message()),
              ::testing::HasSubstr("blocks.1.attn.k.bias"));
  weights.Put("blocks.1.attn.k.bias", 3);
  EXPECT_THAT(std::string(BuildUnquantizedBlob(weights, recipe).status().message()),
              ::testing::HasSubstr("blocks.1.attn.k.bias"));
}

TEST(RawLayerBlob, RoundTrip) {
  const std::vector<float> w = testing::GaussianWeights(6, 10, 1);
  const auto blob = BuildRawLayerBlob("blocks.0.mlp.up", w, 6, 10);
  ASSERT_TRUE(blob.ok());
  std::vector<float> back(60);
  ASSERT_TRUE(Parse(*blob)->ReadRows("weight", 0, 6, back.data()).ok());
  EXPECT_EQ(back, w);
  const nlohmann::json meta = Header(*blob).at("__metadata__");
  EXPECT_EQ(meta.at("layer"), "blocks.0.mlp.up");
  EXPECT_EQ(meta.at("encoding"), "raw");
  std::vector<float> bad = w;
  bad[7] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(std::string(BuildRawLayerBlob("blocks.0.mlp.up", bad, 6, 10).status().message()),
              ::testing::HasSubstr("blocks.0.mlp.up"));
}

TEST(LayerBlob, SameBytesForTheSameInput) {
  const HessianMatrix h = testing::CorrelatedHessian(64, 1);
  const std::vector<float> w = testing::GaussianWeights(8, 64, 2);
  const QuantRecipe recipe = testing::Recipe(QuantMethod::kShiftAdd);
  const auto a = testing::Quantize(w, 8, 64, h, recipe, {3}),
             b = testing::Quantize(w, 8, 64, h, recipe, {3});
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_EQ((*a)[0].blob, (*b)[0].blob);
  const nlohmann::json meta = Header((*a)[0].blob).at("__metadata__");
  EXPECT_EQ(meta.at("rotation"), "wht128");
  EXPECT_EQ(meta.at("encoding"), "bcq/shift");
  EXPECT_EQ(meta.at("rows"), "8");
}

}  // namespace
}  // namespace shiftadd::quantize
