#include "worker/model/architecture_spec.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
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
    bool good = value->is_array() && value->size() <= 1024;
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
  // False, and nothing is read, if there is no such field.
  bool Given(const char* name) {
    known_.insert(name);
    return json_.contains(name);
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
  if (s.rope() && s.head_dim % 2 != 0) {
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
  if (s.position == PositionKind::kAlibi && s.kv_heads != s.heads) {
    return fault(absl::StrCat("position alibi: kv_heads is ", s.kv_heads,
                              ", expected as many as heads, ", s.heads));
  }
  for (size_t i = 0; i < s.local_blocks.size(); ++i) {
    if (s.local_blocks[i] < s.blocks && (i == 0 || s.local_blocks[i - 1] < s.local_blocks[i]))
      continue;
    return fault(absl::StrCat("local_blocks: entry ", i, " is ", s.local_blocks[i],
                              ", expected rising numbers below ", s.blocks));
  }
  if (!s.local_blocks.empty() && s.window < 1) {
    return fault("local_blocks needs a positive window");
  }
  if (s.embed_scale == 0.0) return fault("embed_scale is 0");
  if (s.rope_scaling == RopeScaling::kLlama3 &&
      !(s.rope_high_freq_factor > s.rope_low_freq_factor && s.rope_original_context > 0)) {
    return fault(
        "rope_scaling llama3 needs rope_high_freq_factor above rope_low_freq_factor and a "
        "positive rope_original_context");
  }
  return absl::OkStatus();
}

}  // namespace

