// How a LLaMA model is described in a GGUF file.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/model/gguf_metadata.h"
#include "worker/model/llama_family.h"

namespace shiftadd {
namespace {

constexpr double kPi = 3.14159265358979323846;

bool Has(const TensorSource& source, const std::string& name) {
  return source.tensors().count(name) > 0;
}

absl::StatusOr<int64_t> VocabSize(const TensorSource& source, const GgufMetadata& meta) {
  const auto it = source.tensors().find("token_embd.weight");
  if (it == source.tensors().end() || it->second.shape.size() != 2) {
    return absl::InvalidArgumentError(absl::StrCat(
        meta.file(), ": tensor 'token_embd.weight' is missing or has not two dimensions"));
  }
  const int64_t rows = it->second.shape[0];
  SA_ASSIGN_OR_RETURN(const int64_t said, meta.Int("llama.vocab_size", rows));
  if (said != rows) {
    return meta.Fault("llama.vocab_size", absl::StrCat(rows, ", the rows of token_embd.weight"));
  }
  return rows;
}

absl::Status ReadRopeScaling(const TensorSource& source, const GgufMetadata& meta,
                             ArchitectureSpec* s) {
  const std::string kind_key = "llama.rope.scaling.type";
  SA_ASSIGN_OR_RETURN(const std::string kind, meta.String(kind_key, "none"));
  SA_ASSIGN_OR_RETURN(const double old_factor, meta.Real("llama.rope.scale_linear", 1.0));
  SA_ASSIGN_OR_RETURN(const double factor, meta.Real("llama.rope.scaling.factor", old_factor));
  if (kind == "linear" || (meta.Find(kind_key) == nullptr && factor != 1.0)) {
    s->rope_scaling = factor == 1.0 ? RopeScaling::kNone : RopeScaling::kLinear;
    s->rope_factor = factor;
  } else if (kind != "none") {
    return absl::UnimplementedError(absl::StrCat(meta.file(), ": metadata '", kind_key, "' is '",
                                                 kind,
                                                 "': not supported, supported are: none, "
                                                 "linear, and factors in rope_freqs.weight"));
  }
  if (!Has(source, "rope_freqs.weight")) return absl::OkStatus();
  const TensorInfo& info = source.tensors().at("rope_freqs.weight");
  if (info.shape != std::vector<int64_t>{s->head_dim / 2}) {
    return absl::InvalidArgumentError(absl::StrCat(meta.file(), ": tensor 'rope_freqs.weight' has ",
                                                   info.elements(), " elements, expected [",
                                                   s->head_dim / 2, "]"));
  }
  std::vector<float> factors(static_cast<size_t>(s->head_dim / 2));
  SA_RETURN_IF_ERROR(source.ReadRows("rope_freqs.weight", 0, s->head_dim / 2, factors.data()));
  return RopeScalingFromFactors(factors, meta.file(), s);
}

absl::Status ReadTokens(const GgufMetadata& meta, ArchitectureSpec* s) {
  SA_ASSIGN_OR_RETURN(s->bos_token, meta.Int("tokenizer.ggml.bos_token_id", -1));
  // A turn may end with another token than a text: both stop generation.
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"}) {
    SA_ASSIGN_OR_RETURN(const int64_t eos, meta.Int(key, -1));
    if (eos >= 0 && std::count(s->eos_tokens.begin(), s->eos_tokens.end(), eos) == 0) {
      s->eos_tokens.push_back(eos);
    }
  }
  return absl::OkStatus();
}

// True if `candidate` divides the frequencies as `factors` say, to float32's precision and a
// little.
bool Explains(const ArchitectureSpec& candidate, const std::vector<float>& factors) {
  ArchitectureSpec plain = candidate;
  plain.rope_scaling = RopeScaling::kNone;
  const std::vector<double> scaled = RopeInverseFrequencies(candidate);
  const std::vector<double> base = RopeInverseFrequencies(plain);
  for (size_t i = 0; i < factors.size(); ++i) {
    if (std::abs(base[i] / scaled[i] - factors[i]) > 1e-4 * factors[i]) return false;
  }
  return true;
}

// On the ramp 1/factor is linear in the turns over the original context; its two ends give the
// parameters up to a common scale, fixed by low_freq_factor = 1 as in every published model.
bool FitRamp(const std::vector<float>& factors, ArchitectureSpec* s) {
  ArchitectureSpec plain = *s;
  plain.rope_scaling = RopeScaling::kNone;
  const std::vector<double> base = RopeInverseFrequencies(plain);
  const double slowest = 1.0 / s->rope_factor;
  std::vector<std::pair<double, double>> ramp;  // frequency / 2π, share that is kept
  for (size_t i = 0; i < factors.size(); ++i) {
    const double keep = (1.0 / factors[i] - slowest) / (1.0 - slowest);
    if (keep > 1e-4 && keep < 1.0 - 1e-4) ramp.emplace_back(base[i] / (2.0 * kPi), keep);
  }
  if (ramp.size() < 2) return false;
  const auto [x0, y0] = ramp.front();
  const auto [x1, y1] = ramp.back();
  const double slope = (y1 - y0) / (x1 - x0);
  const double intercept = y0 - slope * x0;
  if (!(slope > 0) || !(intercept < 0)) return false;
  const double width = -1.0 / intercept;  // (high - low) with low = 1
  s->rope_low_freq_factor = 1.0;
  s->rope_high_freq_factor = std::round((1.0 + width) * 1000.0) / 1000.0;
  s->rope_original_context = std::llround(slope * (s->rope_high_freq_factor - 1.0));
  return s->rope_original_context > 0 && s->rope_high_freq_factor > 1.0;
}

}  // namespace

