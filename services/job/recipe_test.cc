#include "services/job/recipe.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <utility>
#include <vector>

namespace shiftadd {
namespace {

constexpr v1::Method kMethods[] = {v1::METHOD_SHIFTADD, v1::METHOD_LAT, v1::METHOD_RTN,
                                   v1::METHOD_ACC, v1::METHOD_OPTQ};

v1::Recipe Of(v1::Method method) {
  v1::Recipe recipe;
  recipe.set_method(method);
  return recipe;
}

v1::Recipe Parsed(const char* text) {
  v1::Recipe recipe;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &recipe)) << text;
  return recipe;
}

v1::Recipe Resolved(v1::Recipe recipe) {
  FaultList faults;
  ResolveRecipe(&recipe, &faults);
  EXPECT_EQ(FaultMessage(faults.Take()), "");
  return recipe;
}

// The faulty fields, in order, without "recipe.", joined by spaces.
std::string Faults(v1::Recipe recipe) {
  FaultList faults;
  ResolveRecipe(&recipe, &faults);
  std::string fields;
  for (const FieldFault& f : faults.Take()) {
    fields += (fields.empty() ? "" : " ") + f.field.substr(sizeof("recipe.") - 1);
  }
  return fields;
}

// Every field of text or bytes in a message and in what it holds, as "Message.field".
void CollectTexts(const google::protobuf::Descriptor& type,
                  std::set<const google::protobuf::Descriptor*>* seen,
                  std::set<std::string>* texts) {
  if (!seen->insert(&type).second) return;
  for (int i = 0; i < type.field_count(); ++i) {
    const google::protobuf::FieldDescriptor& field = *type.field(i);
    if (field.cpp_type() == google::protobuf::FieldDescriptor::CPPTYPE_STRING) {
      texts->insert(type.name() + "." + field.name());
    }
    if (field.message_type() != nullptr) CollectTexts(*field.message_type(), seen, texts);
  }
}

// A recipe is numbers and names of choices: the one text in it is a pattern that layers' names are
// compared with. A field that could name a file, a URL or code would have to be added here first.
TEST(RecipeMessage, HoldsNoTextButPatterns) {
  std::set<const google::protobuf::Descriptor*> seen;
  std::set<std::string> texts;
  CollectTexts(*v1::Recipe::descriptor(), &seen, &texts);
  EXPECT_EQ(texts, std::set<std::string>{"RecipeOverride.glob"});
}

TEST(ResolveRecipe, ShiftAddsDefaults) {
  const v1::Recipe r = Resolved({});
  EXPECT_EQ(r.method(), v1::METHOD_SHIFTADD);
  EXPECT_EQ(r.scales(), v1::SCALE_KIND_SHIFT);
  EXPECT_EQ(r.rotation(), v1::ROTATION_WHT128);
  EXPECT_EQ(r.hessian(), v1::HESSIAN_GUIDED);
  EXPECT_EQ(r.chunks(), 1u);
  EXPECT_EQ(r.order(), v1::COLUMN_ORDER_NATURAL);
  EXPECT_EQ(r.group_size(), 256u);
  EXPECT_EQ(std::vector<uint32_t>(r.candidate_bits().begin(), r.candidate_bits().end()),
            (std::vector<uint32_t>{2, 3, 4}));
  EXPECT_EQ(r.head(), v1::HEAD_ENCODING_INT8);
  EXPECT_EQ(r.damping(), 0.01);
  EXPECT_EQ(r.rounds(), 15u);
  EXPECT_EQ(r.inner_rounds(), 4u);
  EXPECT_EQ(r.sweeps(), 2u);
  EXPECT_TRUE(r.has_offset());
  EXPECT_FALSE(r.offset());
  EXPECT_EQ(r.effort(), v1::EFFORT_FULL);
  EXPECT_EQ(r.propagate(), v1::PROPAGATE_FULL);
  EXPECT_FALSE(r.has_additive_terms());
}