namespace {

const std::vector<std::string>& FamilyNames() {
  static const auto* const names = new std::vector<std::string>{
      "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "opt", "bloom"};
  return *names;
}
const std::vector<std::string> kNorms = {"rms", "layer"};
const std::vector<std::string> kNormPlaces = {"before", "after", "around"};
const std::vector<std::string> kActivations = {"silu", "gelu_tanh", "relu"};
const std::vector<std::string> kPositions = {"rope", "learned", "alibi"};

template <typename Enum>
const std::string& NameOf(const std::vector<std::string>& names, Enum value) {
  return names[static_cast<size_t>(value)];
}

void ReadBeyondLlama(Fields* f, ArchitectureSpec* s) {
  if (f->Given("norm_place")) {
    s->norm_place = static_cast<NormPlace>(f->Choice("norm_place", kNormPlaces));
  }
  if (f->Given("has_final_norm")) f->Bool("has_final_norm", &s->has_final_norm);
  if (f->Given("embed_norm")) f->Bool("embed_norm", &s->embed_norm);
  if (f->Given("embed_scale")) f->Real("embed_scale", 0, 1e6, &s->embed_scale);
  if (f->Given("embed_width")) f->Int("embed_width", 1, kMaxDimension, &s->embed_width);
  if (f->Given("position_offset")) f->Int("position_offset", 0, 1024, &s->position_offset);
  if (f->Given("qk_norm")) f->Bool("qk_norm", &s->qk_norm);
  if (f->Given("attention_scale")) f->Real("attention_scale", 0, 1e6, &s->attention_scale);
  if (f->Given("attention_cap")) f->Real("attention_cap", 0, 1e6, &s->attention_cap);
  if (f->Given("logit_cap")) f->Real("logit_cap", 0, 1e6, &s->logit_cap);
  if (f->Given("window")) f->Int("window", 1, kMaxContext, &s->window);
  if (f->Given("local_blocks")) f->Ints("local_blocks", 0, 1023, &s->local_blocks);
  if (f->Given("rope_local_theta")) f->Real("rope_local_theta", 0, 1e15, &s->rope_local_theta);
}

}  // namespace

double ArchitectureSpec::score_scale() const {
  return attention_scale > 0 ? attention_scale : 1.0 / std::sqrt(static_cast<double>(head_dim));
}

bool ArchitectureSpec::IsLocal(int64_t block) const {
  return std::binary_search(local_blocks.begin(), local_blocks.end(), block);
}

nlohmann::json ToJson(const ArchitectureSpec& s) {
  nlohmann::json out = {{"family", s.family},
                        {"vocab", s.vocab},
                        {"hidden", s.hidden},
                        {"intermediate", s.intermediate},
                        {"blocks", s.blocks},
                        {"heads", s.heads},
                        {"kv_heads", s.kv_heads},
                        {"head_dim", s.head_dim},
                        {"context", s.context},
                        {"norm", NameOf(kNorms, s.norm)},
                        {"norm_eps", s.norm_eps},
                        {"activation", NameOf(kActivations, s.activation)},
                        {"gated", s.gated},
                        {"position", NameOf(kPositions, s.position)},
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
  const ArchitectureSpec plain;
  if (s.norm_place != plain.norm_place) out["norm_place"] = NameOf(kNormPlaces, s.norm_place);
  if (!s.has_final_norm) out["has_final_norm"] = false;
  if (s.embed_norm) out["embed_norm"] = true;
  if (s.embed_scale != plain.embed_scale) out["embed_scale"] = s.embed_scale;
  if (s.embed_width != 0) out["embed_width"] = s.embed_width;
  if (s.position_offset != 0) out["position_offset"] = s.position_offset;
  if (s.qk_norm) out["qk_norm"] = true;
  if (s.attention_scale != 0) out["attention_scale"] = s.attention_scale;
  if (s.attention_cap != 0) out["attention_cap"] = s.attention_cap;
  if (s.logit_cap != 0) out["logit_cap"] = s.logit_cap;
  if (s.window != 0) out["window"] = s.window;
  if (!s.local_blocks.empty()) out["local_blocks"] = s.local_blocks;
  if (s.rope_local_theta != 0) out["rope_local_theta"] = s.rope_local_theta;
  return out;
}

absl::StatusOr<ArchitectureSpec> ArchitectureSpecFromJson(const nlohmann::json& json) {
  if (!json.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat("architecture: is JSON of type ", json.type_name(), ", expected an object"));
  }
  ArchitectureSpec s;
  Fields f(json);
  s.family = FamilyNames()[f.Choice("family", FamilyNames())];
  f.Int("vocab", 1, kMaxDimension, &s.vocab);
  f.Int("hidden", 1, kMaxDimension, &s.hidden);
  f.Int("intermediate", 1, kMaxDimension, &s.intermediate);
  f.Int("blocks", 1, 1024, &s.blocks);
  f.Int("heads", 1, 1 << 16, &s.heads);
  f.Int("kv_heads", 1, 1 << 16, &s.kv_heads);
  f.Int("head_dim", 2, 1 << 16, &s.head_dim);
  f.Int("context", 1, kMaxContext, &s.context);
  s.norm = static_cast<NormKind>(f.Choice("norm", kNorms));
  f.Real("norm_eps", 0, 1, &s.norm_eps);
  s.activation = static_cast<Activation>(f.Choice("activation", kActivations));
  f.Bool("gated", &s.gated);
  s.position = static_cast<PositionKind>(f.Choice("position", kPositions));
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
  ReadBeyondLlama(&f, &s);
  SA_RETURN_IF_ERROR(f.Finish());
  SA_RETURN_IF_ERROR(CheckRelations(s));
  return s;
}

std::vector<double> RopeInverseFrequencies(const ArchitectureSpec& s, bool local) {
  std::vector<double> frequencies(static_cast<size_t>(s.head_dim / 2));
  const bool own = local && s.rope_local_theta > 0;
  const double theta = own ? s.rope_local_theta : s.rope_theta;
  const RopeScaling scaling = own ? RopeScaling::kNone : s.rope_scaling;
  for (size_t i = 0; i < frequencies.size(); ++i) {
    double f = std::pow(theta, -2.0 * static_cast<double>(i) / s.head_dim);
    if (scaling == RopeScaling::kLinear) f /= s.rope_factor;
    if (scaling == RopeScaling::kLlama3) {
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

std::vector<double> AlibiSlopes(int64_t heads) {
  const auto powers = [](int64_t n) {  // n a power of two
    std::vector<double> slopes;
    for (int64_t i = 1; i <= n; ++i) {
      slopes.push_back(std::exp2(-8.0 * static_cast<double>(i) / static_cast<double>(n)));
    }
    return slopes;
  };
  int64_t whole = 1;
  while (2 * whole <= heads) whole *= 2;
  std::vector<double> slopes = powers(whole);
  const std::vector<double> finer = powers(2 * whole);
  for (int64_t i = 0; static_cast<int64_t>(slopes.size()) < heads; i += 2) {
    slopes.push_back(finer[static_cast<size_t>(i)]);
  }
  return slopes;
}

std::vector<std::string> BeyondLlama(const ArchitectureSpec& s) {
  std::vector<std::string> out;
  const auto add = [&](bool asked, const char* what) {
    if (asked) out.push_back(what);
  };
  add(s.norm == NormKind::kLayer, "layer norms");
  add(s.norm_place == NormPlace::kAfter, "norms behind the residual sum");
  add(s.norm_place == NormPlace::kAround, "norms before and behind attention and MLP");
  add(!s.has_final_norm, "no final norm");
  add(s.embed_norm, "a norm of the embedding");
  add(s.embed_scale != 1.0, "a scaled embedding");
  add(s.embed_width > 0, "a projected embedding");
  add(s.activation == Activation::kGeluTanh, "GELU");
  add(s.activation == Activation::kRelu, "ReLU");
  add(!s.gated, "an MLP without a gate");
  add(s.position == PositionKind::kLearned, "learned positions");
  add(s.position == PositionKind::kAlibi, "ALiBi");
  add(s.qk_norm, "norms of queries and keys");
  add(s.attention_scale != 0, "another scale of attention scores");
  add(s.attention_cap != 0, "a soft cap of attention scores");
  add(s.logit_cap != 0, "a soft cap of logits");
  add(!s.local_blocks.empty(), "sliding windows");
  return out;
}

absl::Status RefuseBeyondLlama(const ArchitectureSpec& spec, const std::string& who) {
  const std::vector<std::string> more = BeyondLlama(spec);
  if (more.empty()) return absl::OkStatus();
  return absl::UnimplementedError(
      absl::StrCat(who, " does not run ", spec.family, " models yet: ", absl::StrJoin(more, ", ")));
}

std::vector<LinearLayer> BlockLayers(const ArchitectureSpec& s, int64_t block) {
  std::vector<LinearLayer> out;
  const auto layer = [&](const char* part, const char* kind, int64_t rows, int64_t cols,
                         BlockInput input) {
    out.push_back(
        {absl::StrCat("blocks.", block, ".", part, ".", kind), kind, block, rows, cols, input});
  };
  layer("attn", "q", s.q_rows(), s.hidden, BlockInput::kAttn);
  layer("attn", "k", s.kv_rows(), s.hidden, BlockInput::kAttn);
  layer("attn", "v", s.kv_rows(), s.hidden, BlockInput::kAttn);
  layer("attn", "o", s.hidden, s.q_rows(), BlockInput::kAttnOut);
  if (s.gated) layer("mlp", "gate", s.intermediate, s.hidden, BlockInput::kMlp);
  layer("mlp", "up", s.intermediate, s.hidden, BlockInput::kMlp);
  layer("mlp", "down", s.hidden, s.intermediate, BlockInput::kMlpAct);
  return out;
}

bool HasBias(const ArchitectureSpec& s, BlockInput input) {
  switch (input) {
    case BlockInput::kAttn:
      return s.qkv_bias;
    case BlockInput::kAttnOut:
      return s.o_bias;
    case BlockInput::kMlp:
    case BlockInput::kMlpAct:
      return s.mlp_bias;
  }
  return false;
}

std::vector<PlainTensor> PlainTensors(const ArchitectureSpec& s) {
  std::vector<PlainTensor> out;
  const auto norm = [&](const std::string& name) {
    out.push_back({name, {s.hidden}});
    if (s.norm == NormKind::kLayer) out.push_back({name + ".bias", {s.hidden}});
  };
  if (s.has_final_norm) norm("final_norm");
  if (s.embed_norm) norm("embed_norm");
  if (s.position == PositionKind::kLearned) {
    out.push_back({"positions", {s.context + s.position_offset, s.hidden}});
  }
  if (s.embed_width > 0) {
    out.push_back({"embed_proj", {s.hidden, s.embed_width}});
    out.push_back({"head_proj", {s.embed_width, s.hidden}});
  }
  for (int64_t b = 0; b < s.blocks; ++b) {
    const std::string block = absl::StrCat("blocks.", b, ".");
    norm(block + "attn_norm");
    norm(block + "mlp_norm");
    if (s.norm_place == NormPlace::kAround) {
      norm(block + "attn_post_norm");
      norm(block + "mlp_post_norm");
    }
    if (s.qk_norm) {
      out.push_back({block + "attn.q_norm", {s.head_dim}});
      out.push_back({block + "attn.k_norm", {s.head_dim}});
    }
    for (const LinearLayer& layer : BlockLayers(s, b)) {
      if (HasBias(s, layer.input)) out.push_back({layer.name + ".bias", {layer.rows}});
    }
  }
  return out;
}

}  // namespace shiftadd