absl::Status RopeScalingFromFactors(const std::vector<float>& factors, const std::string& file,
                                    ArchitectureSpec* spec) {
  const auto [lowest, highest] = std::minmax_element(factors.begin(), factors.end());
  ArchitectureSpec s = *spec;
  if (*lowest > 0 && s.rope_scaling == RopeScaling::kNone) {
    if (*highest == 1.0f && *lowest == 1.0f) return absl::OkStatus();
    s.rope_factor = *highest;
    s.rope_scaling = RopeScaling::kLinear;
    if (*lowest == *highest) {
      *spec = s;
      return absl::OkStatus();
    }
    s.rope_scaling = RopeScaling::kLlama3;
    s.rope_low_freq_factor = 1.0;
    s.rope_high_freq_factor = 4.0;
    s.rope_original_context = 8192;
    if (!Explains(s, factors)) FitRamp(factors, &s);
    if (Explains(s, factors)) {
      *spec = s;
      return absl::OkStatus();
    }
  }
  return absl::UnimplementedError(absl::StrCat(
      file,
      ": tensor 'rope_freqs.weight' describes a scaling of rotary positions that is not "
      "supported, supported are: none, linear, llama3"));
}

absl::StatusOr<ArchitectureSpec> LlamaSpecFromGguf(const TensorSource& source,
                                                   const std::string& file) {
  const GgufMetadata meta(source.metadata(), file);
  SA_ASSIGN_OR_RETURN(const int64_t experts, meta.Int("llama.expert_count", 0));
  if (experts > 0) {
    return absl::UnimplementedError(absl::StrCat(file, ": metadata 'llama.expert_count' is ",
                                                 experts,
                                                 ": mixtures of experts are not supported"));
  }
  ArchitectureSpec s;
  s.family = "llama";
  SA_ASSIGN_OR_RETURN(s.vocab, VocabSize(source, meta));
  SA_ASSIGN_OR_RETURN(s.hidden, meta.Int("llama.embedding_length", std::nullopt));
  SA_ASSIGN_OR_RETURN(s.intermediate, meta.Int("llama.feed_forward_length", std::nullopt));
  SA_ASSIGN_OR_RETURN(s.blocks, meta.Int("llama.block_count", std::nullopt));
  SA_ASSIGN_OR_RETURN(s.heads, meta.Int("llama.attention.head_count", std::nullopt));
  if (s.heads < 1) return meta.Fault("llama.attention.head_count", "at least 1");
  SA_ASSIGN_OR_RETURN(s.kv_heads, meta.Int("llama.attention.head_count_kv", s.heads));
  if (s.kv_heads < 1) return meta.Fault("llama.attention.head_count_kv", "at least 1");
  SA_ASSIGN_OR_RETURN(s.head_dim, meta.Int("llama.attention.key_length", s.hidden / s.heads));
  SA_ASSIGN_OR_RETURN(const int64_t rotated, meta.Int("llama.rope.dimension_count", s.head_dim));
  SA_ASSIGN_OR_RETURN(const int64_t value_dim,
                      meta.Int("llama.attention.value_length", s.head_dim));
  if (rotated != s.head_dim || value_dim != s.head_dim) {
    return absl::UnimplementedError(absl::StrCat(
        file, ": heads have ", s.head_dim, " key elements, ", value_dim, " value elements and ",
        rotated, " rotated ones: only equal numbers are supported"));
  }
  SA_ASSIGN_OR_RETURN(s.context, meta.Int("llama.context_length", std::nullopt));
  SA_ASSIGN_OR_RETURN(s.norm_eps, meta.Real("llama.attention.layer_norm_rms_epsilon", 1e-5));
  SA_ASSIGN_OR_RETURN(s.rope_theta, meta.Real("llama.rope.freq_base", 10000.0));
  s.tied_embeddings = !Has(source, "output.weight");
  s.qkv_bias = Has(source, "blk.0.attn_q.bias");
  s.o_bias = Has(source, "blk.0.attn_output.bias");
  s.mlp_bias = Has(source, "blk.0.ffn_gate.bias");
  SA_RETURN_IF_ERROR(ReadTokens(meta, &s));
  if (s.head_dim < 2 || s.head_dim > 1 << 16) {
    return meta.Fault("llama.attention.key_length", "a head width from 2 to 65536");
  }
  SA_RETURN_IF_ERROR(ReadRopeScaling(source, meta, &s));
  return s;
}

}  // namespace shiftadd
