#include "services/job/recipe.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/match.h"

namespace shiftadd {
namespace {

constexpr uint32_t kMaxWidth = 8;

// "METHOD_SHIFTADD" -> "shiftadd".
template <typename Name>
std::string Short(const Name& name, int value, absl::string_view prefix) {
  std::string s(name);
  if (s.empty()) return absl::StrCat("the unknown value ", value);
  if (absl::StartsWith(s, prefix)) s.erase(0, prefix.size());
  for (char& c : s) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return s;
}
std::string Name(v1::Method v) { return Short(v1::Method_Name(v), v, "METHOD_"); }
std::string Name(v1::ScaleKind v) { return Short(v1::ScaleKind_Name(v), v, "SCALE_KIND_"); }
std::string Name(v1::Rotation v) { return Short(v1::Rotation_Name(v), v, "ROTATION_"); }
std::string Name(v1::Hessian v) { return Short(v1::Hessian_Name(v), v, "HESSIAN_"); }
std::string Name(v1::ColumnOrder v) { return Short(v1::ColumnOrder_Name(v), v, "COLUMN_ORDER_"); }
std::string Name(v1::HeadEncoding v) {
  return Short(v1::HeadEncoding_Name(v), v, "HEAD_ENCODING_");
}
std::string Name(v1::Propagate v) { return Short(v1::Propagate_Name(v), v, "PROPAGATE_"); }
std::string Name(v1::Effort v) { return Short(v1::Effort_Name(v), v, "EFFORT_"); }

// One column of the table in recipe.h. A list holds what is allowed, the default first; empty: the
// field is not used. A number of 0 or less: likewise.
struct MethodRules {
  std::vector<v1::ScaleKind> scales;
  std::vector<v1::Rotation> rotation;
  std::vector<v1::Hessian> hessian;
  std::vector<v1::ColumnOrder> order;
  std::vector<v1::Effort> effort;
  std::vector<v1::Propagate> propagate;
  std::vector<v1::HeadEncoding> head;
  bool damping = false;
  uint32_t rounds = 0;
  bool loop = false;  // offset, inner_rounds, sweeps
  int additive_terms = -1;
};

MethodRules RulesOf(v1::Method method) {
  MethodRules r;
  r.rotation = {v1::ROTATION_NONE};
  r.hessian = {v1::HESSIAN_PLAIN};
  r.propagate = {v1::PROPAGATE_FULL, v1::PROPAGATE_QUANTIZED};
  r.head = {v1::HEAD_ENCODING_INT8, v1::HEAD_ENCODING_RAW};
  r.damping = true;
  switch (method) {
    case v1::METHOD_SHIFTADD:
      r.scales = {v1::SCALE_KIND_SHIFT, v1::SCALE_KIND_FREE};
      r.rotation = {v1::ROTATION_WHT128, v1::ROTATION_NONE};
      r.hessian = {v1::HESSIAN_GUIDED, v1::HESSIAN_RMS, v1::HESSIAN_PLAIN};
      r.order = {v1::COLUMN_ORDER_NATURAL, v1::COLUMN_ORDER_GAR};
      r.effort = {v1::EFFORT_FULL, v1::EFFORT_FAST};
      r.rounds = 15;
      r.loop = true;
      break;
    case v1::METHOD_ACC:
      r.rotation = {v1::ROTATION_NONE, v1::ROTATION_BUTTERFLY};
      [[fallthrough]];
    case v1::METHOD_LAT:
      r.head = {v1::HEAD_ENCODING_RAW, v1::HEAD_ENCODING_INT8};
      r.rounds = 50;
      r.additive_terms = 3;
      break;
    case v1::METHOD_OPTQ:
      r.scales = {v1::SCALE_KIND_SHIFT};
      r.order = {v1::COLUMN_ORDER_GAR, v1::COLUMN_ORDER_NATURAL};
      break;
    default:  // rtn. The plain Hessian is what its output error is measured with.
      r.scales = {v1::SCALE_KIND_SHIFT};
      r.order = {v1::COLUMN_ORDER_NATURAL};
      r.propagate = {v1::PROPAGATE_FULL};  // no input decides anything
      r.damping = false;
  }
  return r;
}

// Resolves the fields of one recipe by the rules of its method.
class Resolver {
 public:
  Resolver(v1::Recipe* recipe, FaultList* faults)
      : r_(recipe), faults_(faults), rules_(RulesOf(recipe->method())) {}