TEST(ResolveRecipe, TheOtherMethodsDefaults) {
  for (const v1::Method method : kMethods) {
    if (method == v1::METHOD_SHIFTADD) continue;
    const v1::Recipe r = Resolved(Of(method));
    const bool paper = method == v1::METHOD_LAT || method == v1::METHOD_ACC;
    EXPECT_EQ(r.rotation(), v1::ROTATION_NONE);
    EXPECT_EQ(r.hessian(), v1::HESSIAN_PLAIN);
    EXPECT_EQ(r.group_size(), 128u);
    EXPECT_EQ(r.head(), paper ? v1::HEAD_ENCODING_RAW : v1::HEAD_ENCODING_INT8);
    EXPECT_EQ(r.rounds(), paper ? 50u : 0u);
    EXPECT_EQ(r.has_additive_terms(), paper);
    EXPECT_EQ(r.additive_terms(), paper ? 3u : 0u);
    EXPECT_EQ(r.scales(), paper ? v1::SCALE_KIND_UNSPECIFIED : v1::SCALE_KIND_SHIFT);
    EXPECT_EQ(r.has_damping(), method != v1::METHOD_RTN);
    EXPECT_FALSE(r.has_offset() || r.has_sweeps() || r.has_inner_rounds());
  }
  EXPECT_EQ(Resolved(Of(v1::METHOD_OPTQ)).order(), v1::COLUMN_ORDER_GAR);
}

TEST(ResolveRecipe, AResolvedRecipeStaysAsItIs) {
  for (const v1::Method method : kMethods) {
    for (const bool whole_row : {false, true}) {
      v1::Recipe recipe = Of(method);
      recipe.set_whole_row(whole_row);
      recipe = Resolved(recipe);
      EXPECT_EQ(Resolved(recipe).SerializeAsString(), recipe.SerializeAsString());
    }
  }
}

TEST(ResolveRecipe, APlainHessianOrdersTheGroups) {
  v1::Recipe recipe;
  recipe.set_hessian(v1::HESSIAN_PLAIN);
  EXPECT_EQ(Resolved(recipe).order(), v1::COLUMN_ORDER_GAR);
  recipe.set_order(v1::COLUMN_ORDER_NATURAL);
  EXPECT_EQ(Resolved(recipe).order(), v1::COLUMN_ORDER_NATURAL);
}

TEST(ResolveRecipe, EffortIsAPresetThatFieldsOverrule) {
  v1::Recipe recipe;
  recipe.set_effort(v1::EFFORT_FAST);
  EXPECT_EQ(Resolved(recipe).inner_rounds(), 1u);
  EXPECT_EQ(Resolved(recipe).sweeps(), 1u);
  recipe.set_sweeps(0);  // off, not unset
  EXPECT_EQ(Resolved(recipe).sweeps(), 0u);
  EXPECT_EQ(Resolved(recipe).inner_rounds(), 1u);
}

TEST(ResolveRecipe, EverySwitchOfShiftAddIsAllowed) {
  v1::Recipe r = Parsed(R"(scales: SCALE_KIND_FREE offset: true rotation: ROTATION_NONE
                           hessian: HESSIAN_GUIDED chunks: 4 order: COLUMN_ORDER_GAR group_size: 64
                           damping: 1e-6 rounds: 200 inner_rounds: 32 sweeps: 16
                           propagate: PROPAGATE_QUANTIZED head: HEAD_ENCODING_RAW)");
  for (uint32_t q = 1; q <= 8; ++q) r.add_candidate_bits(q);
  EXPECT_EQ(Faults(r), "");
}

