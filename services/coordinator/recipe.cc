#include "services/coordinator/recipe.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/base/digest.h"

namespace shiftadd::coordinator {
namespace {

constexpr uint32_t kMaxWidth = 8;
constexpr size_t kMaxName = 200;

class Faults {
 public:
  void Add(absl::string_view field, absl::string_view description) {
    list_.push_back({std::string(field), std::string(description)});
  }
  template <typename T>
  void Range(absl::string_view field, T found, T least, T most) {
    if (found >= least && found <= most) return;
    Add(field, absl::StrCat("found ", found, ", expected ", least, " to ", most));
  }
  std::vector<FieldFault> Take() { return std::move(list_); }

 private:
  std::vector<FieldFault> list_;
};

// "METHOD_SHIFTADD" -> "shiftadd".
template <typename Name>
std::string Short(const Name& name, absl::string_view prefix) {
  std::string s(name);
  if (absl::StartsWith(s, prefix)) s.erase(0, prefix.size());
  for (char& c : s) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return s.empty() ? "an unknown value" : s;
}
std::string Name(v1::Method v) { return Short(v1::Method_Name(v), "METHOD_"); }
std::string Name(v1::ScaleKind v) { return Short(v1::ScaleKind_Name(v), "SCALE_KIND_"); }
std::string Name(v1::Rotation v) { return Short(v1::Rotation_Name(v), "ROTATION_"); }
std::string Name(v1::Hessian v) { return Short(v1::Hessian_Name(v), "HESSIAN_"); }
std::string Name(v1::ColumnOrder v) { return Short(v1::ColumnOrder_Name(v), "COLUMN_ORDER_"); }
std::string Name(v1::HeadEncoding v) { return Short(v1::HeadEncoding_Name(v), "HEAD_ENCODING_"); }

// An unset field (0) becomes `effective`; anything else than that is a fault.
template <typename E>
E Fixed(E found, E effective, absl::string_view field, v1::Method method, Faults* faults) {
  if (found != 0 && found != effective) {
    faults->Add(field, absl::StrCat("found ", Name(found), ", expected it unset: method ",
                                    Name(method), " does not use it"));
  }
  return effective;
}

void Unused(bool set, absl::string_view field, v1::Method method, Faults* faults) {
  if (!set) return;
  faults->Add(field, absl::StrCat("found a value, expected it unset: method ", Name(method),
                                  " does not use it"));
}

void ResolveDampingAndRounds(v1::Recipe* r, uint32_t default_rounds, Faults* faults) {
  if (!r->has_damping()) r->set_damping(0.01);
  if (!r->has_rounds()) r->set_rounds(default_rounds);
  // The negated form also catches a NaN.
  if (!(r->damping() >= 1e-6 && r->damping() <= 1)) {
    faults->Add("recipe.damping", absl::StrCat("found ", r->damping(), ", expected 1e-6 to 1"));
  }
  faults->Range<uint32_t>("recipe.rounds", r->rounds(), 1, 200);
}

void ResolveShiftAdd(v1::Recipe* r, Faults* faults) {
  if (r->scales() == v1::SCALE_KIND_UNSPECIFIED) r->set_scales(v1::SCALE_KIND_SHIFT);
  if (r->scales() == v1::SCALE_KIND_FREE) {
    faults->Add("recipe.scales", "found free, which is not yet available; expected shift");
  } else if (r->scales() != v1::SCALE_KIND_SHIFT) {
    faults->Add("recipe.scales", absl::StrCat("found ", r->scales(), ", expected shift"));
  }
  if (r->rotation() == v1::ROTATION_UNSPECIFIED) r->set_rotation(v1::ROTATION_WHT128);
  if (!v1::Rotation_IsValid(r->rotation())) {
    faults->Add("recipe.rotation",
                absl::StrCat("found ", r->rotation(), ", expected wht128 or none"));
  }
  if (r->hessian() == v1::HESSIAN_UNSPECIFIED) r->set_hessian(v1::HESSIAN_RMS);
  if (r->hessian() == v1::HESSIAN_GUIDED) {
    faults->Add("recipe.hessian",
                "found guided, which is not yet available; expected rms or plain");
  } else if (!v1::Hessian_IsValid(r->hessian())) {
    faults->Add("recipe.hessian", absl::StrCat("found ", r->hessian(), ", expected rms or plain"));
  }
  if (r->order() == v1::COLUMN_ORDER_UNSPECIFIED) {
    r->set_order(r->hessian() == v1::HESSIAN_PLAIN ? v1::COLUMN_ORDER_GAR
                                                   : v1::COLUMN_ORDER_NATURAL);
  }
  if (!v1::ColumnOrder_IsValid(r->order())) {
    faults->Add("recipe.order", absl::StrCat("found ", r->order(), ", expected natural or gar"));
  }
  ResolveDampingAndRounds(r, 15, faults);
  if (!r->has_inner_rounds()) r->set_inner_rounds(4);
  faults->Range<uint32_t>("recipe.inner_rounds", r->inner_rounds(), 1, 32);
}

void ResolveLat(v1::Recipe* r, Faults* faults) {
  const v1::Method m = r->method();
  Unused(r->scales() != 0, "recipe.scales", m, faults);
  r->set_rotation(Fixed(r->rotation(), v1::ROTATION_NONE, "recipe.rotation", m, faults));
  r->set_hessian(Fixed(r->hessian(), v1::HESSIAN_PLAIN, "recipe.hessian", m, faults));
  Unused(r->order() != 0, "recipe.order", m, faults);
  ResolveDampingAndRounds(r, 50, faults);
  Unused(r->has_inner_rounds(), "recipe.inner_rounds", m, faults);
}

void ResolveRtn(v1::Recipe* r, Faults* faults) {
  const v1::Method m = r->method();
  Unused(r->scales() != 0 && r->scales() != v1::SCALE_KIND_SHIFT, "recipe.scales", m, faults);
  r->set_scales(v1::SCALE_KIND_SHIFT);
  r->set_rotation(Fixed(r->rotation(), v1::ROTATION_NONE, "recipe.rotation", m, faults));
  // Nothing is weighted; the plain Hessian is what the reported output error is measured with.
  r->set_hessian(Fixed(r->hessian(), v1::HESSIAN_PLAIN, "recipe.hessian", m, faults));
  r->set_order(Fixed(r->order(), v1::COLUMN_ORDER_NATURAL, "recipe.order", m, faults));
  Unused(r->has_damping(), "recipe.damping", m, faults);
  Unused(r->has_rounds(), "recipe.rounds", m, faults);
  Unused(r->has_inner_rounds(), "recipe.inner_rounds", m, faults);
}

void ResolveGroupAndHead(v1::Recipe* r, Faults* faults) {
  const bool lat = r->method() == v1::METHOD_LAT;
  if (r->group_size() == 0) r->set_group_size(128);
  const uint32_t g = r->group_size();
  if (lat ? g != 128 : (g != 32 && g != 64 && g != 128)) {
    faults->Add("recipe.group_size", absl::StrCat("found ", g, ", expected ",
                                                  lat ? "128 with method lat" : "32, 64 or 128"));
  }
  if (r->head() == v1::HEAD_ENCODING_UNSPECIFIED) {
    r->set_head(lat ? v1::HEAD_ENCODING_RAW : v1::HEAD_ENCODING_INT8);
  }
  if (!v1::HeadEncoding_IsValid(r->head())) {
    faults->Add("recipe.head", absl::StrCat("found ", r->head(), ", expected int8 or raw"));
  }
}

void ResolveCandidates(v1::Recipe* r, Faults* faults) {
  if (r->candidate_bits().empty()) {
    for (uint32_t q : {2u, 3u, 4u}) r->add_candidate_bits(q);
  }
  const auto& bits = r->candidate_bits();
  bool good = true;
  for (int i = 0; i < bits.size(); ++i) {
    good = good && bits[i] >= 1 && bits[i] <= kMaxWidth && (i == 0 || bits[i] > bits[i - 1]);
  }
  if (!good) {
    faults->Add("recipe.candidate_bits",
                absl::StrCat("found [", absl::StrJoin(bits, ", "),
                             "], expected distinct widths of 1 to 8 in ascending order"));
  }
}

void CheckOverrides(const v1::Recipe& r, Faults* faults) {
  for (int i = 0; i < r.overrides_size(); ++i) {
    const v1::RecipeOverride& o = r.overrides(i);
    const std::string field = absl::StrCat("recipe.overrides[", i, "]");
    if (o.glob().empty()) {
      faults->Add(field + ".glob",
                  "found nothing, expected a layer's name or a pattern with * or ?");
    }
    switch (o.action_case()) {
      case v1::RecipeOverride::kBits:
        faults->Range<uint32_t>(field + ".bits", o.bits(), 1, kMaxWidth);
        break;
      case v1::RecipeOverride::kSkip:
        if (!o.skip()) faults->Add(field + ".skip", "found false, expected true or bits");
        break;
      case v1::RecipeOverride::ACTION_NOT_SET:
        faults->Add(field, "found neither bits nor skip, expected one of them");
    }
  }
}

void ResolveRecipe(v1::Recipe* r, Faults* faults) {
  if (r->method() == v1::METHOD_UNSPECIFIED) r->set_method(v1::METHOD_SHIFTADD);
  switch (r->method()) {
    case v1::METHOD_SHIFTADD:
      ResolveShiftAdd(r, faults);
      break;
    case v1::METHOD_LAT:
      ResolveLat(r, faults);
      break;
    case v1::METHOD_RTN:
      ResolveRtn(r, faults);
      break;
    default:
      faults->Add("recipe.method",
                  absl::StrCat("found ", r->method(), ", expected shiftadd, lat or rtn"));
  }
  ResolveGroupAndHead(r, faults);
  ResolveCandidates(r, faults);
  CheckOverrides(*r, faults);
}

void CheckBudget(const v1::JobSpec& spec, Faults* faults) {
  const v1::Budget& b = spec.budget();
  const auto& bits = spec.recipe().candidate_bits();
  switch (b.limit_case()) {
    case v1::Budget::kPlanes: {
      const auto least = static_cast<double>(*std::min_element(bits.begin(), bits.end()));
      const auto most = static_cast<double>(*std::max_element(bits.begin(), bits.end()));
      if (!(b.planes() >= least && b.planes() <= most)) {
        faults->Add("budget.planes",
                    absl::StrCat("found ", b.planes(), ", expected ", least, " to ", most,
                                 ", the range of recipe.candidate_bits"));
      }
      break;
    }
    case v1::Budget::kStoredBits:
      if (!(b.stored_bits() > 0 && b.stored_bits() <= 32)) {
        faults->Add("budget.stored_bits", absl::StrCat("found ", b.stored_bits(),
                                                       ", expected more than 0 and at most 32"));
      }
      break;
    case v1::Budget::kBytes:
      if (b.bytes() == 0 || b.bytes() > (uint64_t{1} << 56)) {
        faults->Add("budget.bytes",
                    absl::StrCat("found ", b.bytes(), ", expected a size of at least 1 byte"));
      }
      break;
    case v1::Budget::LIMIT_NOT_SET:
      faults->Add("budget", "found none, expected exactly one of planes, stored_bits, bytes");
  }
}

void CheckDigest(const std::string& digest, absl::string_view field, Faults* faults) {
  if (!digest.empty() && !ValidateDigest(digest).ok()) {
    faults->Add(field, "expected the digest of an uploaded text, sha256: and 64 hex digits");
  }
}

void ResolveWindows(v1::JobSpec* spec, Faults* faults) {
  v1::Calibration* c = spec->mutable_calibration();
  if (c->sequences() == 0) c->set_sequences(32);
  if (c->length() == 0) c->set_length(512);
  faults->Range<uint32_t>("calibration.sequences", c->sequences(), 1, 4096);
  faults->Range<uint32_t>("calibration.length", c->length(), 8, 32768);
  CheckDigest(c->text_digest(), "calibration.text_digest", faults);
  v1::Evaluation* e = spec->mutable_evaluation();
  if (e->sequences() == 0) e->set_sequences(8);
  if (e->length() == 0) e->set_length(c->length());
  faults->Range<uint32_t>("evaluation.sequences", e->sequences(), 1, 4096);
  faults->Range<uint32_t>("evaluation.length", e->length(), 8, 32768);
  CheckDigest(e->text_digest(), "evaluation.text_digest", faults);
}

bool IsName(absl::string_view name) {
  auto plain = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); };
  bool after_plain = false;
  for (char c : name) {
    const bool separator = c == '.' || c == '_' || c == '/' || c == '-';
    if (!plain(c) && !(separator && after_plain)) return false;
    after_plain = plain(c);
  }
  return after_plain && name.size() <= kMaxName;
}

