// PROFILING with guided Hessians and with measured candidates, and what is allocated from either.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <map>

#include "nlohmann/json.hpp"
#include "services/base/digest.h"
#include "services/coordinator/simulated_cluster.h"

namespace shiftadd::coordinator {
namespace {

v1::SubmitJobRequest Guided(uint32_t chunks = 1) {
  v1::SubmitJobRequest request = SimulatedCluster::Request();
  request.mutable_spec()->mutable_recipe()->set_hessian(v1::HESSIAN_GUIDED);
  request.mutable_spec()->mutable_recipe()->set_chunks(chunks);
  return request;
}

v1::SubmitJobRequest With(v1::Criterion criterion) {
  v1::SubmitJobRequest request = SimulatedCluster::Request();
  request.mutable_spec()->set_criterion(criterion);
  return request;
}

// Runs the job to its end and returns the config that it published.
std::string PublishedConfig(const v1::SubmitJobRequest& request, int workers = 1) {
  SimulatedCluster cluster;
  for (int i = 0; i < workers; ++i) cluster.Lease("w" + std::to_string(i));  // makes them known
  const v1::Job job = cluster.Submit(request);
  cluster.Run(workers);
  EXPECT_EQ(cluster.Get(job.job_id()).state(), v1::JOB_STATE_SUCCEEDED)
      << cluster.Get(job.job_id()).error();
  return cluster.publisher.published.empty() ? "" : cluster.publisher.published[0].config_json();
}

// Widths by block, of the layers of one kind.
std::map<int, int> Widths(const std::string& config_json) {
  std::map<int, int> widths;
  const auto config = nlohmann::json::parse(config_json);
  for (const auto& layer : config["layers"]) {
    const std::string name = layer["name"];
    widths[std::stoi(name.substr(sizeof("blocks.") - 1))] += layer["bits"].get<int>();
  }
  return widths;
}

// Ready and running tasks of a kind.
int Open(const SimulatedCluster& cluster, const std::string& job_id, v1::TaskKind kind) {
  int open = 0;
  const auto tasks = cluster.store->ListTasks(job_id, false);
  for (const TaskRecord& t : *tasks) {
    open += t.kind == kind && (t.state == TaskState::kReady || t.state == TaskState::kRunning);
  }
  return open;
}

TEST(GuidedJob, APartGoesForwardAsSoonAsItsWindowsAreThere) {
  SimulatedCluster cluster;
  cluster.Lease("w0");
  cluster.Lease("w1");
  const v1::Job job = cluster.Submit(Guided());
  cluster.RunTo(job.job_id(), v1::JOB_STATE_CALIBRATING, 2);
  // Two workers have enough to do with the calibration's three parts.
  EXPECT_EQ(Open(cluster, job.job_id(), v1::TASK_KIND_CALIBRATE), 3);
  const auto hash = cluster.Lease("w0");
  ASSERT_EQ(hash->kind(), v1::TASK_KIND_HASH);
  ASSERT_TRUE(cluster.Complete("w0", *hash).ok());
  const auto slow = cluster.Lease("w0"), quick = cluster.Lease("w1");
  ASSERT_TRUE(cluster.Complete("w1", *quick).ok());
  ASSERT_TRUE(cluster.core->Tick().ok());
  EXPECT_EQ(Open(cluster, job.job_id(), v1::TASK_KIND_FORWARD), 1);
  EXPECT_EQ(cluster.Get(job.job_id()).state(), v1::JOB_STATE_CALIBRATING);
  for (int i = 0; i < 2; ++i) {  // the third part's windows, and a way forward
    const auto task = cluster.Lease("w1");
    ASSERT_TRUE(task.has_value());
    ASSERT_TRUE(cluster.Complete("w1", *task).ok());
  }
  EXPECT_EQ(cluster.Get(job.job_id()).state(), v1::JOB_STATE_CALIBRATING);
  ASSERT_TRUE(cluster.Complete("w0", *slow).ok());
  ASSERT_TRUE(cluster.core->Tick().ok());
  // The held-out windows, two parts, follow the FORWARD tasks and do not keep PROFILING back.
  EXPECT_EQ(cluster.Get(job.job_id()).state(), v1::JOB_STATE_PROFILING);
  EXPECT_EQ(Open(cluster, job.job_id(), v1::TASK_KIND_FORWARD), 2);
  EXPECT_EQ(Open(cluster, job.job_id(), v1::TASK_KIND_CALIBRATE), 2);
  cluster.Run(2);
  EXPECT_EQ(cluster.Get(job.job_id()).state(), v1::JOB_STATE_SUCCEEDED);
}

TEST(Job, HashesTheSourceBesideTheWindowsAndNotesTheDigestsAtOnce) {
  SimulatedCluster cluster;
  for (const char* w : {"w0", "w1"}) cluster.Lease(w);
  const v1::Job job = cluster.Submit(SimulatedCluster::Request());
  cluster.RunTo(job.job_id(), v1::JOB_STATE_CALIBRATING, 2);
  const auto hash = cluster.Lease("w0"), windows = cluster.Lease("w1");
  ASSERT_EQ(hash->kind(), v1::TASK_KIND_HASH);
  ASSERT_EQ(windows->kind(), v1::TASK_KIND_CALIBRATE);
  // All windows are there before the digests are: PROFILING waits.
  ASSERT_TRUE(cluster.Complete("w1", *windows).ok());
  for (auto task = cluster.Lease("w1"); task.has_value(); task = cluster.Lease("w1")) {
    ASSERT_TRUE(cluster.Complete("w1", *task).ok());
    ASSERT_TRUE(cluster.core->Tick().ok());
  }
  EXPECT_EQ(cluster.Get(job.job_id()).state(), v1::JOB_STATE_CALIBRATING);
  EXPECT_EQ(cluster.Get(job.job_id()).plan().source_files(0).digest(), "");
  ASSERT_TRUE(cluster.Complete("w0", *hash).ok());
  ASSERT_TRUE(cluster.core->Tick().ok());
  EXPECT_EQ(cluster.Get(job.job_id()).state(), v1::JOB_STATE_PROFILING);
  EXPECT_NE(cluster.Get(job.job_id()).plan().source_files(0).digest(), "");
}

TEST(GuidedJob, HeldOutWindowsAreWrittenAtOnceWhereAWorkerIsFree) {
  SimulatedCluster cluster;
  for (const char* w : {"w0", "w1", "w2", "w3"}) cluster.Lease(w);
  const v1::Job job = cluster.Submit(Guided());
  cluster.RunTo(job.job_id(), v1::JOB_STATE_CALIBRATING, 4);
  EXPECT_EQ(Open(cluster, job.job_id(), v1::TASK_KIND_CALIBRATE), 5);
}

TEST(GuidedJob, TextThatIsTooShortIsToldBeforeProfiling) {
  SimulatedCluster cluster(SimulatedModel{.text_windows = 2 * kMicrobatch + 5});
  v1::SubmitJobRequest request = Guided();
  request.mutable_spec()->mutable_calibration()->set_text_digest(Sha256Digest("text"));
  const v1::Job job = cluster.Submit(request);
  cluster.Run(1);
  const v1::Job failed = cluster.Get(job.job_id());
  EXPECT_EQ(failed.state(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(failed.resume_state(), v1::JOB_STATE_CALIBRATING) << failed.error();
}

TEST(Job, EvaluationIsSharedByAllWorkers) {
  for (const auto& [workers, tasks] : std::map<int, size_t>{{1, 2}, {2, 3}, {5, 5}, {40, 18}}) {
    SimulatedCluster cluster;
    for (int i = 0; i < workers; ++i) cluster.Lease("w" + std::to_string(i));
    const v1::Job job = cluster.Submit(Guided());
    cluster.Run(workers);
    ASSERT_EQ(cluster.Get(job.job_id()).state(), v1::JOB_STATE_SUCCEEDED);
    EXPECT_EQ(cluster.Get(job.job_id()).quality().windows(), 18u);
    const auto view = JobView::Read(cluster.store.get(), job.job_id());
    ASSERT_TRUE(view.ok());
    EXPECT_EQ(view->Evaluation().size(), tasks) << workers;
    int checks = 0;
    for (const ViewedTask* t : view->Evaluation()) checks += t->task.evaluate().check_server();
    EXPECT_EQ(checks, 1);
  }
}

TEST(GuidedJob, EveryProfileTaskHasItsBlocksTokenWeights) {
  for (const int workers : {1, 3}) {
    SimulatedCluster cluster;
    for (int i = 0; i < workers; ++i) cluster.Lease("w" + std::to_string(i));
    const v1::Job job = cluster.Submit(Guided(/*chunks=*/4));
    cluster.RunTo(job.job_id(), v1::JOB_STATE_PROFILING, workers);
    std::map<v1::TaskKind, int> open;
    const auto planned = cluster.store->ListTasks(job.job_id(), false);
    for (const TaskRecord& t : *planned) open[t.kind] += t.state == TaskState::kReady;
    EXPECT_GE(open[v1::TASK_KIND_FORWARD], 1);  // one worker has done those of the first parts
    EXPECT_EQ(open[v1::TASK_KIND_PROFILE], 0) << "no block may start without its token weights";
    cluster.Run(workers);
    ASSERT_EQ(cluster.Get(job.job_id()).state(), v1::JOB_STATE_SUCCEEDED)
        << cluster.Get(job.job_id()).error();
    const auto view = JobView::Read(cluster.store.get(), job.job_id());
    ASSERT_TRUE(view.ok());
    EXPECT_EQ(view->OfKind(v1::TASK_KIND_FORWARD).size(), 3u);
    for (const ViewedTask* t : view->OfKind(v1::TASK_KIND_FORWARD)) {
      EXPECT_TRUE(t->task.forward().token_weights());
      EXPECT_EQ(t->task.forward().chunks(), 4u);
      EXPECT_EQ(t->task.forward().split_blocks_size(), workers - 1);
    }
    const auto profiles = view->OfKind(v1::TASK_KIND_PROFILE);
    ASSERT_EQ(profiles.size(), 6u);
    for (const ViewedTask* t : profiles) {
      const v1::ProfileTask& profile = t->task.profile();
      ASSERT_EQ(profile.token_weights_size(), 3);
      for (int part = 0; part < 3; ++part) {
        EXPECT_EQ(profile.token_weights(part).block(), profile.block());
        EXPECT_EQ(profile.token_weights(part).part(), static_cast<uint32_t>(part));
      }
      EXPECT_EQ(profile.boundaries_size(), t->record.lane == 0 ? 0 : 3);
    }
  }
}

TEST(GuidedJob, TheSameConfigForAnyNumberOfWorkers) {
  const std::string one = PublishedConfig(Guided());
  EXPECT_EQ(nlohmann::json::parse(one)["criterion"], "guided");
  EXPECT_EQ(PublishedConfig(Guided(), 2), one);
  EXPECT_EQ(PublishedConfig(Guided(), 7), one);
}

TEST(GuidedJob, ForwardPassesCountInTheProgress) {
  SimulatedCluster cluster;
  const v1::Job job = cluster.Submit(Guided());
  cluster.RunTo(job.job_id(), v1::JOB_STATE_PROFILING);
  const double before = cluster.Get(job.job_id()).progress().ratio();
  const auto task = cluster.Lease("w0");
  ASSERT_TRUE(task.has_value());
  ASSERT_EQ(task->kind(), v1::TASK_KIND_FORWARD);
  ASSERT_TRUE(cluster.Complete("w0", *task).ok());
  EXPECT_GT(cluster.Get(job.job_id()).progress().ratio(), before + 0.01);
  cluster.Run(1);
  EXPECT_EQ(cluster.Get(job.job_id()).progress().ratio(), 1);
}

TEST(GuidedJob, TokenWeightsThatDoNotAnswerTheTaskAreRefused) {
  SimulatedCluster cluster;
  const v1::Job job = cluster.Submit(Guided());
  cluster.RunTo(job.job_id(), v1::JOB_STATE_PROFILING);
  const auto task = cluster.Lease("w0");
  ASSERT_EQ(task->kind(), v1::TASK_KIND_FORWARD);
  v1::CompleteTaskRequest request;
  request.set_worker_id("w0");
  request.set_task_id(task->task_id());
  request.set_lease_epoch(task->lease_epoch());
  *request.mutable_result() = cluster.Answer(*task);
  auto* weights = request.mutable_result()->mutable_forward()->mutable_token_weights();
  weights->Mutable(2)->set_block(1);
  EXPECT_EQ(cluster.core->Complete(request).code(), absl::StatusCode::kInvalidArgument);
  weights->Mutable(2)->set_block(2);
  weights->Mutable(2)->set_digest("sha256:0");
  EXPECT_EQ(cluster.core->Complete(request).code(), absl::StatusCode::kInvalidArgument);
  weights->Clear();
  EXPECT_EQ(cluster.core->Complete(request).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(cluster.Complete("w0", *task).ok());
}

// What a worker leaves out is found when the tasks that need it are planned.
TEST(GuidedJob, AMissingBlockOfTokenWeightsFailsTheJob) {
  SimulatedCluster cluster;
  const v1::Job job = cluster.Submit(Guided());
  cluster.RunTo(job.job_id(), v1::JOB_STATE_PROFILING);
  while (auto task = cluster.Lease("w0")) {
    v1::CompleteTaskRequest request;
    request.set_worker_id("w0");
    request.set_task_id(task->task_id());
    request.set_lease_epoch(task->lease_epoch());
    *request.mutable_result() = cluster.Answer(*task);
    if (task->kind() == v1::TASK_KIND_FORWARD) {
      request.mutable_result()->mutable_forward()->mutable_token_weights()->RemoveLast();
    }
    ASSERT_TRUE(cluster.core->Complete(request).ok());
  }
  EXPECT_EQ(cluster.Get(job.job_id()).state(), v1::JOB_STATE_FAILED);
  EXPECT_NE(cluster.Get(job.job_id()).error().find("no token weights for block 5"),
            std::string::npos)
      << cluster.Get(job.job_id()).error();
}

TEST(MeasuredJob, MeasuresEveryBlockOnceItsCandidatesExist) {
  SimulatedCluster cluster;
  auto request = With(v1::CRITERION_MEASURED);
  v1::RecipeOverride* o = request.mutable_spec()->mutable_recipe()->add_overrides();
  o->set_glob("blocks.5.*");
  o->set_bits(3);  // leaves no choice
  const v1::Job job = cluster.Submit(request);
  cluster.Run(2);
  ASSERT_EQ(cluster.Get(job.job_id()).state(), v1::JOB_STATE_SUCCEEDED)
      << cluster.Get(job.job_id()).error();
  const auto view = JobView::Read(cluster.store.get(), job.job_id());
  const auto tasks = view->OfKind(v1::TASK_KIND_MEASURE);
  ASSERT_EQ(tasks.size(), 5u);
  for (const ViewedTask* t : tasks) {
    EXPECT_EQ(t->task.measure().windows(), 3u);
    EXPECT_EQ(t->task.measure().tokens_digests_size(), 1);
    ASSERT_EQ(t->task.measure().layers_size(), 2);
    EXPECT_EQ(t->task.measure().layers(0).layer().block(), t->record.ordinal);
    EXPECT_EQ(t->task.measure().layers(0).candidates_size(), 3);
  }
  const auto report = cluster.core->Report(job.job_id());
  ASSERT_TRUE(report.ok());
  EXPECT_NEAR(report->layers(0).candidates(1).measured_kl(), 1e-3, 1e-12);
  EXPECT_EQ(report->layers(0).candidates(1).importance(),
            report->layers(0).candidates(1).measured_kl());
  EXPECT_FALSE(report->layers(11).candidates(0).has_measured_kl());
}

TEST(MeasuredJob, FiguresThatDoNotAnswerTheTaskAreRefused) {
  SimulatedCluster cluster;
  const v1::Job job = cluster.Submit(With(v1::CRITERION_MEASURED));
  std::optional<v1::Task> task;
  while ((task = cluster.Lease("w0")).has_value() && task->kind() != v1::TASK_KIND_MEASURE) {
    ASSERT_TRUE(cluster.Complete("w0", *task).ok());
  }
  ASSERT_TRUE(task.has_value());
  v1::CompleteTaskRequest request;
  request.set_worker_id("w0");
  request.set_task_id(task->task_id());
  request.set_lease_epoch(task->lease_epoch());
  const auto refused = [&](const std::function<void(v1::MeasureResult*)>& change) {
    *request.mutable_result() = cluster.Answer(*task);
    change(request.mutable_result()->mutable_measure());
    return cluster.core->Complete(request).code() == absl::StatusCode::kInvalidArgument;
  };
  EXPECT_TRUE(refused([](auto* r) { r->mutable_layers(0)->set_kl(1, std::nan("")); }));
  EXPECT_TRUE(refused([](auto* r) { r->mutable_layers(0)->set_kl(1, -1e-9); }));
  EXPECT_TRUE(refused([](auto* r) { r->mutable_layers(0)->add_kl(1); }));
  EXPECT_TRUE(refused([](auto* r) { r->mutable_layers(1)->set_layer("blocks.0.attn.q"); }));
  EXPECT_TRUE(refused([](auto* r) { r->mutable_layers()->RemoveLast(); }));
  EXPECT_TRUE(cluster.Complete("w0", *task).ok());
}

// The simulated figures disagree on purpose: later blocks have the larger output error, earlier
// ones the larger guided error, and only the first has a measured one.
TEST(Criterion, DecidesWhatIsAllocated) {
  auto request = With(v1::CRITERION_OUTPUT);
  request.mutable_spec()->mutable_budget()->set_planes(2.5);
  const auto output = Widths(PublishedConfig(request));
  EXPECT_GT(output.at(5), output.at(0));

  request = Guided();
  request.mutable_spec()->mutable_budget()->set_planes(2.5);
  const auto guided = Widths(PublishedConfig(request));
  EXPECT_LT(guided.at(5), guided.at(0));

  request = With(v1::CRITERION_MEASURED);
  request.mutable_spec()->mutable_budget()->set_planes(2.5);
  EXPECT_EQ(Widths(PublishedConfig(request)).at(0), 8);
  EXPECT_EQ(nlohmann::json::parse(PublishedConfig(request))["criterion"], "measured");
}

TEST(UniformJob, HasOneWidthAndOneVariant) {
  SimulatedCluster cluster;
  auto request = SimulatedCluster::Request();
  request.mutable_spec()->set_uniform(true);
  request.mutable_spec()->mutable_budget()->set_planes(3.9);
  const v1::Job submitted = cluster.Submit(request);
  cluster.Run(1);
  const v1::Job job = cluster.Get(submitted.job_id());
  ASSERT_EQ(job.state(), v1::JOB_STATE_SUCCEEDED) << job.error();
  EXPECT_EQ(job.quality().uniform_bits(), 3u);
  EXPECT_FALSE(job.quality().published_mixed());
  EXPECT_EQ(job.quality().planes(), 3.0);
  EXPECT_EQ(job.quality().kl(), job.quality().kl_uniform());
  const auto view = JobView::Read(cluster.store.get(), job.job_id());
  ASSERT_EQ(view->Variants().size(), 1u);
  EXPECT_EQ(view->Variants()[0].name(), "uniform");
  const auto config = nlohmann::json::parse(cluster.publisher.published[0].config_json());
  EXPECT_EQ(config["uniform"], true);
  for (const auto& layer : config["layers"]) EXPECT_EQ(layer["bits"], 3);
}

TEST(UniformJob, OneCandidateIsUniformAlready) {
  SimulatedCluster cluster;
  auto request = SimulatedCluster::Request();
  request.mutable_spec()->set_uniform(true);
  request.mutable_spec()->mutable_recipe()->add_candidate_bits(3);
  const v1::Job job = cluster.Submit(request);
  cluster.Run(1);
  ASSERT_EQ(cluster.Get(job.job_id()).state(), v1::JOB_STATE_SUCCEEDED)
      << cluster.Get(job.job_id()).error();
  EXPECT_EQ(cluster.Get(job.job_id()).quality().planes(), 3.0);
}

TEST(Evaluation, SkipsWindowsOfItsText) {
  SimulatedCluster cluster;
  auto request = SimulatedCluster::Request();
  request.mutable_spec()->mutable_evaluation()->set_text_digest(Sha256Digest("text"));
  request.mutable_spec()->mutable_evaluation()->set_skip(100);
  const v1::Job job = cluster.Submit(request);
  cluster.RunTo(job.job_id(), v1::JOB_STATE_CALIBRATING);
  const auto view = JobView::Read(cluster.store.get(), job.job_id());
  const auto tasks = view->OfKind(v1::TASK_KIND_CALIBRATE);
  ASSERT_EQ(tasks.size(), 5u);
  EXPECT_EQ(tasks[3]->task.calibrate().text_first(), 100u);
  EXPECT_EQ(tasks[4]->task.calibrate().text_first(), 116u);
}

TEST(AccJob, IsPublishedAsSimulated) {
  auto request = SimulatedCluster::Request();
  request.mutable_spec()->mutable_recipe()->Clear();
  request.mutable_spec()->mutable_recipe()->set_method(v1::METHOD_ACC);
  request.mutable_spec()->mutable_recipe()->set_rotation(v1::ROTATION_BUTTERFLY);
  const auto config = nlohmann::json::parse(PublishedConfig(request));
  EXPECT_EQ(config["simulated"], true);
  EXPECT_EQ(config["recipe"]["rotation"], "butterfly");
  EXPECT_TRUE(config["exponent_sets"].empty());
  // Counted as packed: 256 rows, groups of 128, two fp16 scales a column and plane.
  EXPECT_EQ(config["layers"][0]["stored_bytes"],
            256 * 256 * config["layers"][0]["bits"].get<int>() * 9 / 8 / 8);
  EXPECT_FALSE(
      nlohmann::json::parse(PublishedConfig(SimulatedCluster::Request())).contains("simulated"));
}

}  // namespace
}  // namespace shiftadd::coordinator
