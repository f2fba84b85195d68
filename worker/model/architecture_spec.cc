#include "worker/model/architecture_spec.h"

#include <cmath>
#include <set>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"

namespace shiftadd {
namespace {

constexpr double kPi = 3.14159265358979323846;
constexpr int64_t kMaxDimension = int64_t{1} << 24;
constexpr int64_t kMaxContext = int64_t{1} << 30;

const char* RopeScalingName(RopeScaling scaling) {
  switch (scaling) {
    case RopeScaling::kNone:
      return "none";
    case RopeScaling::kLinear:
      return "linear";
    case RopeScaling::kLlama3:
      return "llama3";
  }
  return "none";
}

// Takes fields out of an object and keeps the first fault.
class Fields {
 public:
  explicit Fields(const nlohmann::json& json) : json_(json) {}

  void Int(const char* name, int64_t min, int64_t max, int64_t* out) {
    const nlohmann::json* value = Find(name);
    if (value == nullptr) return;
    if (!ReadInt(*value, min, max, out)) {
      Fail(name, absl::StrCat("an integer from ", min, " to ", max), *value);
    }
  }
  void Ints(const char* name, int64_t min, int64_t max, std::vector<int64_t>* out) {
    const nlohmann::json* value = Find(name);
    if (value == nullptr) return;
    bool good = value->is_array() && value->size() <= 256;
    if (good) {
      for (const nlohmann::json& item : *value) {
        int64_t number = 0;
        good = good && ReadInt(item, min, max, &number);
        out->push_back(number);
      }
    }
    if (!good) Fail(name, absl::StrCat("a list of integers from ", min, " to ", max), *value);
  }
  // min < value <= max
  void Real(const char* name, double min, double max, double* out) {
    const nlohmann::json* value = Find(name);
    if (value == nullptr) return;
    const double number = value->is_number() ? value->get<double>() : std::nan("");
    if (!(number > min && number <= max)) {
      return Fail(name, absl::StrCat("a number above ", min, " and up to ", max), *value);
    }
    *out = number;
  }
  void Bool(const char* name, bool* out) {
    const nlohmann::json* value = Find(name);
    if (value == nullptr) return;
    if (!value->is_boolean()) return Fail(name, "true or false", *value);
    *out = value->get<bool>();
  }
  // One of `names`; returns its index.
  size_t Choice(const char* name, const std::vector<std::string>& names) {
    const nlohmann::json* value = Find(name);
    if (value == nullptr) return 0;
    std::string expected;
    for (size_t i = 0; i < names.size(); ++i) {
      if (*value == names[i]) return i;
      absl::StrAppend(&expected, i ? " or " : "", "\"", names[i], "\"");
    }
    Fail(name, expected, *value);
    return 0;
  }

  absl::Status Finish() const {
    if (!status_.ok()) return status_;
    for (const auto& [key, value] : json_.items()) {
      if (known_.count(key) == 0) {
        return absl::InvalidArgumentError(absl::StrCat("architecture: unknown field '", key, "'"));
      }
    }
    return absl::OkStatus();
  }

 private:
  static bool ReadInt(const nlohmann::json& value, int64_t min, int64_t max, int64_t* out) {
    if (!value.is_number_integer()) return false;
    if (value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
      return false;
    }
    *out = value.get<int64_t>();
    return *out >= min && *out <= max;
  }
  const nlohmann::json* Find(const char* name) {
    known_.insert(name);
    const auto it = json_.find(name);
    if (it != json_.end()) return &*it;
    if (status_.ok()) {
      status_ =
          absl::InvalidArgumentError(absl::StrCat("architecture: field '", name, "' is missing"));
    }
    return nullptr;
  }
  void Fail(const char* name, absl::string_view expected, const nlohmann::json& found) {
    if (!status_.ok()) return;
    std::string text = found.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    if (text.size() > 80) text = text.substr(0, 80) + "...";
    status_ = absl::InvalidArgumentError(
        absl::StrCat("architecture: field '", name, "' is ", text, ", expected ", expected));
  }