// Sets every field that the table of recipe.h calls unused by the method.
TEST(ResolveRecipe, AFieldThatAMethodDoesNotUseIsAFault) {
  v1::Recipe all = Parsed(R"(scales: SCALE_KIND_FREE offset: false rotation: ROTATION_WHT128
                             hessian: HESSIAN_RMS chunks: 4 order: COLUMN_ORDER_GAR damping: 0.01
                             rounds: 5 effort: EFFORT_FAST inner_rounds: 5 sweeps: 1
                             additive_terms: 3 propagate: PROPAGATE_QUANTIZED)");
  const std::pair<v1::Method, const char*> cases[] = {
      {v1::METHOD_SHIFTADD, "chunks additive_terms"},
      {v1::METHOD_LAT, "scales offset rotation hessian chunks order effort inner_rounds sweeps"},
      {v1::METHOD_ACC, "scales offset rotation hessian chunks order effort inner_rounds sweeps"},
      {v1::METHOD_OPTQ,
       "scales offset rotation hessian chunks rounds effort inner_rounds sweeps additive_terms"},
      {v1::METHOD_RTN,
       "scales offset rotation hessian chunks order damping rounds effort inner_rounds sweeps "
       "additive_terms propagate"}};
  for (const auto& [method, faults] : cases) {
    all.set_method(method);
    EXPECT_EQ(Faults(all), faults) << v1::Method_Name(method);
  }
  all.set_method(static_cast<v1::Method>(17));
  EXPECT_EQ(Faults(all), "method");
}

TEST(ResolveRecipe, OnlyAccHasButterflies) {
  for (const v1::Method method : kMethods) {
    v1::Recipe recipe = Of(method);
    recipe.set_rotation(v1::ROTATION_BUTTERFLY);
    EXPECT_EQ(Faults(recipe), method == v1::METHOD_ACC ? "" : "rotation");
  }
}

TEST(ResolveRecipe, OnlyGuidedHessiansHaveChunks) {
  v1::Recipe recipe;
  recipe.set_chunks(16);
  recipe.set_hessian(v1::HESSIAN_GUIDED);
  EXPECT_EQ(Faults(recipe), "");
  recipe.set_hessian(v1::HESSIAN_RMS);
  EXPECT_EQ(Faults(recipe), "chunks");
  recipe.set_chunks(17);
  EXPECT_EQ(Faults(recipe), "chunks");
  // A method without guided Hessians has no chunks either: both are said.
  v1::Recipe lat = Of(v1::METHOD_LAT);
  lat.set_hessian(v1::HESSIAN_GUIDED);
  lat.set_chunks(4);
  EXPECT_EQ(Faults(lat), "hessian chunks");
}

TEST(ResolveRecipe, GroupsSuitTheEncoding) {
  for (const v1::Method method : kMethods) {
    v1::Recipe recipe = Of(method);
    for (const uint32_t group : {32u, 64u, 128u}) {
      recipe.set_group_size(group);
      EXPECT_EQ(Faults(recipe), "") << group;
    }
    const bool inputs = method != v1::METHOD_LAT && method != v1::METHOD_ACC;
    recipe.set_group_size(256);
    EXPECT_EQ(Faults(recipe), inputs ? "" : "group_size");
    for (const uint32_t group : {1u, 16u, 48u, 96u, 512u, 1u << 31}) {
      recipe.set_group_size(group);
      EXPECT_EQ(Faults(recipe), "group_size") << group;
    }
    recipe.set_group_size(128);
    recipe.set_whole_row(true);
    EXPECT_EQ(Faults(recipe), "group_size");
    recipe.set_group_size(0);
    EXPECT_EQ(Faults(recipe), "");
  }
}

TEST(ResolveRecipe, NumbersOutOfRangeAreAllNamed) {
  v1::Recipe r = Of(v1::METHOD_LAT);
  r.set_damping(2);
  r.set_rounds(201);
  r.set_additive_terms(5);
  r.set_group_size(7);
  r.add_candidate_bits(0);
  EXPECT_EQ(Faults(r), "damping rounds additive_terms group_size candidate_bits");
  r = {};
  r.set_inner_rounds(0);
  r.set_sweeps(17);
  r.set_hessian(static_cast<v1::Hessian>(9));
  r.set_head(static_cast<v1::HeadEncoding>(9));
  EXPECT_EQ(Faults(r), "hessian inner_rounds sweeps head");
}

