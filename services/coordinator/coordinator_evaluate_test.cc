// Jobs that measure a published package.
#include <gtest/gtest.h>

#include <algorithm>

#include "nlohmann/json.hpp"
#include "services/base/digest.h"
#include "services/coordinator/simulated_cluster.h"

namespace shiftadd::coordinator {
namespace {

using absl::StatusCode;

class EvaluatePackageTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const v1::Job job = cluster_.Submit(SimulatedCluster::Request());
    cluster_.Run(1);
    ASSERT_EQ(cluster_.Get(job.job_id()).state(), v1::JOB_STATE_SUCCEEDED);
    quantized_ = job.job_id();
  }

  static v1::EvaluatePackageRequest Request() {
    v1::EvaluatePackageRequest request;
    request.set_package("tiny:latest");
    request.mutable_evaluation()->set_text_digest(Sha256Digest("text"));
    request.mutable_evaluation()->set_sequences(5);
    request.mutable_evaluation()->set_length(64);
    return request;
  }

  absl::StatusOr<v1::Job> Evaluate(const v1::EvaluatePackageRequest& request,
                                   std::string* fields = nullptr) {
    std::vector<FieldFault> faults;
    auto job = cluster_.core->EvaluatePackage(request, "local", &faults);
    for (const FieldFault& f : faults) {
      if (fields != nullptr) *fields += f.field + " ";
    }
    if (job.ok()) {
      EXPECT_TRUE(cluster_.core->Tick().ok());
    }
    return job;
  }

  v1::Job Finished(const v1::EvaluatePackageRequest& request, int workers = 1) {
    const auto job = Evaluate(request);
    EXPECT_TRUE(job.ok()) << job.status();
    if (!job.ok()) return {};
    cluster_.Run(workers);
    return cluster_.Get(job->job_id());
  }

  SimulatedCluster cluster_;
  std::string quantized_;
};

TEST_F(EvaluatePackageTest, GoesFromWindowsToFiguresThatStayWithThePackage) {
  const v1::Job job = Finished(Request());
  ASSERT_EQ(job.state(), v1::JOB_STATE_SUCCEEDED) << job.error();
  const std::string digest = cluster_.Get(quantized_).package_digest();
  EXPECT_EQ(job.spec().evaluated_package(), "tiny@" + digest);
  EXPECT_EQ(job.spec().source(), "file:///models/tiny");
  EXPECT_TRUE(job.package_digest().empty()) << "it publishes nothing";
  const v1::PackageEvaluation& e = job.package_evaluation();
  EXPECT_EQ(e.windows(), 5u);
  EXPECT_EQ(e.tokens(), 5u * 63);
  EXPECT_NEAR(e.kl().value(), 0.5 + 0.02, 1e-9);  // .5 + .01 i
  EXPECT_NEAR(e.kl_max().value(), 0.62 + 4, 1e-6);
  EXPECT_NEAR(e.top1_agreement().value(), 60.0 / 63, 1e-9);
  EXPECT_GT(e.kl().standard_error(), 0);
  EXPECT_EQ(e.text_digest(), Sha256Digest("text"));
  EXPECT_EQ(e.device_class(), "cpu-avx2");
  EXPECT_EQ(e.server_max_logit_error(), 0.001);
  ASSERT_EQ(cluster_.publisher.attached.size(), 1u);
  EXPECT_EQ(cluster_.publisher.attached[0].first, "tiny@" + digest);
  const auto document = nlohmann::json::parse(cluster_.publisher.attached[0].second);
  EXPECT_EQ(document["kl"]["value"], e.kl().value());
  EXPECT_EQ(document.dump().find(job.job_id()), std::string::npos);
  bool told = false;
  for (const v1::JobEvent& event : cluster_.Events(job.job_id())) {
    told |= event.has_package_evaluation();
  }
  EXPECT_TRUE(told);
  EXPECT_EQ(cluster_.publisher.published.size(), 1u);
  EXPECT_EQ(cluster_.publisher.pins.count(job.job_id()), 0u) << "the pins are another's again";
  const auto report = cluster_.core->Report(job.job_id());
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_GT(report->kind_seconds().count("EVALUATE"), 0u);
}

TEST_F(EvaluatePackageTest, ManyWorkersFindWhatOneFinds) {
  v1::EvaluatePackageRequest request = Request();
  request.mutable_evaluation()->set_sequences(3 * kMicrobatch + 1);
  const v1::Job one = Finished(request);
  request.set_priority(1);
  const v1::Job three = Finished(request, 3);
  ASSERT_EQ(three.state(), v1::JOB_STATE_SUCCEEDED) << three.error();
  EXPECT_EQ(three.package_evaluation().windows(), 3 * kMicrobatch + 1);
  EXPECT_EQ(one.package_evaluation().SerializeAsString(),
            three.package_evaluation().SerializeAsString());
  ASSERT_EQ(cluster_.publisher.attached.size(), 2u);
  EXPECT_EQ(cluster_.publisher.attached[0].second, cluster_.publisher.attached[1].second);
}

