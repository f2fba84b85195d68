// Every combination of switches that can be packed goes from recipe to package to the server's
// kernels: EVALUATING holds their logits against the reference's.
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>

#include "absl/strings/str_cat.h"
#include "tests/cluster.h"
#include "worker/model/testing/tiny_llama.h"

namespace shiftadd::testing {
namespace {

class RecipesTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    root_ = new std::string(NewTempDir("recipes"));
    TinyLlamaOptions options;
    options.hidden = 160;        // one group of 128 and a tail
    options.intermediate = 264;  // a group of 256 and a tail
    options.blocks = 1;
    options.heads = 4;
    options.kv_heads = 2;
    ASSERT_TRUE(WriteTinyLlamaDirectory(*root_ + "/tiny", options).ok());
    cluster_ = new Cluster(*root_);
    cluster_->AddWorker();
  }
  static void TearDownTestSuite() {
    delete cluster_;
    delete root_;
  }

  // Takes the recipe as a job; `name` says what it is in failures.
  void Add(const std::string& name, v1::Recipe recipe) {
    v1::JobSpec spec;
    spec.set_source("file://" + *root_ + "/tiny");
    recipe.add_candidate_bits(2);
    recipe.add_candidate_bits(4);
    *spec.mutable_recipe() = std::move(recipe);
    spec.mutable_budget()->set_planes(3);
    spec.mutable_calibration()->set_sequences(4);
    spec.mutable_calibration()->set_length(48);
    spec.mutable_evaluation()->set_sequences(2);
    spec.set_output("tiny");
    const auto job = cluster_->Submit(spec);
    ASSERT_TRUE(job.ok()) << name << ": " << job.status();
    jobs_[job->job_id()] = name;
  }

  // Waits for all of them. Recipes that differ give packages that differ.
  void ExpectAllServed() {
    std::set<std::string> digests;
    for (const auto& [id, name] : jobs_) {
      const auto end = cluster_->WaitForEnd(id, absl::Minutes(8));
      ASSERT_TRUE(end.ok()) << name << ": " << end.status();
      ASSERT_EQ(end->state(), v1::JOB_STATE_SUCCEEDED) << name << ": " << end->error();
      EXPECT_TRUE(std::isfinite(end->quality().kl())) << name;
      EXPECT_GT(end->quality().kl(), 0) << name;
      EXPECT_LE(end->quality().planes(), 3) << name;
      EXPECT_LT(end->quality().server_max_logit_error(), 0.03) << name;
      EXPECT_TRUE(digests.insert(end->package_digest()).second) << name;
    }
  }

  static Cluster* cluster_;
  static std::string* root_;
  std::map<std::string, std::string> jobs_;  // name by id
};
Cluster* RecipesTest::cluster_ = nullptr;
std::string* RecipesTest::root_ = nullptr;

void SetGroup(uint32_t group, v1::Recipe* recipe) {
  recipe->set_group_size(group);
  recipe->set_whole_row(group == 0);
}
constexpr uint32_t kGroups[] = {128, 64, 32, 0};  // 0: the whole row

TEST_F(RecipesTest, ShiftAddInEveryEncoding) {
  const v1::Hessian hessians[] = {v1::HESSIAN_GUIDED, v1::HESSIAN_RMS, v1::HESSIAN_PLAIN};
  int n = 0;
  for (const auto scales : {v1::SCALE_KIND_SHIFT, v1::SCALE_KIND_FREE}) {
    for (const bool offset : {false, true}) {
      for (const auto rotation : {v1::ROTATION_WHT128, v1::ROTATION_NONE}) {
        for (const uint32_t group : kGroups) {
          v1::Recipe recipe;
          recipe.set_scales(scales);
          recipe.set_offset(offset);
          recipe.set_rotation(rotation);
          SetGroup(group, &recipe);
          recipe.set_hessian(hessians[n % 3]);
          recipe.set_sweeps(n % 2);
          Add(absl::StrCat("scales ", scales, " offset ", offset, " rotation ", rotation, " group ",
                           group, " hessian ", recipe.hessian()),
              recipe);
          ++n;
        }
      }
    }
  }
  ExpectAllServed();
}

TEST_F(RecipesTest, ShiftAddsOtherSwitches) {
  v1::Recipe recipe;
  recipe.set_chunks(4);
  Add("chunks", recipe);
  recipe.Clear();
  recipe.set_order(v1::COLUMN_ORDER_GAR);
  Add("order gar", recipe);
  recipe.Clear();
  recipe.set_effort(v1::EFFORT_FAST);
  Add("fast", recipe);
  recipe.Clear();
  recipe.set_head(v1::HEAD_ENCODING_RAW);
  Add("raw head", recipe);
  recipe.Clear();
  recipe.set_group_size(256);
  Add("groups of 256", recipe);
  recipe.set_scales(v1::SCALE_KIND_FREE);
  Add("free scales of 256", recipe);
  recipe.Clear();
  recipe.set_seed(7);
  recipe.set_propagate(v1::PROPAGATE_QUANTIZED);
  Add("refined", recipe);
  ExpectAllServed();
}

TEST_F(RecipesTest, TheOtherMethods) {
  for (const uint32_t group : kGroups) {
    v1::Recipe recipe;
    SetGroup(group, &recipe);
    recipe.set_method(v1::METHOD_RTN);
    Add(absl::StrCat("rtn ", group), recipe);
    recipe.set_method(v1::METHOD_OPTQ);
    Add(absl::StrCat("optq ", group), recipe);
    recipe.set_order(v1::COLUMN_ORDER_NATURAL);
    Add(absl::StrCat("optq natural ", group), recipe);
    recipe.clear_order();
    recipe.set_method(v1::METHOD_ACC);
    Add(absl::StrCat("acc ", group), recipe);
    recipe.set_rotation(v1::ROTATION_BUTTERFLY);
    Add(absl::StrCat("acc butterfly ", group), recipe);
    recipe.clear_rotation();
    recipe.set_method(v1::METHOD_LAT);
    for (const uint32_t terms : {0u, 1u, 3u}) {
      recipe.set_additive_terms(terms);
      Add(absl::StrCat("lat ", group, " of ", terms, " terms"), recipe);
    }
  }
  ExpectAllServed();
}

}  // namespace
}  // namespace shiftadd::testing
