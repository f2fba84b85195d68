// REFINING through the real store, with simulated workers whose results name their inputs.
#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "services/coordinator/refine_plan.h"
#include "services/coordinator/simulated_cluster.h"

namespace shiftadd::coordinator {
namespace {

constexpr SimulatedModel kSmall{.blocks = 3};
// REFINE tasks of it with one worker: three parts, two inputs with layers.
constexpr int kTasks = 3 * (3 + 1 + 3 + 1 + 1);

v1::SubmitJobRequest Request() {
  v1::SubmitJobRequest request = SimulatedCluster::Request();
  request.mutable_spec()->mutable_recipe()->set_propagate(v1::PROPAGATE_QUANTIZED);
  return request;
}

std::string ConfigOf(SimulatedCluster* cluster, const std::string& job_id) {
  EXPECT_EQ(cluster->Get(job_id).state(), v1::JOB_STATE_SUCCEEDED) << cluster->Get(job_id).error();
  if (cluster->publisher.published.empty()) return "";
  return cluster->publisher.published.back().config_json();
}

std::string PublishedConfig(int workers, const v1::SubmitJobRequest& request = Request(),
                            SimulatedModel model = kSmall) {
  SimulatedCluster cluster(model);
  for (int i = 0; i < workers; ++i) cluster.Lease(absl::StrCat("w", i));  // makes them known
  const v1::Job job = cluster.Submit(request);
  cluster.Run(workers);
  return ConfigOf(&cluster, job.job_id());
}

std::vector<const ViewedTask*> RefineTasks(const JobView& view) {
  return view.OfKind(v1::TASK_KIND_REFINE);
}

TEST(Refine, ComesBetweenTwoEvaluationsAndReplacesTheCandidates) {
  SimulatedCluster cluster;  // of enough blocks for a mix that differs from the uniform width
  const v1::Job submitted = cluster.Submit(Request());
  cluster.Run(2);
  const v1::Job job = cluster.Get(submitted.job_id());
  ASSERT_EQ(job.state(), v1::JOB_STATE_SUCCEEDED) << job.error();
  std::vector<v1::JobState> states;
  int evaluations = 0, refined_layers = 0;
  bool compared = false;
  for (const v1::JobEvent& e : cluster.Events(job.job_id())) {
    if (e.event_case() == v1::JobEvent::kState) states.push_back(e.state());
    evaluations += e.event_case() == v1::JobEvent::kEvaluation;
    refined_layers += e.event_case() == v1::JobEvent::kLayer && e.layer().has_refined();
    compared = compared || e.log().rfind("refined: KL", 0) == 0;
  }
  EXPECT_EQ(states, (std::vector<v1::JobState>{v1::JOB_STATE_QUEUED, v1::JOB_STATE_INGESTING,
                                               v1::JOB_STATE_CALIBRATING, v1::JOB_STATE_PROFILING,
                                               v1::JOB_STATE_ALLOCATING, v1::JOB_STATE_EVALUATING,
                                               v1::JOB_STATE_REFINING, v1::JOB_STATE_EVALUATING,
                                               v1::JOB_STATE_PACKAGING, v1::JOB_STATE_SUCCEEDED}));
  EXPECT_EQ(evaluations, 2);
  EXPECT_EQ(refined_layers, 12);
  EXPECT_TRUE(compared);
  // Both measurements, and what was compared before.
  EXPECT_NEAR(job.quality().kl_unrefined() - job.quality().kl(), 0.25 - 0.125, 1e-12);
  EXPECT_NEAR(job.quality().kl_uniform() - job.quality().kl_unrefined(), 0.5 - 0.25, 1e-12);
  EXPECT_LT(job.quality().perplexity_quantized(), job.quality().perplexity_unrefined());
  EXPECT_EQ(job.quality().windows(), 18u);
  EXPECT_TRUE(job.quality().published_mixed());

  const auto report = cluster.core->Report(job.job_id());
  ASSERT_TRUE(report.ok());
  const auto config = nlohmann::json::parse(ConfigOf(&cluster, job.job_id()));
  const auto& pins = cluster.publisher.pins[job.job_id()];
  ASSERT_EQ(config["layers"].size(), 12u);
  int noted = 0;
  for (int i = 0; i < report->layers_size(); ++i) {
    const v1::LayerReport& layer = report->layers(i);
    ASSERT_TRUE(layer.has_refined()) << layer.layer().name();
    EXPECT_EQ(layer.refined().bits(), layer.chosen_bits());
    EXPECT_EQ(config["layers"][i]["digest"], layer.refined().digest());
    EXPECT_EQ(layer.candidates_size(), 3);
    noted += layer.note() == "refining: plain Hessian";
    EXPECT_EQ(std::count(pins.begin(), pins.end(), layer.refined().digest()), 1);
  }
  EXPECT_EQ(noted, static_cast<int>(job.plan().blocks()));  // the first layer of each
}

TEST(Refine, TheSameConfigForAnyNumberOfWorkers) {
  const std::string one = PublishedConfig(1);
  EXPECT_FALSE(one.empty());
  EXPECT_EQ(PublishedConfig(2), one);
  EXPECT_EQ(PublishedConfig(3), one);
  EXPECT_EQ(PublishedConfig(9), one);
  EXPECT_NE(PublishedConfig(1, SimulatedCluster::Request()), one);
}

TEST(Refine, WorkersThatComeMakeMoreShardsAndTheSameConfig) {
  const std::string expected = PublishedConfig(1);
  SimulatedCluster cluster(kSmall);
  const v1::Job job = cluster.Submit(Request());
  cluster.RunTo(job.job_id(), v1::JOB_STATE_REFINING);
  for (int i = 0; i < 5; ++i) {
    const auto task = cluster.Lease("w0");
    ASSERT_TRUE(task.has_value());
    ASSERT_TRUE(cluster.Complete("w0", *task).ok());
  }
  cluster.Run(3);
  EXPECT_EQ(ConfigOf(&cluster, job.job_id()), expected);
  const auto view = JobView::Read(cluster.store.get(), job.job_id());
  std::set<uint32_t> shards;
  for (const ViewedTask* t : RefineTasks(*view)) {
    if (t->task.refine().step() == v1::REFINE_STEP_FIT) {
      shards.insert(t->task.refine().shards_total());
    }
  }
  EXPECT_EQ(shards, (std::set<uint32_t>{1, 3}));
}

TEST(Refine, OneInputAfterTheOtherOneBlockAfterTheOther) {
  SimulatedCluster cluster(kSmall);
  const v1::Job job = cluster.Submit(Request());
  cluster.Run(2);
  const auto view = JobView::Read(cluster.store.get(), job.job_id());
  ASSERT_TRUE(view.ok());
  ASSERT_EQ(RefineTasks(*view).size(), kTasks + 2u * 3);  // two shards
  // The order of ordinals is that of work.
  absl::Time barrier = absl::InfinitePast(), end = absl::InfinitePast();
  std::tuple<uint32_t, uint32_t, int> last{0, 0, 0};
  for (const ViewedTask* t : RefineTasks(*view)) {
    const v1::RefineTask& r = t->task.refine();
    if (r.step() == v1::REFINE_STEP_JOIN) {
      EXPECT_EQ(r.layers_size(), 2);
      EXPECT_EQ(r.shards_size(), 4);
      continue;
    }
    const std::tuple<uint32_t, uint32_t, int> stage{r.block(), r.input(), r.step()};
    ASSERT_GE(stage, last);
    if (stage != last) barrier = end;
    last = stage;
    EXPECT_GE(t->record.lease_time, barrier) << r.ShortDebugString();
    end = std::max(end, t->record.end_time);
    if (r.step() == v1::REFINE_STEP_HESSIAN) {
      EXPECT_EQ(r.tokens_digest().empty(), r.block() > 0 || r.input() > 0);
    } else {
      EXPECT_EQ(r.hessians_size(), 3);
    }
  }
}

// A worker is killed in the middle of its n-th task, and the coordinator with it.
TEST(Refine, SurvivesAKillAtEveryStep) {
  const SimulatedModel two{.blocks = 2};
  const std::string expected = PublishedConfig(2, Request(), two);
  for (int kill = 0;; ++kill) {
    SimulatedCluster cluster(two);
    cluster.Lease("w0");
    cluster.Lease("w1");
    const v1::Job job = cluster.Submit(Request());
    cluster.RunTo(job.job_id(), v1::JOB_STATE_REFINING, 2);
    for (int i = 0; i < kill; ++i) {
      const auto task = cluster.Lease(absl::StrCat("w", i % 2));
      ASSERT_TRUE(task.has_value()) << i;
      ASSERT_TRUE(cluster.Complete(absl::StrCat("w", i % 2), *task).ok());
    }
    ASSERT_TRUE(cluster.core->Tick().ok());
    if (cluster.Get(job.job_id()).state() != v1::JOB_STATE_REFINING) {
      EXPECT_EQ(kill, 2 * (3 + 2 + 3 + 2 + 1));
      break;
    }
    const auto task = cluster.Lease("w0");
    ASSERT_TRUE(task.has_value());
    cluster.Answer(*task);  // its scratch is written, its completion is lost
    cluster.Restart();
    cluster.clock->Advance(absl::Seconds(61));
    cluster.Run(2);
    ASSERT_EQ(ConfigOf(&cluster, job.job_id()), expected) << "killed in task " << kill;
  }
}

TEST(Refine, ARestartAfterEveryCompletionLosesNothing) {
  const std::string expected = PublishedConfig(1);
  SimulatedCluster cluster(kSmall);
  const v1::Job job = cluster.Submit(Request());
  while (const auto task = cluster.Lease("w0")) {
    cluster.Restart();
    ASSERT_TRUE(cluster.Complete("w0", *task).ok());
    cluster.Restart();
    ASSERT_TRUE(cluster.Complete("w0", *task).ok());  // the answer was lost: repeated
  }
  EXPECT_EQ(ConfigOf(&cluster, job.job_id()), expected);
}

TEST(Refine, AFaultFailsTheJobAndRetryGoesOnInMidBlock) {
  const std::string expected = PublishedConfig(1);
  SimulatedCluster cluster(kSmall);
  const v1::Job job = cluster.Submit(Request());
  cluster.RunTo(job.job_id(), v1::JOB_STATE_REFINING);
  for (int i = 0; i < 12; ++i) ASSERT_TRUE(cluster.Complete("w0", *cluster.Lease("w0")).ok());
  const auto task = cluster.Lease("w0");
  ASSERT_TRUE(
      cluster.Fail("w0", *task, absl::StatusCode::kInvalidArgument, "blocks.1: not finite").ok());
  ASSERT_TRUE(cluster.core->Tick().ok());
  const v1::Job failed = cluster.Get(job.job_id());
  EXPECT_EQ(failed.state(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(failed.resume_state(), v1::JOB_STATE_REFINING);
  EXPECT_NE(failed.error().find("blocks.1: not finite"), std::string::npos) << failed.error();
  const auto before = cluster.store->ListTasks(job.job_id(), false);
  ASSERT_TRUE(cluster.core->Retry(job.job_id()).ok());
  cluster.Run(1);
  EXPECT_EQ(ConfigOf(&cluster, job.job_id()), expected);
  for (const TaskRecord& t : *before) {
    if (t.state != TaskState::kDone) continue;
    EXPECT_EQ(cluster.store->GetTask(t.task_id)->lease_epoch, t.lease_epoch) << "done again";
  }
}

TEST(Refine, TheUniformVariantIsRefinedIfItWon) {
  SimulatedCluster cluster(SimulatedModel{.uniform_kl = 0.1});
  const v1::Job job = cluster.Submit(Request());
  cluster.Run(1);
  const auto config = nlohmann::json::parse(ConfigOf(&cluster, job.job_id()));
  for (const auto& layer : config["layers"]) EXPECT_EQ(layer["bits"], 3);
  const v1::Quality quality = cluster.Get(job.job_id()).quality();
  EXPECT_FALSE(quality.published_mixed());
  EXPECT_EQ(quality.kl_unrefined(), quality.kl_uniform());
  EXPECT_NEAR(quality.kl() - quality.kl_uniform(), 0.025, 1e-12);  // worse, and said
}

TEST(Refine, SkippedLayersStayAndTheirBlocksAreOnlyPassed) {
  auto request = Request();
  for (const char* glob : {"blocks.0.*", "blocks.1.mlp.down", "blocks.2.attn.q"}) {
    v1::RecipeOverride* skip = request.mutable_spec()->mutable_recipe()->add_overrides();
    skip->set_glob(glob);
    skip->set_skip(true);
  }
  SimulatedCluster cluster(kSmall);
  const v1::Job job = cluster.Submit(request);
  cluster.Run(1);
  ASSERT_FALSE(ConfigOf(&cluster, job.job_id()).empty());
  const auto report = cluster.core->Report(job.job_id());
  int refined = 0;
  for (const v1::LayerReport& layer : report->layers()) {
    EXPECT_EQ(layer.has_refined(), layer.chosen_bits() > 0) << layer.layer().name();
    refined += layer.has_refined();
  }
  EXPECT_EQ(refined, 2);
}

TEST(Refine, ScratchIsFreedAsItGoes) {
  SimulatedCluster cluster(SimulatedModel{.blocks = 8});
  const v1::Job job = cluster.Submit(Request());
  const std::string folder = absl::StrCat(cluster.dir, "/blobs/scratch/", job.job_id());
  cluster.RunTo(job.job_id(), v1::JOB_STATE_REFINING);
  size_t most = 0;
  cluster.Run(2, [&] {
    EXPECT_TRUE(cluster.core->Tick().ok());
    std::error_code none;
    size_t files = 0;
    for ([[maybe_unused]] const auto& file : std::filesystem::directory_iterator(folder, none)) {
      ++files;
    }
    most = std::max(most, files);
    return cluster.Get(job.job_id()).state() != v1::JOB_STATE_REFINING;
  });
  // Two boundaries and one input's Hessians of three parts, shards of two blocks; and what has just
  // been made before the next planning.
  EXPECT_GT(most, 0u);
  EXPECT_LE(most, 3u * 2 + 3 * 2 + 2 * 4 + 4);
  cluster.Run(2);
  ASSERT_TRUE(cluster.core->Tick().ok());
  EXPECT_FALSE(ConfigOf(&cluster, job.job_id()).empty());
  EXPECT_FALSE(std::filesystem::exists(folder));
}

TEST(Refine, ResultsThatDoNotAnswerTheTaskAreRefused) {
  SimulatedCluster cluster(kSmall);
  const v1::Job job = cluster.Submit(Request());
  cluster.RunTo(job.job_id(), v1::JOB_STATE_REFINING);
  const auto task = cluster.Lease("w0");
  ASSERT_TRUE(task.has_value());
  v1::CompleteTaskRequest request;
  request.set_worker_id("w0");
  request.set_task_id(task->task_id());
  request.set_lease_epoch(task->lease_epoch());
  const v1::TaskResult good = cluster.Answer(*task);
  const auto refused = [&](const std::function<void(v1::RefineResult*)>& spoil) {
    *request.mutable_result() = good;
    spoil(request.mutable_result()->mutable_refine());
    return cluster.core->Complete(request).code() == absl::StatusCode::kInvalidArgument;
  };
  EXPECT_TRUE(refused([](v1::RefineResult* r) { r->clear_hessians(); }));
  EXPECT_TRUE(refused([](v1::RefineResult* r) { r->mutable_hessians(0)->set_part(7); }));
  EXPECT_TRUE(refused([](v1::RefineResult* r) { r->mutable_hessians(0)->set_digest("x"); }));
  EXPECT_TRUE(refused([](v1::RefineResult* r) { r->clear_boundary(); }));
  EXPECT_TRUE(refused([](v1::RefineResult* r) { r->mutable_boundary()->set_block(2); }));
  EXPECT_TRUE(cluster.Complete("w0", *task).ok());
}

}  // namespace
}  // namespace shiftadd::coordinator