  const nlohmann::json& json_;
  std::set<std::string> known_;
  absl::Status status_;
};

absl::Status CheckRelations(const ArchitectureSpec& s) {
  const auto fault = [](absl::string_view text) {
    return absl::InvalidArgumentError(absl::StrCat("architecture: ", text));
  };
  if (s.heads % s.kv_heads != 0) {
    return fault(absl::StrCat("heads ", s.heads, " is not a multiple of kv_heads ", s.kv_heads));
  }
  if (s.head_dim % 2 != 0) {
    return fault(absl::StrCat("head_dim ", s.head_dim, " is odd, rotary positions need it even"));
  }
  if (s.q_rows() > kMaxDimension) {
    return fault(
        absl::StrCat("heads * head_dim is ", s.q_rows(), ", expected at most ", kMaxDimension));
  }
  if (s.bos_token >= s.vocab) {
    return fault(absl::StrCat("bos_token ", s.bos_token, " is not below vocab ", s.vocab));
  }
  for (int64_t eos : s.eos_tokens) {
    if (eos >= s.vocab) {
      return fault(absl::StrCat("eos_tokens: ", eos, " is not below vocab ", s.vocab));
    }
  }
  if (s.rope_scaling == RopeScaling::kLlama3 &&
      !(s.rope_high_freq_factor > s.rope_low_freq_factor && s.rope_original_context > 0)) {
    return fault(
        "rope_scaling llama3 needs rope_high_freq_factor above rope_low_freq_factor and a "
        "positive rope_original_context");
  }
  return absl::OkStatus();
}

}  // namespace

nlohmann::json ToJson(const ArchitectureSpec& s) {
  return {{"family", s.family},
          {"vocab", s.vocab},
          {"hidden", s.hidden},
          {"intermediate", s.intermediate},
          {"blocks", s.blocks},
          {"heads", s.heads},
          {"kv_heads", s.kv_heads},
          {"head_dim", s.head_dim},
          {"context", s.context},
          {"norm", "rms"},
          {"norm_eps", s.norm_eps},
          {"activation", "silu"},
          {"gated", s.gated},
          {"position", "rope"},
          {"rope_theta", s.rope_theta},
          {"rope_scaling", RopeScalingName(s.rope_scaling)},
          {"rope_factor", s.rope_factor},
          {"rope_low_freq_factor", s.rope_low_freq_factor},
          {"rope_high_freq_factor", s.rope_high_freq_factor},
          {"rope_original_context", s.rope_original_context},
          {"tied_embeddings", s.tied_embeddings},
          {"qkv_bias", s.qkv_bias},
          {"o_bias", s.o_bias},
          {"mlp_bias", s.mlp_bias},
          {"bos_token", s.bos_token},
          {"eos_tokens", s.eos_tokens},
          {"add_bos", s.add_bos}};
}

absl::StatusOr<ArchitectureSpec> ArchitectureSpecFromJson(const nlohmann::json& json) {
  if (!json.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat("architecture: is JSON of type ", json.type_name(), ", expected an object"));
  }
  ArchitectureSpec s;
  Fields f(json);
  const std::vector<std::string> families = {"llama"};
  s.family = families[f.Choice("family", families)];
  f.Int("vocab", 1, kMaxDimension, &s.vocab);
  f.Int("hidden", 1, kMaxDimension, &s.hidden);
  f.Int("intermediate", 1, kMaxDimension, &s.intermediate);
  f.Int("blocks", 1, 1024, &s.blocks);
  f.Int("heads", 1, 1 << 16, &s.heads);
  f.Int("kv_heads", 1, 1 << 16, &s.kv_heads);
  f.Int("head_dim", 2, 1 << 16, &s.head_dim);
  f.Int("context", 1, kMaxContext, &s.context);
  f.Choice("norm", {"rms"});
  f.Real("norm_eps", 0, 1, &s.norm_eps);
  f.Choice("activation", {"silu"});
  f.Bool("gated", &s.gated);
  f.Choice("position", {"rope"});
  f.Real("rope_theta", 0, 1e15, &s.rope_theta);
  s.rope_scaling = static_cast<RopeScaling>(f.Choice("rope_scaling", {"none", "linear", "llama3"}));
  f.Real("rope_factor", 0, 1e6, &s.rope_factor);
  f.Real("rope_low_freq_factor", 0, 1e6, &s.rope_low_freq_factor);
  f.Real("rope_high_freq_factor", 0, 1e6, &s.rope_high_freq_factor);
  f.Int("rope_original_context", 0, kMaxContext, &s.rope_original_context);
  f.Bool("tied_embeddings", &s.tied_embeddings);
  f.Bool("qkv_bias", &s.qkv_bias);
  f.Bool("o_bias", &s.o_bias);
  f.Bool("mlp_bias", &s.mlp_bias);
  f.Int("bos_token", -1, kMaxDimension, &s.bos_token);
  f.Ints("eos_tokens", 0, kMaxDimension, &s.eos_tokens);
  f.Bool("add_bos", &s.add_bos);
  SA_RETURN_IF_ERROR(f.Finish());
  if (!s.gated) {
    return absl::InvalidArgumentError("architecture: field 'gated' is false, expected true");
  }
  SA_RETURN_IF_ERROR(CheckRelations(s));
  return s;
}

std::vector<double> RopeInverseFrequencies(const ArchitectureSpec& s) {
  std::vector<double> frequencies(static_cast<size_t>(s.head_dim / 2));
  for (size_t i = 0; i < frequencies.size(); ++i) {
    double f = std::pow(s.rope_theta, -2.0 * static_cast<double>(i) / s.head_dim);
    if (s.rope_scaling == RopeScaling::kLinear) f /= s.rope_factor;
    if (s.rope_scaling == RopeScaling::kLlama3) {
      // Turns over the original context: many stay as they are, few are slowed down, between them a
      // ramp.
      const double turns = static_cast<double>(s.rope_original_context) * f / (2.0 * kPi);
      if (turns < s.rope_low_freq_factor) {
        f /= s.rope_factor;
      } else if (turns <= s.rope_high_freq_factor) {
        const double keep =
            (turns - s.rope_low_freq_factor) / (s.rope_high_freq_factor - s.rope_low_freq_factor);
        f = (1.0 - keep) * f / s.rope_factor + keep * f;
      }
    }
    frequencies[i] = f;
  }
  return frequencies;
}

std::vector<LinearLayer> BlockLayers(const ArchitectureSpec& s, int64_t block) {
  const auto layer = [&](const char* part, const char* kind, int64_t rows, int64_t cols,
                         BlockInput input) {
    return LinearLayer{
        absl::StrCat("blocks.", block, ".", part, ".", kind), kind, block, rows, cols, input};
  };
  return {layer("attn", "q", s.q_rows(), s.hidden, BlockInput::kAttn),
          layer("attn", "k", s.kv_rows(), s.hidden, BlockInput::kAttn),
          layer("attn", "v", s.kv_rows(), s.hidden, BlockInput::kAttn),
          layer("attn", "o", s.hidden, s.q_rows(), BlockInput::kAttnOut),
          layer("mlp", "gate", s.intermediate, s.hidden, BlockInput::kMlp),
          layer("mlp", "up", s.intermediate, s.hidden, BlockInput::kMlp),
          layer("mlp", "down", s.hidden, s.intermediate, BlockInput::kMlpAct)};
}

}  // namespace shiftadd