bool IsTag(absl::string_view tag) {
  if (tag.empty() || tag.size() > 128 || tag[0] == '.' || tag[0] == '-') return false;
  return std::all_of(tag.begin(), tag.end(), [](unsigned char c) {
    return c < 0x80 && (std::isalnum(c) || c == '_' || c == '.' || c == '-');
  });
}

void ResolveOutput(v1::JobSpec* spec, Faults* faults) {
  std::string* output = spec->mutable_output();
  const size_t colon = output->find(':');
  const std::string name = output->substr(0, colon);
  const std::string tag = colon == std::string::npos ? "latest" : output->substr(colon + 1);
  if (!IsName(name)) {
    faults->Add("output",
                absl::StrCat("found name \"", name.substr(0, 100),
                             "\", expected lower-case letters and digits in parts joined by one of "
                             ". _ - /"));
  }
  if (!IsTag(tag)) {
    faults->Add("output", absl::StrCat("found tag \"", tag.substr(0, 100),
                                       "\", expected up to 128 letters, digits, _ . - that do not "
                                       "begin with . or -"));
  }
  *output = absl::StrCat(name, ":", tag);
}

void CheckSource(const std::string& source, Faults* faults) {
  const std::string field = "source";
  if (source.empty()) {
    faults->Add(field, "found nothing, expected file:///directory or file:///model.gguf");
  } else if (absl::StartsWith(source, "hf:") || absl::StartsWith(source, "oci:")) {
    faults->Add(field, absl::StrCat("found ", source.substr(0, source.find(':') + 1),
                                    ", which is not yet available; download the model and give "
                                    "file:///directory or file:///model.gguf"));
  } else if (!absl::StartsWith(source, "file:///")) {
    faults->Add(field, absl::StrCat("found \"", source.substr(0, 200),
                                    "\", expected file:///directory or file:///model.gguf with an "
                                    "absolute path"));
  } else if (absl::StrContains(source + "/", "/../") || source.find('\0') != std::string::npos ||
             source.size() > 4096) {
    faults->Add(field, "expected a plain absolute path without \"..\"");
  }
}