TEST(CheckShapes, AChunkHasARowAtLeast) {
  v1::Plan plan;
  for (const uint64_t rows : {64, 4, 32}) {
    v1::LayerPlan* layer = plan.add_layers();
    layer->set_name("l" + std::to_string(rows));
    layer->set_rows(rows);
  }
  v1::Recipe recipe;
  recipe.set_chunks(4);
  EXPECT_TRUE(CheckShapes(recipe, plan).empty());
  recipe.set_chunks(5);
  EXPECT_EQ(FaultMessage(CheckShapes(recipe, plan)),
            "recipe.chunks: found 5, expected at most 4, the rows of layer l4");
}

std::string Keys(const v1::Recipe& recipe) {
  std::string keys;
  const nlohmann::json json = RecipeJson(Resolved(recipe));
  for (const auto& [key, value] : json.items()) keys += (keys.empty() ? "" : " ") + key;
  return keys;
}

TEST(RecipeJson, ShowsWhatTheMethodUses) {
  EXPECT_EQ(
      Keys({}),
      "candidate_bits chunks damping group_size head hessian inner_rounds method offset order "
      "overrides propagate rotation rounds scales seed sweeps");
  v1::Recipe rms;
  rms.set_hessian(v1::HESSIAN_RMS);
  rms.set_whole_row(true);
  EXPECT_EQ(Keys(rms),
            "candidate_bits damping head hessian inner_rounds method offset order "
            "overrides propagate rotation rounds scales seed sweeps whole_row");
  for (const v1::Method method : {v1::METHOD_LAT, v1::METHOD_ACC}) {
    EXPECT_EQ(Keys(Of(method)),
              "additive_terms candidate_bits damping group_size head hessian method overrides "
              "propagate rotation rounds seed");
  }
  EXPECT_EQ(Keys(Of(v1::METHOD_OPTQ)),
            "candidate_bits damping group_size head hessian method order overrides propagate "
            "rotation scales seed");
  EXPECT_EQ(Keys(Of(v1::METHOD_RTN)),
            "candidate_bits group_size head method overrides rotation scales seed");
}

TEST(RecipeJson, EqualWorkIsWrittenAlike) {
  v1::Recipe fast, by_hand;
  fast.set_effort(v1::EFFORT_FAST);
  by_hand.set_inner_rounds(1);
  by_hand.set_sweeps(1);
  EXPECT_EQ(RecipeJson(Resolved(fast)), RecipeJson(Resolved(by_hand)));
}

TEST(GlobMatches, StarsAndQuestionMarks) {
  EXPECT_TRUE(GlobMatches("*", ""));
  EXPECT_TRUE(GlobMatches("blocks.*.attn.?", "blocks.12.attn.q"));
  EXPECT_FALSE(GlobMatches("blocks.*.attn.?", "blocks.12.attn.out"));
  EXPECT_TRUE(GlobMatches("*down", "blocks.0.mlp.down"));
  EXPECT_FALSE(GlobMatches("down", "blocks.0.mlp.down"));
  EXPECT_TRUE(GlobMatches("a*b*c", "aXbXbYc"));
  EXPECT_TRUE(GlobMatches("a*b*c", "a-b-b-c"));
  EXPECT_FALSE(GlobMatches("a*b*c", "aXbXbY"));
  EXPECT_FALSE(GlobMatches("a*b", "a-b-c"));
  EXPECT_FALSE(GlobMatches("blocks.1.*", "blocks.12.attn.q"));
  EXPECT_FALSE(GlobMatches("?", ""));
  EXPECT_FALSE(GlobMatches("", "a"));
  EXPECT_FALSE(GlobMatches("a[0-9]", "a1"));  // brackets mean themselves
}

}  // namespace
}  // namespace shiftadd
