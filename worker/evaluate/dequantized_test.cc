// Packages as the quantizer writes them, read back as numbers and scored.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "services/base/digest.h"
#include "worker/evaluate/evaluate.h"
#include "worker/quantize/layer_blob.h"
#include "worker/quantize/layer_quantizer.h"
#include "worker/reference/testing/naive_model.h"
#include "worker/reference/testing/random_model.h"

namespace shiftadd {
namespace {

using ::testing::HasSubstr;
using testing::RandomModel;
using testing::RandomTokens;

ArchitectureSpec Spec(bool tied) {
  ArchitectureSpec s = testing::TinySpec();
  s.hidden = 160;  // a group of 128 and one of 32
  s.heads = 10;
  s.head_dim = 16;
  s.intermediate = 136;
  s.blocks = 2;
  s.tied_embeddings = tied;
  s.qkv_bias = true;
  return s;
}

struct Package {
  std::map<std::string, std::string> blobs, layers;
  std::map<std::string, double> weight_error;
  std::string head, unquantized;

  std::string Put(std::string blob) {
    const std::string digest = Sha256Digest(blob);
    blobs[digest] = std::move(blob);
    return digest;
  }
  ReadBlobFn Reader() const {
    return [this](const std::string& digest) -> absl::StatusOr<std::string> {
      const auto found = blobs.find(digest);
      if (found == blobs.end()) return absl::NotFoundError("no blob " + digest);
      return found->second;
    };
  }
  absl::StatusOr<std::unique_ptr<WeightProvider>> Open(const ArchitectureSpec& spec,
                                                       int threads = 1) const {
    return OpenDequantized(spec, layers, head, unquantized, Reader(), threads);
  }
};

// The last layer stays raw; the others are quantized with white inputs.
Package Quantize(const RandomModel& model, const QuantRecipe& recipe, int bits, bool int8_head) {
  Package out;
  const ArchitectureSpec& s = model.spec();
  for (int64_t b = 0; b < s.blocks; ++b) {
    for (const LinearLayer& layer : BlockLayers(s, b)) {
      const std::vector<float> w = model.Read(layer.name).value();
      if (b == s.blocks - 1 && layer.kind == "down") {
        out.layers[layer.name] =
            out.Put(BuildRawLayerBlob(layer.name, w, layer.rows, layer.cols).value());
        out.weight_error[layer.name] = 0;
        continue;
      }
      HessianMatrix h{layer.cols, 100, std::vector<double>(layer.cols * layer.cols, 0.0)};
      for (int64_t i = 0; i < layer.cols; ++i) h.h[i * layer.cols + i] = 1;
      const auto prepared = PreparedHessian::Create(h, recipe).value();
      const Candidate c = QuantizeLayer(layer.name, w, layer.rows, layer.cols, {prepared}, recipe,
                                        {bits}, 1, nullptr)
                              .value()[0];
      out.layers[layer.name] = out.Put(c.blob);
      out.weight_error[layer.name] = c.weight_error;
    }
  }
  out.head = out.Put(BuildHeadBlob(model, int8_head).value());
  out.unquantized = out.Put(BuildUnquantizedBlob(model, recipe).value());
  return out;
}

double RelativeError(const std::vector<float>& w, const std::vector<float>& q) {
  double error = 0, square = 0;
  for (size_t i = 0; i < w.size(); ++i) {
    error += std::pow(static_cast<double>(w[i]) - q[i], 2);
    square += std::pow(static_cast<double>(w[i]), 2);
  }
  return error / square;
}

void ExpectReadsBack(const RandomModel& model, const Package& package) {
  const auto read = package.Open(model.spec());
  ASSERT_TRUE(read.ok()) << read.status();
  for (const auto& [name, values] : model.tensors) {
    ASSERT_TRUE((*read)->Has(name)) << name;
    const auto found = (*read)->Read(name);
    ASSERT_TRUE(found.ok()) << found.status();
    const double error = RelativeError(values, *found);
    if (const auto layer = package.weight_error.find(name); layer != package.weight_error.end()) {
      EXPECT_NEAR(error, layer->second, 1e-5 + 1e-3 * layer->second) << name;
    } else {
      EXPECT_LT(error, name == "embed" || name == "head" ? 1e-4 : 1e-30) << name;
    }
  }
  EXPECT_FALSE((*read)->Has("blocks.2.attn.q"));
  EXPECT_EQ((*read)->Read("blocks.2.attn.q").status().code(), absl::StatusCode::kNotFound);
}

TEST(OpenDequantized, ReadsWhatTheQuantizerWrote) {
  QuantRecipe shiftadd;
  QuantRecipe lat;
  lat.method = QuantMethod::kLat;
  lat.rotation = QuantRotation::kNone;
  QuantRecipe rtn;
  rtn.method = QuantMethod::kRtn;
  rtn.rotation = QuantRotation::kNone;
  for (const QuantRecipe& recipe : {shiftadd, lat, rtn}) {
    for (bool tied : {false, true}) {
      const RandomModel model(Spec(tied), 1);
      SCOPED_TRACE(static_cast<int>(recipe.method));
      ExpectReadsBack(model, Quantize(model, recipe, 3, tied));
    }
  }
}

TEST(OpenDequantized, SameNumbersForAnyThreads) {
  const RandomModel model(Spec(false), 5);
  const Package package = Quantize(model, QuantRecipe(), 3, true);
  const auto one = package.Open(model.spec(), 1).value(),
             many = package.Open(model.spec(), 3).value();
  for (const auto& [name, values] : model.tensors) {
    EXPECT_EQ(one->Read(name).value(), many->Read(name).value()) << name;
  }
}

TEST(OpenDequantized, ScoresLikeADirectComputation) {
  const RandomModel model(Spec(false), 2);
  const Package two = Quantize(model, QuantRecipe(), 2, true),
                four = Quantize(model, QuantRecipe(), 4, true);
  const auto rough = two.Open(model.spec()).value(), fine = four.Open(model.spec()).value();
  const std::vector<int32_t> tokens = RandomTokens(3, 12, 61);
  const auto reference = ReferenceModel::Create(&model, 1, 0, Device::kCpu).value();
  const auto rough_model = VariantModel::Create(rough.get(), {}).value();
  const auto fine_model = VariantModel::Create(fine.get(), {}).value();
  const WindowScores s = ScoreWindows(reference.get(), {rough_model.get(), fine_model.get()},
                                      tokens, 1, 12, 1, nullptr)
                             .value()[0];
  EXPECT_GT(s.kl[0], 2 * s.kl[1]);
  EXPECT_GT(s.kl[1], 0);
  const std::vector<double> full = testing::NaiveLogits(model, tokens),
                            other = testing::NaiveLogits(*rough, tokens);
  double kl = 0, nll = 0;
  for (int t = 0; t < 11; ++t) {
    const std::vector<double> p = testing::NaiveLogSoftmax(full.data() + t * 61, 61);
    const std::vector<double> q = testing::NaiveLogSoftmax(other.data() + t * 61, 61);
    nll -= q[tokens[t + 1]];
    for (int i = 0; i < 61; ++i) kl += std::exp(p[i]) * (p[i] - q[i]);
  }
  EXPECT_NEAR(s.kl[0], kl, 1e-4);
  EXPECT_NEAR(s.nll[0], nll, 1e-4);
}

TEST(OpenDequantized, SaysWhatIsWrong) {
  const RandomModel model(Spec(true), 4);
  const Package good = Quantize(model, QuantRecipe(), 2, true);
  Package p = good;
  p.layers.erase("blocks.1.mlp.up");
  EXPECT_THAT(p.Open(model.spec()).status().ToString(),
              HasSubstr("no blob for layer 'blocks.1.mlp.up'"));
  p = good;
  p.layers["blocks.9.mlp.up"] = p.head;
  EXPECT_THAT(p.Open(model.spec()).status().ToString(),
              HasSubstr("'blocks.9.mlp.up', which is no layer"));
  p = good;
  p.unquantized = p.head;
  EXPECT_THAT(p.Open(model.spec()).status().ToString(), HasSubstr(p.head));
  p = good;
  std::swap(p.layers["blocks.0.attn.k"], p.layers["blocks.0.attn.v"]);
  EXPECT_THAT(p.Open(model.spec()).value()->Read("blocks.0.attn.k").status().ToString(),
              HasSubstr("'blocks.0.attn.v', expected 'blocks.0.attn.k'"));
  p.blobs.erase(p.layers["blocks.0.attn.k"]);
  EXPECT_EQ(p.Open(model.spec()).value()->Read("blocks.0.attn.k").status().code(),
            absl::StatusCode::kNotFound);
  ArchitectureSpec taller = model.spec();
  taller.vocab = 62;
  EXPECT_THAT(good.Open(taller).value()->Read("embed").status().ToString(),
              HasSubstr("[61, 160], expected [62, 160]"));
}

}  // namespace
}  // namespace shiftadd