void CheckLabels(const v1::JobSpec& spec, Faults* faults) {
  if (spec.labels_size() > 64) {
    faults->Add("labels", absl::StrCat("found ", spec.labels_size(), ", expected 64 at most"));
  }
  for (const auto& [key, value] : spec.labels()) {
    if (key.empty() || key.size() > 128 || value.size() > 1024) {
      faults->Add("labels", "expected keys of 1 to 128 bytes and values of at most 1024");
      return;
    }
  }
}

}  // namespace

std::vector<FieldFault> ResolveSpec(v1::JobSpec* spec) {
  Faults faults;
  CheckSource(spec->source(), &faults);
  ResolveRecipe(spec->mutable_recipe(), &faults);
  CheckBudget(*spec, &faults);
  ResolveWindows(spec, &faults);
  ResolveOutput(spec, &faults);
  CheckLabels(*spec, &faults);
  faults.Range<int32_t>("priority", spec->priority(), -100, 100);
  return faults.Take();
}

std::string FaultMessage(const std::vector<FieldFault>& faults) {
  return absl::StrJoin(faults, "; ", [](std::string* out, const FieldFault& f) {
    absl::StrAppend(out, f.field, ": ", f.description);
  });
}

bool GlobMatches(absl::string_view glob, absl::string_view name) {
  // Greedy with one point to come back to: linear in practice, quadratic at worst.
  size_t g = 0, n = 0, star = absl::string_view::npos, star_name = 0;
  while (n < name.size()) {
    if (g < glob.size() && glob[g] == '*') {
      star = g++;
      star_name = n;
    } else if (g < glob.size() && (glob[g] == '?' || glob[g] == name[n])) {
      ++g;
      ++n;
    } else if (star != absl::string_view::npos) {
      g = star + 1;
      n = ++star_name;
    } else {
      return false;
    }
  }
  while (g < glob.size() && glob[g] == '*') ++g;
  return g == glob.size();
}

