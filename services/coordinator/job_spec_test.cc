#include "services/coordinator/job_spec.h"

#include <gtest/gtest.h>

#include <limits>

#include "services/base/digest.h"

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

TEST(ResolveSpec, FillsDefaults) {
  v1::JobSpec spec = Good();
  ASSERT_TRUE(ResolveSpec(&spec).empty());
  EXPECT_EQ(spec.recipe().method(), v1::METHOD_SHIFTADD);
  EXPECT_EQ(spec.output(), "tiny:latest");
  EXPECT_EQ(spec.calibration().sequences(), 32u);
  EXPECT_EQ(spec.evaluation().length(), 512u);
  v1::JobSpec again = spec;
  EXPECT_TRUE(ResolveSpec(&again).empty());
  EXPECT_EQ(again.SerializeAsString(), spec.SerializeAsString());
}

TEST(ResolveSpec, SourcesAreShownAndLogged) {
  v1::JobSpec spec = Good();
  for (const char* source : {"file:///models/a\nb", "file:///\x1b[2J",
                             "file:///\xc2\x9b"
                             "2J"}) {
    spec.set_source(source);
    EXPECT_EQ(Faults(spec), "source ");
  }
  spec.set_source("file:///models/größe 7B");
  EXPECT_EQ(Faults(spec), "");
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
  spec.mutable_evaluation()->set_skip(2);
  spec.set_criterion(v1::CRITERION_GUIDED);
  spec.mutable_recipe()->set_hessian(v1::HESSIAN_PLAIN);
  spec.set_priority(101);
  EXPECT_EQ(Faults(spec),
            "source recipe.damping recipe.rounds recipe.inner_rounds recipe.group_size "
            "recipe.candidate_bits recipe.overrides[0].glob recipe.overrides[0] budget criterion "
            "calibration.length evaluation.length evaluation.text_digest output output priority ");
}

TEST(ResolveSpec, RemoteSourcesAreNotYetAvailable) {
  v1::JobSpec spec = Good();
  spec.set_source("hf:HuggingFaceTB/SmolLM2-135M");
  const auto faults = ResolveSpec(&spec);
  ASSERT_EQ(faults.size(), 1u);
  EXPECT_NE(faults[0].description.find("not yet available"), std::string::npos);
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
  // Found out here, not when all work is done and the packager refuses it.
  spec.set_output("a:sha256-" + std::string(64, 'a'));
  EXPECT_EQ(Faults(spec), "output ");
  spec = Good();
  spec.set_source("file:///models/../etc");
  EXPECT_EQ(Faults(spec), "source ");
}

TEST(ResolveSpec, TheCriterionFollowsTheHessian) {
  v1::JobSpec spec = Good();
  ASSERT_TRUE(ResolveSpec(&spec).empty());
  EXPECT_EQ(spec.criterion(), v1::CRITERION_GUIDED);
  for (const v1::Hessian hessian : {v1::HESSIAN_PLAIN, v1::HESSIAN_RMS}) {
    spec = Good();
    spec.mutable_recipe()->set_hessian(hessian);
    ASSERT_TRUE(ResolveSpec(&spec).empty());
    EXPECT_EQ(spec.criterion(), v1::CRITERION_OUTPUT);
    spec.set_criterion(v1::CRITERION_GUIDED);
    EXPECT_EQ(Faults(spec), "criterion ");
    for (const v1::Criterion criterion :
         {v1::CRITERION_WEIGHT, v1::CRITERION_PAPER, v1::CRITERION_MEASURED}) {
      spec.set_criterion(criterion);
      EXPECT_EQ(Faults(spec), "");
    }
  }
  spec.set_criterion(static_cast<v1::Criterion>(17));
  EXPECT_EQ(Faults(spec), "criterion ");
  spec = Good();
  spec.mutable_recipe()->set_method(v1::METHOD_RTN);
  spec.set_criterion(v1::CRITERION_PAPER);
  EXPECT_EQ(Faults(spec), "criterion ");
  spec.mutable_recipe()->set_method(v1::METHOD_OPTQ);
  EXPECT_EQ(Faults(spec), "");
}

TEST(ResolveSpec, SkippedWindowsAreThoseOfAText) {
  v1::JobSpec spec = Good();
  spec.mutable_evaluation()->set_skip(24);
  EXPECT_EQ(Faults(spec), "evaluation.skip ");
  spec.mutable_evaluation()->set_text_digest(Sha256Digest("text"));
  EXPECT_EQ(Faults(spec), "");
}

}  // namespace
}  // namespace shiftadd::coordinator