  void Run() {
    r_->set_scales(Choose(r_->scales(), rules_.scales, "scales"));
    if (!rules_.loop) Unused(r_->has_offset(), "offset");
    if (rules_.loop && !r_->has_offset()) r_->set_offset(false);
    r_->set_rotation(Choose(r_->rotation(), rules_.rotation, "rotation"));
    r_->set_hessian(Choose(r_->hessian(), rules_.hessian, "hessian"));
    ResolveChunks();
    // Ordering by a plain Hessian's diagonal gains much, by the others' nothing.
    if (rules_.loop && r_->hessian() == v1::HESSIAN_PLAIN) {
      rules_.order = {v1::COLUMN_ORDER_GAR, v1::COLUMN_ORDER_NATURAL};
    }
    r_->set_order(Choose(r_->order(), rules_.order, "order"));
    ResolveNumbers();
    r_->set_propagate(Choose(r_->propagate(), rules_.propagate, "propagate"));
    ResolveGroup();
    r_->set_head(Choose(r_->head(), rules_.head, "head"));
  }

 private:
  // Unset (0) becomes the first of `allowed`; what is not among them is a fault.
  template <typename E>
  E Choose(E found, const std::vector<E>& allowed, absl::string_view field) {
    if (found == 0) return allowed.empty() ? found : allowed.front();
    if (std::find(allowed.begin(), allowed.end(), found) != allowed.end()) return found;
    std::string expected = "it unset";
    if (!allowed.empty()) {
      expected = absl::StrJoin(allowed, " or ",
                               [](std::string* out, E value) { out->append(Name(value)); });
    }
    faults_->Add(absl::StrCat("recipe.", field),
                 absl::StrCat("found ", Name(found), ", expected ", expected, " with method ",
                              Name(r_->method())));
    return found;
  }

  void Unused(bool set, absl::string_view field) {
    if (!set) return;
    faults_->Add(absl::StrCat("recipe.", field),
                 absl::StrCat("found a value, expected it unset: method ", Name(r_->method()),
                              " does not use it"));
  }

  void ResolveChunks() {
    if (r_->chunks() == 0) r_->set_chunks(1);
    faults_->Range<uint32_t>("recipe.chunks", r_->chunks(), 1, 16);
    if (r_->chunks() <= 1 || r_->chunks() > 16) return;
    // A Hessian that the method does not have is a fault of its own.
    const bool guides =
        std::count(rules_.hessian.begin(), rules_.hessian.end(), v1::HESSIAN_GUIDED) > 0;
    if (guides && r_->hessian() == v1::HESSIAN_GUIDED) return;
    faults_->Add("recipe.chunks",
                 absl::StrCat("found ", r_->chunks(), ", expected 1 with ",
                              guides ? absl::StrCat("hessian ", Name(r_->hessian()))
                                     : absl::StrCat("method ", Name(r_->method())),
                              ": only guided Hessians differ by rows"));
  }

  void ResolveNumbers() {
    if (!rules_.damping) {
      Unused(r_->has_damping(), "damping");
    } else {
      if (!r_->has_damping()) r_->set_damping(0.01);
      faults_->Range("recipe.damping", r_->damping(), 1e-6, 1.0);
    }
    if (rules_.rounds == 0) {
      Unused(r_->has_rounds(), "rounds");
    } else {
      if (!r_->has_rounds()) r_->set_rounds(rules_.rounds);
      faults_->Range<uint32_t>("recipe.rounds", r_->rounds(), 1, 200);
    }
    r_->set_effort(Choose(r_->effort(), rules_.effort, "effort"));
    if (!rules_.loop) {
      Unused(r_->has_inner_rounds(), "inner_rounds");
      Unused(r_->has_sweeps(), "sweeps");
    } else {
      const bool fast = r_->effort() == v1::EFFORT_FAST;
      if (!r_->has_inner_rounds()) r_->set_inner_rounds(fast ? 1 : 4);
      if (!r_->has_sweeps()) r_->set_sweeps(fast ? 1 : 2);
      faults_->Range<uint32_t>("recipe.inner_rounds", r_->inner_rounds(), 1, 32);
      faults_->Range<uint32_t>("recipe.sweeps", r_->sweeps(), 0, 16);
    }
    if (rules_.additive_terms < 0) {
      Unused(r_->has_additive_terms(), "additive_terms");
    } else {
      if (!r_->has_additive_terms()) {
        r_->set_additive_terms(static_cast<uint32_t>(rules_.additive_terms));
      }
      faults_->Range<uint32_t>("recipe.additive_terms", r_->additive_terms(), 0, 4);
    }
  }