LayerRule RuleFor(const v1::Recipe& recipe, absl::string_view layer) {
  LayerRule rule;
  for (const v1::RecipeOverride& o : recipe.overrides()) {
    if (!GlobMatches(o.glob(), layer)) continue;
    rule.skip = o.skip();
    rule.bits = o.bits();
  }
  return rule;
}

std::vector<FieldFault> ExpandOverrides(v1::Recipe* recipe, const v1::Plan& plan) {
  Faults faults;
  for (int i = 0; i < recipe->overrides_size(); ++i) {
    const std::string& glob = recipe->overrides(i).glob();
    const bool matches =
        std::any_of(plan.layers().begin(), plan.layers().end(),
                    [&](const v1::LayerPlan& l) { return GlobMatches(glob, l.name()); });
    if (matches) continue;
    faults.Add(absl::StrCat("recipe.overrides[", i, "].glob"),
               absl::StrCat("found \"", glob, "\", which matches no layer; expected names like ",
                            plan.layers_size() > 0 ? plan.layers(0).name() : "blocks.0.attn.q"));
  }
  v1::Recipe expanded = *recipe;
  expanded.clear_overrides();
  for (const v1::LayerPlan& layer : plan.layers()) {
    const LayerRule rule = RuleFor(*recipe, layer.name());
    if (!rule.skip && rule.bits == 0) continue;
    v1::RecipeOverride* o = expanded.add_overrides();
    o->set_glob(layer.name());
    if (rule.skip) {
      o->set_skip(true);
    } else {
      o->set_bits(rule.bits);
    }
  }
  *recipe = expanded;
  return faults.Take();
}