TEST_F(EvaluatePackageTest, TakesTheWholeTextAndTheContextByDefault) {
  v1::EvaluatePackageRequest request = Request();
  request.mutable_evaluation()->set_sequences(0);
  request.mutable_evaluation()->set_length(0);
  request.mutable_evaluation()->set_skip(990);
  const v1::Job job = Finished(request);
  ASSERT_EQ(job.state(), v1::JOB_STATE_SUCCEEDED) << job.error();
  EXPECT_EQ(job.package_evaluation().windows(), 10u);  // the text has 1000
  EXPECT_EQ(job.package_evaluation().window_length(), 2048u);
  EXPECT_EQ(job.package_evaluation().skip(), 990u);
}

TEST_F(EvaluatePackageTest, NamesEveryFaultOfTheRequest) {
  v1::EvaluatePackageRequest request;
  request.set_package("Tiny!");
  request.mutable_evaluation()->set_length(4);
  request.mutable_evaluation()->set_sequences(5000);
  request.set_priority(101);
  request.set_source("hf:org/model");
  request.set_request_id("a b");
  std::string fields;
  EXPECT_EQ(Evaluate(request, &fields).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(fields,
            "package evaluation.text_digest evaluation.sequences evaluation.length priority source "
            "request_id ");
  request = Request();
  request.mutable_evaluation()->set_length(8192);
  fields.clear();
  const absl::Status longer = Evaluate(request, &fields).status();
  EXPECT_EQ(fields, "evaluation.length ");
  EXPECT_NE(longer.message().find("context of 4096"), std::string::npos) << longer;
  request = Request();
  request.set_package("other:latest");
  EXPECT_EQ(Evaluate(request).status().code(), StatusCode::kNotFound);
}

TEST_F(EvaluatePackageTest, NeedsToKnowTheSource) {
  cluster_.publisher.published.back().set_provenance_json("{}");
  v1::EvaluatePackageRequest request = Request();
  const absl::Status status = Evaluate(request).status();
  EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
  EXPECT_NE(status.message().find("give source"), std::string::npos) << status;
  request.set_source("file:///elsewhere/tiny");
  EXPECT_EQ(Finished(request).state(), v1::JOB_STATE_SUCCEEDED);
}

TEST_F(EvaluatePackageTest, ASourceThatIsAnotherNowFailsTheJob) {
  cluster_.source_content = "changed";
  const v1::Job job = Finished(Request());
  EXPECT_EQ(job.state(), v1::JOB_STATE_FAILED);
  EXPECT_NE(job.error().find("has changed since it was quantized"), std::string::npos);
}

TEST_F(EvaluatePackageTest, AShortTextFailsTheJobInNumbers) {
  v1::EvaluatePackageRequest request = Request();
  request.mutable_evaluation()->set_skip(998);
  v1::Job job = Finished(request);
  EXPECT_EQ(job.state(), v1::JOB_STATE_FAILED);
  EXPECT_NE(job.error().find("the text gives 2 windows of 64 tokens behind the 998 of "
                             "evaluation.skip, asked for 5"),
            std::string::npos)
      << job.error();
  request.mutable_evaluation()->set_skip(5000);
  request.mutable_evaluation()->set_sequences(0);
  job = Finished(request);
  EXPECT_EQ(job.state(), v1::JOB_STATE_FAILED) << "all of nothing is nothing";
}

TEST_F(EvaluatePackageTest, WaitsForAPackagerThatIsAway) {
  const auto job = Evaluate(Request());
  ASSERT_TRUE(job.ok()) << job.status();
  cluster_.RunTo(job->job_id(), v1::JOB_STATE_EVALUATING);
  cluster_.publisher.fault = absl::UnavailableError("away");
  cluster_.Run(1);
  EXPECT_EQ(cluster_.Get(job->job_id()).state(), v1::JOB_STATE_PACKAGING);
  cluster_.publisher.fault = absl::OkStatus();
  cluster_.clock->Advance(absl::Seconds(5));
  cluster_.Run(1);
  EXPECT_EQ(cluster_.Get(job->job_id()).state(), v1::JOB_STATE_SUCCEEDED);
}

TEST_F(EvaluatePackageTest, ARestartLosesNothing) {
  const auto job = Evaluate(Request());
  cluster_.RunTo(job->job_id(), v1::JOB_STATE_EVALUATING);
  cluster_.Restart();
  cluster_.Run(1);
  EXPECT_EQ(cluster_.Get(job->job_id()).state(), v1::JOB_STATE_SUCCEEDED);
}

TEST_F(EvaluatePackageTest, TheSameRequestIsTheSameJob) {
  v1::EvaluatePackageRequest request = Request();
  request.set_request_id("once");
  const auto first = Evaluate(request), second = Evaluate(request);
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(first->job_id(), second->job_id());
  request.mutable_evaluation()->set_length(128);
  EXPECT_EQ(Evaluate(request).status().code(), StatusCode::kAlreadyExists);
}

TEST_F(EvaluatePackageTest, CountsAmongTheJobsThatMayBeUnfinished) {
  CoordinatorOptions options;
  options.max_jobs = 3;
  options.max_jobs_per_owner = 2;
  Coordinator core(cluster_.store.get(), &cluster_.publisher, cluster_.scratch.get(),
                   cluster_.clock.get(), options);
  const size_t pinned = cluster_.publisher.pins.size();
  std::vector<FieldFault> faults;
  int number = 0;
  const auto evaluate = [&](const std::string& owner) {
    v1::EvaluatePackageRequest request = Request();
    request.set_request_id("e" + std::to_string(number++));
    return core.EvaluatePackage(request, owner, &faults);
  };
  const auto first = evaluate("ann");
  ASSERT_TRUE(first.ok()) << first.status();
  ASSERT_TRUE(core.Submit(SimulatedCluster::Request(), "ann", &faults).ok());
  // Two of hers, of either kind.
  const absl::Status third = evaluate("ann").status();
  EXPECT_EQ(third.code(), StatusCode::kResourceExhausted);
  EXPECT_NE(third.message().find("ann has 2 jobs"), std::string::npos) << third;
  EXPECT_EQ(core.Submit(SimulatedCluster::Request(), "ann", &faults).status().code(),
            StatusCode::kResourceExhausted);
  ASSERT_TRUE(evaluate("bob").ok());
  const absl::Status fourth = evaluate("eve").status();
  EXPECT_EQ(fourth.code(), StatusCode::kResourceExhausted);
  EXPECT_NE(fourth.message().find("--max-jobs)"), std::string::npos) << fourth;
  EXPECT_EQ(cluster_.publisher.pins.size(), pinned + 2) << "what is refused keeps no blobs";
  // What was taken before is answered again, and what has ended makes room.
  number = 0;
  EXPECT_EQ(evaluate("ann")->job_id(), first->job_id());
  ASSERT_TRUE(core.Cancel(first->job_id()).ok());
  number = 5;
  EXPECT_TRUE(evaluate("ann").ok());
}

TEST_F(EvaluatePackageTest, HasNoCandidatesToPlanWith) {
  const v1::Job job = Finished(Request());
  std::vector<FieldFault> faults;
  v1::PlanBudgetRequest plan;
  plan.set_job_id(job.job_id());
  plan.mutable_budget()->set_planes(3);
  EXPECT_EQ(cluster_.core->PlanBudget(plan, &faults).status().code(),
            StatusCode::kFailedPrecondition);
  v1::PublishBudgetRequest publish;
  publish.set_job_id(job.job_id());
  publish.mutable_budget()->set_planes(3);
  publish.set_output("tiny:other");
  const absl::Status status = cluster_.core->PublishBudget(publish, "local", &faults).status();
  EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
  EXPECT_NE(status.message().find("measures a package"), std::string::npos) << status;
}

TEST_F(EvaluatePackageTest, ResultsWithoutSingleTokensAreRefused) {
  const auto job = Evaluate(Request());
  ASSERT_TRUE(job.ok());
  cluster_.RunTo(job->job_id(), v1::JOB_STATE_EVALUATING);
  const auto task = cluster_.Lease("w0");
  ASSERT_TRUE(task.has_value());
  v1::CompleteTaskRequest request;
  request.set_worker_id("w0");
  request.set_task_id(task->task_id());
  request.set_lease_epoch(task->lease_epoch());
  *request.mutable_result() = cluster_.Answer(*task);
  request.mutable_result()->mutable_evaluate()->mutable_windows(0)->clear_token_kl();
  EXPECT_EQ(cluster_.core->Complete(request).code(), StatusCode::kInvalidArgument);
}

TEST_F(EvaluatePackageTest, NobodyElseMaySetThePackage) {
  v1::SubmitJobRequest request = SimulatedCluster::Request();
  request.mutable_spec()->set_evaluated_package("tiny:latest");
  std::vector<FieldFault> faults;
  EXPECT_FALSE(cluster_.core->Submit(request, "local", &faults).ok());
  ASSERT_EQ(faults.size(), 1u);
  EXPECT_EQ(faults[0].field, "spec.evaluated_package");
}

}  // namespace
}  // namespace shiftadd::coordinator