  void ResolveGroup() {
    const uint32_t g = r_->group_size();
    if (r_->whole_row()) {
      if (g == 0) return;
      faults_->Add("recipe.group_size",
                   absl::StrCat("found ", g, " and whole_row, expected one of them"));
      return;
    }
    if (g == 0) r_->set_group_size(r_->method() == v1::METHOD_SHIFTADD ? 256 : 128);
    if (g == 0 || g == 32 || g == 64 || g == 128) return;
    const bool inputs = r_->method() != v1::METHOD_LAT && r_->method() != v1::METHOD_ACC;
    if (inputs && g == 256) return;
    const char* why = "planes are stored in words of 32 inputs";
    if (r_->method() == v1::METHOD_LAT) why = "blocks of 8 inputs x 4, 8 or 16 rows";
    if (r_->method() == v1::METHOD_ACC) why = "rows of a column that share a scale";
    faults_->Add("recipe.group_size", absl::StrCat("found ", g, ", expected 32, 64",
                                                   inputs ? ", 128 or 256 (" : " or 128 (", why,
                                                   "), or whole_row instead"));
  }

  v1::Recipe* const r_;
  FaultList* const faults_;
  MethodRules rules_;
};

void ResolveCandidates(v1::Recipe* r, FaultList* faults) {
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

void CheckOverrides(const v1::Recipe& r, FaultList* faults) {
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

}  // namespace

void ResolveRecipe(v1::Recipe* r, FaultList* faults) {
  if (r->method() == v1::METHOD_UNSPECIFIED) r->set_method(v1::METHOD_SHIFTADD);
  if (v1::Method_IsValid(r->method())) {
    Resolver(r, faults).Run();
  } else {
    faults->Add("recipe.method",
                absl::StrCat("found ", r->method(), ", expected shiftadd, lat, acc, optq or rtn"));
  }
  ResolveCandidates(r, faults);
  CheckOverrides(*r, faults);
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

std::vector<FieldFault> CheckShapes(const v1::Recipe& recipe, const v1::Plan& plan) {
  FaultList faults;
  const auto least = std::min_element(
      plan.layers().begin(), plan.layers().end(),
      [](const v1::LayerPlan& a, const v1::LayerPlan& b) { return a.rows() < b.rows(); });
  if (least != plan.layers().end() && recipe.chunks() > least->rows()) {
    faults.Add("recipe.chunks", absl::StrCat("found ", recipe.chunks(), ", expected at most ",
                                             least->rows(), ", the rows of layer ", least->name()));
  }
  return faults.Take();
}

std::vector<FieldFault> ExpandOverrides(v1::Recipe* recipe, const v1::Plan& plan) {
  FaultList faults;
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
  const MethodRules rules = RulesOf(r.method());
  nlohmann::json json = {{"method", Name(r.method())},
                         {"head", Name(r.head())},
                         {"seed", r.seed()},
                         {"rotation", Name(r.rotation())}};
  if (r.whole_row()) {
    json["whole_row"] = true;
  } else {
    json["group_size"] = r.group_size();
  }
  json["candidate_bits"] = nlohmann::json::array();
  for (uint32_t q : r.candidate_bits()) json["candidate_bits"].push_back(q);
  if (rules.damping) {
    json["hessian"] = Name(r.hessian());
    json["damping"] = r.damping();
    json["propagate"] = Name(r.propagate());
  }
  if (r.hessian() == v1::HESSIAN_GUIDED) json["chunks"] = r.chunks();
  if (rules.rounds > 0) json["rounds"] = r.rounds();
  if (!rules.scales.empty()) json["scales"] = Name(r.scales());
  if (rules.order.size() > 1) json["order"] = Name(r.order());
  if (rules.loop) {
    json["offset"] = r.offset();
    json["inner_rounds"] = r.inner_rounds();
    json["sweeps"] = r.sweeps();
  }
  if (rules.additive_terms >= 0) json["additive_terms"] = r.additive_terms();
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

}  // namespace shiftadd