nlohmann::json RecipeJson(const v1::Recipe& r) {
  const bool shiftadd = r.method() == v1::METHOD_SHIFTADD;
  nlohmann::json json = {{"method", Name(r.method())},
                         {"group_size", r.group_size()},
                         {"head", Name(r.head())},
                         {"seed", r.seed()},
                         {"rotation", Name(r.rotation())}};
  json["candidate_bits"] = nlohmann::json::array();
  for (uint32_t q : r.candidate_bits()) json["candidate_bits"].push_back(q);
  if (r.method() != v1::METHOD_RTN) {
    json["hessian"] = Name(r.hessian());
    json["damping"] = r.damping();
    json["rounds"] = r.rounds();
  }
  if (r.method() != v1::METHOD_LAT) json["scales"] = Name(r.scales());
  if (shiftadd) {
    json["order"] = Name(r.order());
    json["inner_rounds"] = r.inner_rounds();
  }
  json["overrides"] = nlohmann::json::array();
  for (const v1::RecipeOverride& o : r.overrides()) {
    nlohmann::json item = {{"glob", o.glob()}};
    if (o.skip()) {
      item["skip"] = true;
    } else {
      item["bits"] = o.bits();
    }
    json["overrides"].push_back(item);
  }
  return json;
}

nlohmann::json BudgetJson(const v1::Budget& b) {
  switch (b.limit_case()) {
    case v1::Budget::kPlanes:
      return {{"planes", b.planes()}};
    case v1::Budget::kStoredBits:
      return {{"stored_bits", b.stored_bits()}};
    default:
      return {{"bytes", b.bytes()}};
  }
}

}  // namespace shiftadd::coordinator
