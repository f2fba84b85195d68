#include "services/coordinator/recipe.h"

#include <gtest/gtest.h>

#include <limits>

namespace shiftadd::coordinator {
namespace {

v1::JobSpec Good() {
  v1::JobSpec spec;
  spec.set_source("file:///models/tiny.gguf");
  spec.set_output("tiny");
  spec.mutable_budget()->set_planes(3);
  return spec;
}

// The faulty fields, in order, joined by spaces.
std::string Faults(v1::JobSpec spec) {
  std::string fields;
  for (const FieldFault& f : ResolveSpec(&spec)) fields += f.field + " ";
  return fields;
}

TEST(ResolveSpec, FillsDefaultsByMethod) {
  v1::JobSpec spec = Good();
  ASSERT_TRUE(ResolveSpec(&spec).empty());
  const v1::Recipe& r = spec.recipe();
  EXPECT_EQ(r.method(), v1::METHOD_SHIFTADD);
  EXPECT_EQ(r.scales(), v1::SCALE_KIND_SHIFT);
  EXPECT_EQ(r.rotation(), v1::ROTATION_WHT128);
  EXPECT_EQ(r.hessian(), v1::HESSIAN_RMS);
  EXPECT_EQ(r.order(), v1::COLUMN_ORDER_NATURAL);
  EXPECT_EQ(r.group_size(), 128u);
  EXPECT_EQ(r.candidate_bits_size(), 3);
  EXPECT_EQ(r.head(), v1::HEAD_ENCODING_INT8);
  EXPECT_EQ(r.rounds(), 15u);
  EXPECT_EQ(r.inner_rounds(), 4u);
  EXPECT_EQ(spec.output(), "tiny:latest");
  EXPECT_EQ(spec.calibration().sequences(), 32u);
  EXPECT_EQ(spec.evaluation().length(), 512u);

  v1::JobSpec again = spec;  // a resolved spec is a valid one, and stays as it is
  EXPECT_TRUE(ResolveSpec(&again).empty());
  EXPECT_EQ(again.SerializeAsString(), spec.SerializeAsString());

  spec = Good();
  spec.mutable_recipe()->set_hessian(v1::HESSIAN_PLAIN);
  ASSERT_TRUE(ResolveSpec(&spec).empty());
  EXPECT_EQ(spec.recipe().order(), v1::COLUMN_ORDER_GAR);

  for (const v1::Method method : {v1::METHOD_LAT, v1::METHOD_RTN}) {
    spec = Good();
    spec.mutable_recipe()->set_method(method);
    ASSERT_TRUE(ResolveSpec(&spec).empty());
    EXPECT_EQ(spec.recipe().rotation(), v1::ROTATION_NONE);
    EXPECT_EQ(spec.recipe().head(),
              method == v1::METHOD_LAT ? v1::HEAD_ENCODING_RAW : v1::HEAD_ENCODING_INT8);
    EXPECT_EQ(spec.recipe().rounds(), method == v1::METHOD_LAT ? 50u : 0u);
    again = spec;
    EXPECT_TRUE(ResolveSpec(&again).empty());
  }
}

TEST(ResolveSpec, NamesEveryFaultAtOnce) {
  v1::JobSpec spec;
  spec.set_source("/models/tiny");
  spec.set_output("Tiny:la test");
  spec.mutable_recipe()->add_candidate_bits(3);
  spec.mutable_recipe()->add_candidate_bits(3);
  spec.mutable_recipe()->add_candidate_bits(9);
  spec.mutable_recipe()->set_group_size(100);
  spec.mutable_recipe()->set_damping(std::numeric_limits<double>::quiet_NaN());
  spec.mutable_recipe()->set_rounds(0);
  spec.mutable_recipe()->set_inner_rounds(33);
  spec.mutable_recipe()->add_overrides();
  spec.mutable_calibration()->set_length(1);
  spec.mutable_evaluation()->set_text_digest("sha256:1");
  spec.set_priority(101);
  EXPECT_EQ(Faults(spec),
            "source recipe.damping recipe.rounds recipe.inner_rounds recipe.group_size "
            "recipe.candidate_bits recipe.overrides[0].glob recipe.overrides[0] budget "
            "calibration.length evaluation.length evaluation.text_digest output output priority ");
}

TEST(ResolveSpec, SaysWhatIsNotYetAvailable) {
  v1::JobSpec spec = Good();
  spec.set_source("hf:HuggingFaceTB/SmolLM2-135M");
  spec.mutable_recipe()->set_scales(v1::SCALE_KIND_FREE);
  spec.mutable_recipe()->set_hessian(v1::HESSIAN_GUIDED);
  const auto faults = ResolveSpec(&spec);
  ASSERT_EQ(faults.size(), 3u);
  for (const FieldFault& f : faults) {
    EXPECT_NE(f.description.find("not yet available"), std::string::npos) << f.field;
  }
  spec.mutable_recipe()->set_method(static_cast<v1::Method>(17));
  EXPECT_EQ(Faults(spec), "source recipe.method ");
}

TEST(ResolveSpec, UnusedFieldsAreErrors) {
  v1::JobSpec spec = Good();
  v1::Recipe* r = spec.mutable_recipe();
  r->set_method(v1::METHOD_RTN);
  r->set_rotation(v1::ROTATION_WHT128);
  r->set_hessian(v1::HESSIAN_RMS);
  r->set_order(v1::COLUMN_ORDER_GAR);
  r->set_damping(0.01);
  r->set_rounds(5);
  r->set_inner_rounds(5);
  EXPECT_EQ(Faults(spec),
            "recipe.rotation recipe.hessian recipe.order recipe.damping recipe.rounds "
            "recipe.inner_rounds ");
  r->set_method(v1::METHOD_LAT);
  r->set_scales(v1::SCALE_KIND_SHIFT);
  r->set_group_size(64);
  EXPECT_EQ(Faults(spec),
            "recipe.scales recipe.rotation recipe.hessian recipe.order recipe.inner_rounds "
            "recipe.group_size ");
}

TEST(ResolveSpec, BudgetsAndNames) {
  v1::JobSpec spec = Good();
  for (const double planes : {1.9, 4.1, std::numeric_limits<double>::quiet_NaN()}) {
    spec.mutable_budget()->set_planes(planes);
    EXPECT_EQ(Faults(spec), "budget.planes ");
  }
  spec.mutable_budget()->set_bytes(0);
  EXPECT_EQ(Faults(spec), "budget.bytes ");
  spec.mutable_budget()->set_stored_bits(-1);
  EXPECT_EQ(Faults(spec), "budget.stored_bits ");
  spec = Good();
  for (const char* name : {"a", "a/b.c_d-e:1.0", "x:_", "a0:V1"}) {
    spec.set_output(name);
    EXPECT_EQ(Faults(spec), "") << name;
  }
  for (const char* name : {"", ":x", "a:", "-a", "a-", "a..b", "A", "a:-b", "a:b:c", "a b"}) {
    spec.set_output(name);
    EXPECT_NE(Faults(spec), "") << name;
  }
  spec = Good();
  spec.set_source("file:///models/../etc");
  EXPECT_EQ(Faults(spec), "source ");
}

TEST(GlobMatches, StarsAndQuestionMarks) {
  EXPECT_TRUE(GlobMatches("*", ""));
  EXPECT_TRUE(GlobMatches("blocks.*.attn.?", "blocks.12.attn.q"));
  EXPECT_FALSE(GlobMatches("blocks.*.attn.?", "blocks.12.attn.out"));
  EXPECT_TRUE(GlobMatches("*down", "blocks.0.mlp.down"));
  EXPECT_FALSE(GlobMatches("down", "blocks.0.mlp.down"));
  EXPECT_TRUE(GlobMatches("a*b*c", "aXbXbYc"));
  EXPECT_FALSE(GlobMatches("a*b*c", "aXbXbY"));
  EXPECT_FALSE(GlobMatches("", "a"));
  EXPECT_FALSE(GlobMatches("a[0-9]", "a1"));  // brackets mean themselves
}

}  // namespace
}  // namespace shiftadd::coordinator
