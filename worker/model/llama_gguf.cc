// How a LLaMA model is described in a GGUF file.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/model/decoder_family.h"
#include "worker/model/gguf_metadata.h"
#include "worker/model/hugging_face_config.h"
#include "worker/model/llama_family.h"

namespace shiftadd {
namespace {

constexpr double kPi = 3.14159265358979323846;

// True if `candidate` divides the frequencies as `factors` say, to float32's precision and a
// little.
bool Explains(const ArchitectureSpec& candidate, const std::vector<float>& factors) {
  ArchitectureSpec plain = candidate;
  plain.rope_scaling = RopeScaling::kNone;
  const std::vector<double> scaled = RopeInverseFrequencies(candidate);
  const std::vector<double> base = RopeInverseFrequencies(plain);
  for (size_t i = 0; i < factors.size(); ++i) {
    if (!(std::abs(base[i] / scaled[i] - factors[i]) <= 1e-4 * factors[i])) return false;
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

// True if the file has our key, and the divisors are those of the scaling that it names.
bool ReadOurRope(const GgufMetadata& meta, const std::vector<float>& factors, ArchitectureSpec* s) {
  const nlohmann::json* text = meta.Find(kGgufRopeKey);
  if (text == nullptr || !text->is_string()) return false;
  const auto rope = nlohmann::json::parse(text->get<std::string>(), nullptr, false);
  ArchitectureSpec read;
  if (!rope.is_object() || !ReadRope(HuggingFaceConfig(rope, kGgufRopeKey), 0, &read).ok() ||
      read.rope_scaling != RopeScaling::kLlama3 || !(read.rope_factor > 0) ||
      !(read.rope_high_freq_factor > read.rope_low_freq_factor) ||
      read.rope_original_context <= 0) {
    return false;
  }
  ArchitectureSpec named = *s;
  named.rope_scaling = read.rope_scaling;
  named.rope_factor = read.rope_factor;
  named.rope_low_freq_factor = read.rope_low_freq_factor;
  named.rope_high_freq_factor = read.rope_high_freq_factor;
  named.rope_original_context = read.rope_original_context;
  if (!Explains(named, factors)) return false;
  *s = named;
  return true;
}

// LLaMA-3's scaling is a tensor of divisors.
absl::Status ReadRopeFactors(const TensorSource& source, const GgufMetadata& meta,
                             ArchitectureSpec* s) {
  if (!HasTensor(source, "rope_freqs.weight")) return absl::OkStatus();
  const TensorInfo& info = source.tensors().at("rope_freqs.weight");
  if (info.shape != std::vector<int64_t>{s->head_dim / 2}) {
    return absl::InvalidArgumentError(absl::StrCat(meta.file(), ": tensor 'rope_freqs.weight' has ",
                                                   info.elements(), " elements, expected [",
                                                   s->head_dim / 2, "]"));
  }
  std::vector<float> factors(static_cast<size_t>(s->head_dim / 2));
  SA_RETURN_IF_ERROR(source.ReadRows("rope_freqs.weight", 0, s->head_dim / 2, factors.data()));
  if (ReadOurRope(meta, factors, s)) return absl::OkStatus();
  return RopeScalingFromFactors(factors, meta.file(), s);
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
  SA_ASSIGN_OR_RETURN(ArchitectureSpec s, DecoderFromGguf(source, meta, "llama",
                                                          {.family = "llama", .norm_eps = 1e-5}));
  SA_ASSIGN_OR_RETURN(const int64_t window, meta.Int("llama.attention.sliding_window", 0));
  if (window > 0 && window < s.context) {
    return absl::UnimplementedError(absl::StrCat(file,
                                                 ": metadata 'llama.attention.sliding_window' is ",
                                                 window, ": not supported in this architecture"));
  }
  SA_RETURN_IF_ERROR(ReadRopeFactors(source, meta, &s));
  SA_RETURN_IF_ERROR(meta.RefuseUnread("llama."));
  return s;
}

}  // namespace shiftadd
