// Other budgets over the candidates of a job: planned, and published as a child.
#include <gtest/gtest.h>

#include <algorithm>

#include "nlohmann/json.hpp"
#include "services/base/digest.h"
#include "services/coordinator/simulated_cluster.h"

namespace shiftadd::coordinator {
namespace {

using absl::StatusCode;

v1::SubmitJobRequest WithPlanes(double planes) {
  v1::SubmitJobRequest request = SimulatedCluster::Request();
  request.mutable_spec()->mutable_budget()->set_planes(planes);
  return request;
}

// Submits and runs a job of 3 planes to its end.
v1::Job Finished(SimulatedCluster* cluster, const v1::SubmitJobRequest& request = WithPlanes(3)) {
  const v1::Job job = cluster->Submit(request);
  cluster->Run(1);
  EXPECT_EQ(cluster->Get(job.job_id()).state(), v1::JOB_STATE_SUCCEEDED)
      << cluster->Get(job.job_id()).error();
  return cluster->Get(job.job_id());
}

absl::StatusOr<v1::PlanBudgetResponse> Plan(SimulatedCluster* cluster, const std::string& job_id,
                                            double planes, v1::Criterion criterion = {},
                                            std::string* fields = nullptr) {
  v1::PlanBudgetRequest request;
  request.set_job_id(job_id);
  request.mutable_budget()->set_planes(planes);
  request.set_criterion(criterion);
  std::vector<FieldFault> faults;
  auto response = cluster->core->PlanBudget(request, &faults);
  EXPECT_EQ(faults.empty(), response.status().code() != StatusCode::kInvalidArgument);
  for (const FieldFault& f : faults) {
    if (fields != nullptr) *fields += f.field + " ";
  }
  return response;
}

v1::PublishBudgetRequest Publication(const std::string& job_id, double planes = 2.5) {
  v1::PublishBudgetRequest request;
  request.set_job_id(job_id);
  request.mutable_budget()->set_planes(planes);
  request.set_output("tiny:small");
  return request;
}

absl::StatusOr<v1::Job> Publish(SimulatedCluster* cluster, const v1::PublishBudgetRequest& request,
                                std::string* fields = nullptr) {
  std::vector<FieldFault> faults;
  auto job = cluster->core->PublishBudget(request, "local", &faults);
  EXPECT_EQ(faults.empty(), job.status().code() != StatusCode::kInvalidArgument);
  for (const FieldFault& f : faults) {
    if (fields != nullptr) *fields += f.field + " ";
  }
  return job;
}

// The config of a job that was submitted with this budget.
std::string DirectConfig(double planes) {
  SimulatedCluster cluster;
  Finished(&cluster, WithPlanes(planes));
  return cluster.publisher.published.at(0).config_json();
}

TEST(PlanBudget, SaysWhatAJobOfThatBudgetGives) {
  SimulatedCluster cluster;
  const v1::Job job = Finished(&cluster);
  const auto plan = Plan(&cluster, job.job_id(), 2.5);
  ASSERT_TRUE(plan.ok()) << plan.status();
  const auto direct = nlohmann::json::parse(DirectConfig(2.5));
  ASSERT_EQ(plan->layers_size(), 12);
  double planes = 0, importance = 0;
  uint64_t stored = 0;
  for (int l = 0; l < 12; ++l) {
    EXPECT_EQ(plan->layers(l).layer(), direct["layers"][l]["name"]);
    EXPECT_EQ(plan->layers(l).bits(), direct["layers"][l]["bits"]);
    EXPECT_EQ(plan->layers(l).stored_bytes(), direct["layers"][l]["stored_bytes"]);
    planes += plan->layers(l).bits() / 12.0;
    importance += plan->layers(l).importance();
    stored += plan->layers(l).stored_bytes();
  }
  EXPECT_NEAR(plan->planes(), planes, 1e-12);
  EXPECT_LE(plan->planes(), 2.5);
  EXPECT_NEAR(plan->stored_bits(), 8.0 * static_cast<double>(stored) / (12 * 256 * 256), 1e-12);
  EXPECT_NEAR(plan->importance(), importance, 1e-9 * importance);
  EXPECT_NEAR(plan->output_error(), importance / (12 * 256 * 256), 1e-12);
  EXPECT_EQ(plan->uniform_bits(), 2u);
  EXPECT_GT(plan->importance_uniform(), plan->importance());
  EXPECT_GT(plan->package_bytes(), stored);
  EXPECT_EQ(plan->criterion(), v1::CRITERION_OUTPUT);
}

TEST(PlanBudget, BytesAreTheBlobs) {
  SimulatedCluster cluster;
  const v1::Job job = Finished(&cluster);
  v1::PlanBudgetRequest request;
  request.set_job_id(job.job_id());
  request.mutable_budget()->set_bytes(100'000);
  std::vector<FieldFault> faults;
  const auto plan = cluster.core->PlanBudget(request, &faults);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->planes(), 4.0);  // every blob has 1000 bytes, so the widest cost no more
  EXPECT_GT(plan->package_bytes(), 16 * 1000u);
  EXPECT_LE(plan->package_bytes(), 100'000u);
  // Asked for once, the sizes are known.
  cluster.publisher.fault = absl::UnavailableError("packager is away");
  EXPECT_TRUE(cluster.core->PlanBudget(request, &faults).ok());
}

TEST(PlanBudget, AnswersForEveryCriterionThatTheCandidatesHave) {
  SimulatedCluster cluster;
  const v1::Job job = Finished(&cluster);
  for (const auto criterion : {v1::CRITERION_OUTPUT, v1::CRITERION_WEIGHT, v1::CRITERION_PAPER}) {
    const auto plan = Plan(&cluster, job.job_id(), 2.5, criterion);
    ASSERT_TRUE(plan.ok()) << plan.status();
    EXPECT_EQ(plan->criterion(), criterion);
  }
  std::string fields;
  EXPECT_FALSE(Plan(&cluster, job.job_id(), 2.5, v1::CRITERION_GUIDED, &fields).ok());
  EXPECT_EQ(fields, "criterion ");
  const auto measured = Plan(&cluster, job.job_id(), 2.5, v1::CRITERION_MEASURED);
  EXPECT_EQ(measured.status().code(), StatusCode::kFailedPrecondition);
  EXPECT_NE(measured.status().message().find("was not measured"), std::string::npos);
}

TEST(PlanBudget, OfOneCandidateALayerThereIsNothingToChoose) {
  SimulatedCluster cluster;
  auto request = WithPlanes(3);
  request.mutable_spec()->mutable_recipe()->clear_candidate_bits();
  request.mutable_spec()->mutable_recipe()->add_candidate_bits(3);
  const v1::Job job = Finished(&cluster, request);
  const auto plan = Plan(&cluster, job.job_id(), 3);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->planes(), 3.0);
  ASSERT_EQ(plan->layers_size(), 12);
  for (const v1::PlannedLayer& layer : plan->layers()) EXPECT_EQ(layer.bits(), 3u);
  EXPECT_EQ(plan->uniform_bits(), 3u);
  EXPECT_EQ(plan->importance_uniform(), plan->importance());
  for (const double planes : {2.5, 3.7}) {
    std::string fields;
    EXPECT_FALSE(Plan(&cluster, job.job_id(), planes, v1::CRITERION_UNSPECIFIED, &fields).ok());
    EXPECT_EQ(fields, "budget.planes ");
  }
}

TEST(PlanBudget, SaysWhatIsInTheWay) {
  SimulatedCluster cluster;
  EXPECT_EQ(Plan(&cluster, "job-none", 3).status().code(), StatusCode::kNotFound);
  const v1::Job job = cluster.Submit(SimulatedCluster::Request());
  EXPECT_EQ(Plan(&cluster, job.job_id(), 3).status().code(), StatusCode::kFailedPrecondition);
  cluster.RunTo(job.job_id(), v1::JOB_STATE_PROFILING);
  for (v1::TaskKind done = v1::TASK_KIND_UNSPECIFIED; done != v1::TASK_KIND_PROFILE;) {
    const auto task = cluster.Lease("w0");
    ASSERT_TRUE(task.has_value());
    ASSERT_TRUE(cluster.Complete("w0", *task).ok());
    done = task->kind();
  }
  const auto early = Plan(&cluster, job.job_id(), 3);
  EXPECT_EQ(early.status().code(), StatusCode::kFailedPrecondition);
  EXPECT_NE(early.status().message().find("is PROFILING: 2 of 12 layers have candidates"),
            std::string::npos)
      << early.status();
  EXPECT_NE(early.status().message().find("wait until"), std::string::npos);
  const v1::Job cancelled = cluster.Submit(SimulatedCluster::Request());
  ASSERT_TRUE(cluster.core->Cancel(cancelled.job_id()).ok());
  const auto never = Plan(&cluster, cancelled.job_id(), 3);
  EXPECT_NE(never.status().message().find("submit it again"), std::string::npos) << never.status();
  cluster.Run(1);
  EXPECT_TRUE(Plan(&cluster, job.job_id(), 3).ok());
  std::string fields;
  EXPECT_FALSE(Plan(&cluster, job.job_id(), 1.9, static_cast<v1::Criterion>(17), &fields).ok());
  EXPECT_EQ(fields, "budget.planes criterion ");
  v1::PlanBudgetRequest request;
  request.set_job_id(job.job_id());
  request.mutable_budget()->set_stored_bits(2);
  std::vector<FieldFault> faults;
  const auto infeasible = cluster.core->PlanBudget(request, &faults);
  EXPECT_EQ(infeasible.status().code(), StatusCode::kFailedPrecondition);
  EXPECT_NE(infeasible.status().message().find("the least is 2.09"), std::string::npos)
      << infeasible.status();

  auto dry = SimulatedCluster::Request();
  dry.set_validate_only(true);
  const v1::Job checked = Finished(&cluster, dry);
  EXPECT_NE(Plan(&cluster, checked.job_id(), 3).status().message().find("dry run"),
            std::string::npos);
}

TEST(PlanBudget, AJobThatFailedAfterProfilingHasItsCandidates) {
  SimulatedCluster cluster;
  auto request = SimulatedCluster::Request();
  // Enough by the plan's estimate of the package, too little by its blobs.
  request.mutable_spec()->mutable_budget()->set_bytes(1'000'000);
  const v1::Job job = cluster.Submit(request);
  cluster.RunTo(job.job_id(), v1::JOB_STATE_EVALUATING);
  const auto task = cluster.Lease("w0");
  ASSERT_TRUE(cluster.Fail("w0", *task, StatusCode::kDataLoss, "blob is damaged").ok());
  ASSERT_TRUE(cluster.core->Tick().ok());
  ASSERT_EQ(cluster.Get(job.job_id()).state(), v1::JOB_STATE_FAILED);
  EXPECT_TRUE(Plan(&cluster, job.job_id(), 3).ok());
}

// A model of 224 layers, as Llama-7B has, at 3 and at 7 widths.
TEST(PlanBudget, AnswersForAModelOfManyLayers) {
  for (const uint32_t widest : {4u, 8u}) {
    SimulatedCluster cluster(SimulatedModel{.blocks = 112});
    auto request = WithPlanes(2.5);
    for (uint32_t q = 2; q <= widest; ++q) {
      request.mutable_spec()->mutable_recipe()->add_candidate_bits(q);
    }
    const v1::Job job = Finished(&cluster, request);
    double last = 1e300;
    for (const double planes : {2.0, 2.25, 2.5, 3.0, 4.0}) {
      const auto plan = Plan(&cluster, job.job_id(), planes);
      ASSERT_TRUE(plan.ok()) << plan.status();
      EXPECT_EQ(plan->layers_size(), 224);
      EXPECT_LE(plan->planes(), planes);
      EXPECT_LT(plan->importance(), last);  // more bits never cost
      last = plan->importance();
    }
  }
}

TEST(PublishBudget, GivesWhatAJobOfThatBudgetGives) {
  SimulatedCluster cluster;
  const v1::Job parent = Finished(&cluster);
  auto request = Publication(parent.job_id());
  const auto submitted = Publish(&cluster, request);
  ASSERT_TRUE(submitted.ok()) << submitted.status();
  EXPECT_EQ(submitted->state(), v1::JOB_STATE_QUEUED);
  EXPECT_EQ(submitted->spec().parent_job_id(), parent.job_id());
  EXPECT_EQ(submitted->device_class(), parent.device_class());
  EXPECT_EQ(submitted->plan().layers_size(), 12);
  cluster.Run(2);
  const v1::Job child = cluster.Get(submitted->job_id());
  ASSERT_EQ(child.state(), v1::JOB_STATE_SUCCEEDED) << child.error();
  EXPECT_EQ(child.progress().ratio(), 1);
  ASSERT_EQ(cluster.publisher.published.size(), 2u);
  EXPECT_EQ(cluster.publisher.published[1].reference(), "tiny:small");
  EXPECT_EQ(cluster.publisher.published[1].config_json(), DirectConfig(2.5));
  const auto provenance = nlohmann::json::parse(cluster.publisher.published[1].provenance_json());
  EXPECT_EQ(provenance["parent_job"], parent.job_id());
  EXPECT_EQ(provenance["workers"], nlohmann::json({"w0", "w1"}));

  std::vector<v1::JobState> states;
  for (const v1::JobEvent& e : cluster.Events(child.job_id())) {
    if (e.event_case() == v1::JobEvent::kState) states.push_back(e.state());
  }
  EXPECT_EQ(states, (std::vector<v1::JobState>{v1::JOB_STATE_QUEUED, v1::JOB_STATE_ALLOCATING,
                                               v1::JOB_STATE_EVALUATING, v1::JOB_STATE_PACKAGING,
                                               v1::JOB_STATE_SUCCEEDED}));
  // Its own work: the source hashed, two parts of held-out windows sampled, and evaluated by two
  // workers: 9, 7 and 2 windows.
  const auto report = cluster.core->Report(child.job_id());
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(report->kind_seconds().size(), 3u);
  EXPECT_EQ(report->kind_seconds().count("HASH"), 1u);
  EXPECT_EQ(report->kind_seconds().count("CALIBRATE"), 1u);
  EXPECT_EQ(report->kind_seconds().count("EVALUATE"), 1u);
  EXPECT_EQ(report->stage_seconds().at("load"), 6 * 0.25);
  EXPECT_EQ(report->layers(0).worker(), "w0");
  // Scratch is the child's own.
  const auto tasks = cluster.store->ListTasks(child.job_id(), true);
  ASSERT_TRUE(tasks.ok());
  for (const TaskRecord& t : *tasks) {
    v1::Task task;
    ASSERT_TRUE(task.ParseFromString(t.payload));
    EXPECT_EQ(task.context().job_id(), child.job_id());
  }
}

TEST(PublishBudget, IsNotMeasuredAgainstAnotherSource) {
  SimulatedCluster cluster;
  const v1::Job parent = Finished(&cluster);
  cluster.source_content = "other weights in the same file";
  const auto child = Publish(&cluster, Publication(parent.job_id()));
  ASSERT_TRUE(child.ok()) << child.status();
  cluster.Run(1);
  const v1::Job failed = cluster.Get(child->job_id());
  EXPECT_EQ(failed.state(), v1::JOB_STATE_FAILED);
  EXPECT_NE(failed.error().find("model.gguf has changed since it was quantized"), std::string::npos)
      << failed.error();
  EXPECT_EQ(cluster.publisher.published.size(), 1u);
}

TEST(PublishBudget, DoesNotNeedItsParent) {
  SimulatedCluster cluster;
  const v1::Job parent = Finished(&cluster);
  const auto child = Publish(&cluster, Publication(parent.job_id()));
  ASSERT_TRUE(child.ok()) << child.status();
  auto parents = cluster.publisher.pins[parent.job_id()];
  auto childs = cluster.publisher.pins[child->job_id()];
  std::sort(parents.begin(), parents.end());
  std::sort(childs.begin(), childs.end());
  EXPECT_EQ(childs, parents);
  ASSERT_TRUE(cluster.core->Delete(parent.job_id()).ok());
  cluster.Restart();
  cluster.Run(1);
  EXPECT_EQ(cluster.Get(child->job_id()).state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(cluster.publisher.published[1].config_json(), DirectConfig(2.5));
  // It can be a parent in turn.
  EXPECT_TRUE(Plan(&cluster, child->job_id(), 3.5).ok());
  const auto grandchild = Publish(&cluster, Publication(child->job_id(), 3));
  ASSERT_TRUE(grandchild.ok()) << grandchild.status();
  ASSERT_TRUE(cluster.core->Delete(child->job_id()).ok());
  cluster.Run(1);
  EXPECT_EQ(cluster.Get(grandchild->job_id()).state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(cluster.publisher.published[2].config_json(), DirectConfig(3));
}

TEST(PublishBudget, IsIdempotentByRequestId) {
  SimulatedCluster cluster;
  const v1::Job parent = Finished(&cluster);
  auto request = Publication(parent.job_id());
  request.set_request_id("once");
  const auto child = Publish(&cluster, request);
  ASSERT_TRUE(child.ok());
  EXPECT_EQ(Publish(&cluster, request)->job_id(), child->job_id());
  EXPECT_EQ(cluster.publisher.pins.size(), 2u);  // the parent's and the child's
  request.set_uniform(true);
  EXPECT_EQ(Publish(&cluster, request).status().code(), StatusCode::kAlreadyExists);
  request.set_uniform(false);
  ASSERT_TRUE(cluster.core->Delete(parent.job_id()).ok());
  EXPECT_EQ(Publish(&cluster, request)->job_id(), child->job_id());
  // Without one every call is a job of its own.
  EXPECT_EQ(Publish(&cluster, Publication(parent.job_id())).status().code(), StatusCode::kNotFound);
}

TEST(PublishBudget, MayBeMeasuredOnOtherWindows) {
  SimulatedCluster cluster(SimulatedModel{.text_windows = 60});
  const v1::Job parent = Finished(&cluster);
  auto request = Publication(parent.job_id());
  request.mutable_evaluation()->set_text_digest(Sha256Digest("wikitext"));
  request.mutable_evaluation()->set_sequences(17);
  request.mutable_evaluation()->set_length(128);
  request.mutable_evaluation()->set_skip(24);
  request.set_uniform(true);
  const auto child = Publish(&cluster, request);
  ASSERT_TRUE(child.ok()) << child.status();
  ASSERT_TRUE(cluster.core->Tick().ok());
  const auto view = JobView::Read(cluster.store.get(), child->job_id());
  uint32_t windows = 0;
  for (const ViewedTask* t : view->OfKind(v1::TASK_KIND_CALIBRATE)) {
    if (t->record.inherited()) {
      EXPECT_FALSE(t->task.calibrate().held_out());
      continue;
    }
    EXPECT_TRUE(t->task.calibrate().held_out());
    EXPECT_EQ(t->task.calibrate().length(), 128u);
    EXPECT_EQ(t->task.calibrate().text_first(), 24u + windows);
    windows += t->task.calibrate().count();
  }
  EXPECT_EQ(windows, 17u);
  cluster.Run(1);
  const v1::Job done = cluster.Get(child->job_id());
  ASSERT_EQ(done.state(), v1::JOB_STATE_SUCCEEDED) << done.error();
  EXPECT_EQ(done.quality().uniform_bits(), 2u);
  EXPECT_EQ(done.quality().planes(), 2.0);
  EXPECT_EQ(done.quality().window_length(), 128u);

  request.mutable_evaluation()->set_skip(50);  // too little is left of the text
  const auto failing = Publish(&cluster, request);
  ASSERT_TRUE(failing.ok());
  cluster.Run(1);
  EXPECT_EQ(cluster.Get(failing->job_id()).state(), v1::JOB_STATE_FAILED);
  EXPECT_NE(cluster.Get(failing->job_id())
                .error()
                .find("gives 10 windows of 128 tokens, asked for 17 behind the 50 of "
                      "evaluation.skip: give"),
            std::string::npos)
      << cluster.Get(failing->job_id()).error();
}

TEST(PublishBudget, NamesEveryFaultAtOnce) {
  SimulatedCluster cluster;
  const v1::Job parent = Finished(&cluster);
  auto request = Publication(parent.job_id(), 1);
  request.set_output("Tiny");
  request.set_request_id("not this one");
  request.mutable_evaluation()->set_length(8192);  // the model was made for 4096
  request.mutable_evaluation()->set_skip(1);
  request.set_criterion(v1::CRITERION_GUIDED);
  std::string fields;
  EXPECT_FALSE(Publish(&cluster, request, &fields).ok());
  EXPECT_EQ(fields, "budget.planes criterion evaluation.skip output request_id evaluation.length ");
  EXPECT_EQ(cluster.publisher.pins.size(), 1u);
}

TEST(PublishBudget, IsRefusedWhereTheCandidatesDoNotServe) {
  SimulatedCluster cluster(SimulatedModel{.blocks = 2});
  const v1::Job running = cluster.Submit(SimulatedCluster::Request());
  const auto refusal = [&](const std::string& job_id, double planes = 2.5) {
    const auto child = Publish(&cluster, Publication(job_id, planes));
    EXPECT_EQ(child.status().code(), StatusCode::kFailedPrecondition) << child.status();
    return std::string(child.status().message());
  };
  EXPECT_NE(refusal(running.job_id()).find("state found INGESTING, expected SUCCEEDED"),
            std::string::npos);
  cluster.Run(1);
  EXPECT_EQ(Publish(&cluster, Publication("job-none")).status().code(), StatusCode::kNotFound);
  auto stored = Publication(running.job_id());
  stored.mutable_budget()->set_stored_bits(2);
  EXPECT_EQ(Publish(&cluster, stored).status().code(), StatusCode::kFailedPrecondition);

  cluster.publisher.fault = absl::UnavailableError("connection refused");
  EXPECT_EQ(Publish(&cluster, Publication(running.job_id())).status().code(),
            StatusCode::kUnavailable);
  cluster.publisher.fault = absl::OkStatus();
  cluster.publisher.gone = {Sha256Digest("blocks.1.attn.q@2")};
  EXPECT_NE(refusal(running.job_id()).find("no longer kept"), std::string::npos);
  cluster.publisher.gone.clear();

  auto dry = SimulatedCluster::Request();
  dry.set_validate_only(true);
  EXPECT_NE(refusal(Finished(&cluster, dry).job_id()).find("dry run"), std::string::npos);
  auto refined = SimulatedCluster::Request();
  refined.mutable_spec()->mutable_recipe()->set_propagate(v1::PROPAGATE_QUANTIZED);
  EXPECT_NE(refusal(Finished(&cluster, refined).job_id()).find("were refined"), std::string::npos);
  // Nothing was begun.
  EXPECT_EQ(cluster.publisher.pins.size(), 2u);  // of those that have finished
  EXPECT_EQ(cluster.core->List({})->jobs_size(), 3);
}

// An upgrade between the two: the package must not say that its layers are of the new version.
TEST(PublishBudget, CandidatesOfAnotherQuantizerAreNotPublished) {
  SimulatedCluster cluster;
  const v1::Job parent = Finished(&cluster);
  cluster.Restart("0-of-tomorrow");
  const auto child = Publish(&cluster, Publication(parent.job_id()));
  EXPECT_EQ(child.status().code(), StatusCode::kFailedPrecondition);
  EXPECT_NE(child.status().message().find("this cluster runs 0-of-tomorrow"), std::string::npos)
      << child.status();
  EXPECT_TRUE(Plan(&cluster, parent.job_id(), 2.5).ok());  // looking is allowed
}

TEST(PublishBudget, SurvivesACrashInEveryState) {
  const std::string expected = DirectConfig(2.5);
  for (const auto state : {v1::JOB_STATE_QUEUED, v1::JOB_STATE_ALLOCATING, v1::JOB_STATE_EVALUATING,
                           v1::JOB_STATE_PACKAGING}) {
    SimulatedCluster cluster;
    const v1::Job parent = Finished(&cluster);
    const auto child = Publish(&cluster, Publication(parent.job_id()));
    ASSERT_TRUE(child.ok());
    if (state == v1::JOB_STATE_PACKAGING) {
      cluster.RunTo(child->job_id(), v1::JOB_STATE_EVALUATING, 2);
      cluster.publisher.fault = absl::UnavailableError("packager is away");
    }
    if (state != v1::JOB_STATE_QUEUED) cluster.RunTo(child->job_id(), state, 2);
    ASSERT_EQ(cluster.Get(child->job_id()).state(), state);
    cluster.Restart();
    ASSERT_EQ(cluster.Get(child->job_id()).state(), state);
    cluster.publisher.fault = absl::OkStatus();
    cluster.Lease("w0");  // killed with it
    cluster.Restart();
    cluster.clock->Advance(absl::Seconds(62));
    cluster.Run(2);
    ASSERT_EQ(cluster.Get(child->job_id()).state(), v1::JOB_STATE_SUCCEEDED)
        << v1::JobState_Name(state) << cluster.Get(child->job_id()).error();
    EXPECT_EQ(cluster.publisher.published.back().config_json(), expected);
    cluster.Events(child->job_id());  // without gaps
  }
}

TEST(PublishBudget, ARestartAfterEveryCompletionLosesNothing) {
  SimulatedCluster cluster;
  const v1::Job parent = Finished(&cluster);
  ASSERT_TRUE(Publish(&cluster, Publication(parent.job_id())).ok());
  int tasks = 0;
  while (const auto task = cluster.Lease("w0")) {
    cluster.Restart();  // between lease and completion
    ASSERT_TRUE(cluster.Complete("w0", *task).ok());
    cluster.Restart();                                // between completion and planning
    ASSERT_TRUE(cluster.Complete("w0", *task).ok());  // the answer was lost: repeated
    ASSERT_LT(++tasks, 10);
  }
  EXPECT_EQ(tasks, 5);
  ASSERT_EQ(cluster.publisher.published.size(), 2u);
  EXPECT_EQ(cluster.publisher.published[1].config_json(), DirectConfig(2.5));
}

TEST(PublishBudget, CanBeCancelledAndRetried) {
  SimulatedCluster cluster;
  const v1::Job parent = Finished(&cluster);
  const auto cancelled = Publish(&cluster, Publication(parent.job_id()));
  ASSERT_TRUE(cluster.core->Cancel(cancelled->job_id()).ok());
  cluster.Run(1);
  EXPECT_EQ(cluster.Get(cancelled->job_id()).state(), v1::JOB_STATE_CANCELLED);
  const auto failing = Publish(&cluster, Publication(parent.job_id()));
  const auto task = cluster.Lease("w0");
  ASSERT_TRUE(cluster.Fail("w0", *task, StatusCode::kInvalidArgument, "no").ok());
  ASSERT_TRUE(cluster.core->Tick().ok());
  ASSERT_EQ(cluster.Get(failing->job_id()).state(), v1::JOB_STATE_FAILED);
  ASSERT_TRUE(cluster.core->Retry(failing->job_id()).ok());
  cluster.Run(1);
  EXPECT_EQ(cluster.Get(failing->job_id()).state(), v1::JOB_STATE_SUCCEEDED);
}

TEST(Submit, AParentIsNotTheUsersToSet) {
  SimulatedCluster cluster;
  auto request = SimulatedCluster::Request();
  request.mutable_spec()->set_parent_job_id("job-a");
  std::vector<FieldFault> faults;
  EXPECT_FALSE(cluster.core->Submit(request, "local", &faults).ok());
  ASSERT_EQ(faults.size(), 1u);
  EXPECT_EQ(faults[0].field, "spec.parent_job_id");
}

}  // namespace
}  // namespace shiftadd::coordinator
