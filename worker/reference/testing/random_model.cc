#include "worker/reference/testing/random_model.h"

#include <cmath>
#include <random>

#include "absl/strings/str_cat.h"

namespace shiftadd::testing {

ArchitectureSpec TinySpec() {
  ArchitectureSpec s;
  s.family = "llama";
  s.vocab = 61;
  s.hidden = 48;
  s.intermediate = 80;
  s.blocks = 2;
  s.heads = 6;
  s.kv_heads = 2;
  s.head_dim = 8;
  s.context = 512;
  s.norm_eps = 1e-5;
  s.bos_token = 1;
  return s;
}

RandomModel::RandomModel(const ArchitectureSpec& spec, uint64_t seed) : spec_(spec) {
  std::mt19937_64 random(seed);
  const auto fill = [&](const std::string& name, int64_t count, double mean, double deviation) {
    std::normal_distribution<double> normal(mean, deviation);
    std::vector<float>& values = tensors[name];
    values.resize(count);
    for (float& v : values) v = static_cast<float>(normal(random));
  };
  fill("embed", spec.vocab * spec.embed_dim(), 0, 1);
  // Logits of deviation 2: far from uniform, far from certain.
  if (!spec.tied_embeddings)
    fill("head", spec.vocab * spec.embed_dim(), 0, 2 / std::sqrt(double(spec.embed_dim())));
  for (const PlainTensor& t : PlainTensors(spec)) {
    const bool bias = t.name.size() > 5 && t.name.substr(t.name.size() - 5) == ".bias";
    if (t.shape.size() == 2) {
      fill(t.name, t.size(), 0, t.name == "positions" ? 0.5 : 1 / std::sqrt(double(t.shape[1])));
    } else {
      fill(t.name, t.size(), bias ? 0 : 1, bias ? 0.1 : 0.2);
    }
  }
  for (int64_t b = 0; b < spec.blocks; ++b) {
    for (const LinearLayer& layer : BlockLayers(spec, b))
      fill(layer.name, layer.rows * layer.cols, 0, 1 / std::sqrt(static_cast<double>(layer.cols)));
  }
}

absl::StatusOr<std::vector<float>> RandomModel::Read(const std::string& name) const {
  ++reads;
  const auto found = tensors.find(name);
  if (found == tensors.end()) return absl::NotFoundError(absl::StrCat("no tensor ", name));
  return found->second;
}

std::vector<int32_t> RandomTokens(uint64_t seed, int64_t count, int64_t vocab) {
  std::mt19937_64 random(seed);
  std::uniform_int_distribution<int32_t> token(0, static_cast<int32_t>(vocab) - 1);
  std::vector<int32_t> tokens(count);
  for (int32_t& t : tokens) t = token(random);
  return tokens;
}

}  // namespace shiftadd::testing
