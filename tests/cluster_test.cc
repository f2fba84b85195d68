// The whole path through real processes: submit, quantize, publish, serve; and what survives kill
// -9.
#include "tests/cluster.h"

#include <gtest/gtest.h>

#include <csignal>
#include <set>

#include "absl/strings/str_cat.h"
#include "services/rpc/rpc.h"
#include "worker/model/testing/tiny_llama.h"

namespace shiftadd::testing {
namespace {

// One model for every test of this program.
class ClusterTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    root_ = new std::string(NewTempDir("model"));
    TinyLlamaOptions options;
    options.hidden = 96;  // a tail group of 96 = 64 + 32
    options.intermediate = 160;
    options.blocks = 4;
    options.heads = 4;
    options.kv_heads = 2;
    ASSERT_TRUE(WriteTinyLlamaDirectory(*root_ + "/tiny", options).ok());
  }

  static v1::JobSpec Spec(const std::string& name, v1::Method method = v1::METHOD_SHIFTADD) {
    v1::JobSpec spec;
    spec.set_source("file://" + *root_ + "/tiny");
    spec.mutable_recipe()->set_method(method);
    spec.mutable_budget()->set_planes(3);
    spec.mutable_calibration()->set_sequences(20);
    spec.mutable_calibration()->set_length(32);
    spec.mutable_evaluation()->set_sequences(10);
    spec.set_output(name);
    return spec;
  }

  // Runs one job with `workers` workers and gives its package's digest.
  static std::string DigestWith(int workers, const v1::JobSpec& spec) {
    Cluster cluster(*root_);
    for (int i = 0; i < workers; ++i) cluster.AddWorker();
    const auto job = cluster.Submit(spec);
    EXPECT_TRUE(job.ok()) << job.status();
    if (!job.ok()) return "";
    const auto end = cluster.WaitForSuccess(job->job_id());
    EXPECT_TRUE(end.ok()) << end.status();
    return end.ok() ? end->package_digest() : "";
  }

  // The digest that every disturbed run must reach as well.
  static const std::string& Undisturbed() {
    static const std::string* const digest = new std::string(DigestWith(1, Spec("tiny")));
    return *digest;
  }

  static std::string* root_;
};
std::string* ClusterTest::root_ = nullptr;

std::string Generate(const std::string& address, const std::string& prompt) {
  auto stub = v1::GenerateService::NewStub(rpc::MakeChannel(address));
  v1::GenerateRequest request;
  request.set_text(prompt);
  request.set_max_tokens(12);
  request.set_ignore_eos(true);
  grpc::ClientContext context;
  rpc::SetDeadline(&context, absl::Seconds(20));
  auto reader = stub->Generate(&context, request);
  std::string ids;
  uint32_t count = 0;
  for (v1::GenerateResponse r; reader->Read(&r);) {
    for (const uint32_t id : r.tokens()) absl::StrAppend(&ids, id, " ");
    if (!r.finish_reason().empty()) count = r.generated_tokens();
  }
  const grpc::Status status = reader->Finish();
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(count, 12u);
  return ids;
}

TEST_F(ClusterTest, SubmitToAnswer) {
  Cluster cluster(*root_);
  cluster.AddWorker();
  cluster.AddWorker();
  const auto job = cluster.Submit(Spec("tiny:v1", v1::METHOD_RTN));
  ASSERT_TRUE(job.ok()) << job.status();
  const auto end = cluster.WaitForSuccess(job->job_id());
  ASSERT_TRUE(end.ok()) << end.status();
  EXPECT_LE(end->quality().planes(), 3.0);
  EXPECT_GT(end->quality().kl(), 0);
  EXPECT_LT(end->quality().server_max_logit_error(), 0.02);

  // Events: numbered from 1 without gaps, and through the states in their order.
  const auto events = cluster.Events(job->job_id());
  ASSERT_TRUE(events.ok()) << events.status();
  std::vector<v1::JobState> states;
  for (size_t i = 0; i < events->size(); ++i) {
    EXPECT_EQ((*events)[i].sequence(), i + 1);
    if ((*events)[i].event_case() == v1::JobEvent::kState) states.push_back((*events)[i].state());
  }
  ASSERT_GE(states.size(), 7u);
  for (size_t i = 1; i < states.size(); ++i) EXPECT_LT(states[i - 1], states[i]);
  EXPECT_EQ(states.back(), v1::JOB_STATE_SUCCEEDED);

  // Served twice: the same greedy tokens.
  std::vector<std::string> answers;
  for (int run = 0; run < 2; ++run) {
    const std::string log = cluster.dir() + "/server.log",
                      port_file = absl::StrCat(cluster.dir(), "/server", run);
    Process server({Binary("shiftadd-server"), "--package", "tiny:v1", "--packager",
                    cluster.packager_address(), "--blobs", cluster.store_dir(), "--listen",
                    "127.0.0.1:0", "--http", "127.0.0.1:0", "--port-file", port_file},
                   log);
    const std::vector<int> ports = WaitForPorts(port_file, &server, log);
    answers.push_back(Generate(absl::StrCat("127.0.0.1:", ports[0]), "hello"));
    server.Signal(SIGTERM);
    EXPECT_EQ(server.Wait(absl::Seconds(10)), 0);
  }
  EXPECT_EQ(answers[0], answers[1]);
}

TEST_F(ClusterTest, SameBytesForOneTwoAndThreeWorkers) {
  ASSERT_FALSE(Undisturbed().empty());
  EXPECT_EQ(DigestWith(2, Spec("tiny")), Undisturbed());
  EXPECT_EQ(DigestWith(3, Spec("tiny")), Undisturbed());
}

TEST_F(ClusterTest, EveryMethodPublishes) {
  std::set<std::string> digests;
  for (const v1::Method method :
       {v1::METHOD_LAT, v1::METHOD_RTN, v1::METHOD_ACC, v1::METHOD_OPTQ}) {
    digests.insert(DigestWith(1, Spec("tiny", method)));
  }
  EXPECT_EQ(digests.size(), 4u);
  EXPECT_EQ(digests.count(""), 0u);
}

TEST_F(ClusterTest, AWorkerKilledInMidTaskLosesOnlyThatTask) {
  Cluster cluster(*root_, /*lease_seconds=*/2);
  const size_t victim = cluster.AddWorker();
  const auto job = cluster.Submit(Spec("tiny"));
  ASSERT_TRUE(job.ok()) << job.status();
  const auto profiling = cluster.WaitUntil(job->job_id(), [](const v1::Job& j) {
    return j.state() == v1::JOB_STATE_PROFILING && j.progress().tasks_done() >= 1;
  });
  ASSERT_TRUE(profiling.ok()) << profiling.status();
  cluster.KillWorker(victim);
  cluster.AddWorker();
  EXPECT_EQ(cluster.EndsAs(job->job_id(), Undisturbed()), absl::OkStatus());
}

TEST_F(ClusterTest, ACoordinatorKilledGoesOnWhereItWas) {
  Cluster cluster(*root_, /*lease_seconds=*/2);
  cluster.AddWorker();
  const auto job = cluster.Submit(Spec("tiny"));
  ASSERT_TRUE(job.ok()) << job.status();
  for (const v1::JobState state :
       {v1::JOB_STATE_CALIBRATING, v1::JOB_STATE_PROFILING, v1::JOB_STATE_EVALUATING}) {
    const auto reached = cluster.WaitUntil(
        job->job_id(), [state](const v1::Job& j) { return j.state() >= state || Ended(j); });
    ASSERT_TRUE(reached.ok()) << reached.status();
    cluster.KillCoordinator();
    cluster.StartCoordinator();
  }
  EXPECT_EQ(cluster.EndsAs(job->job_id(), Undisturbed()), absl::OkStatus());
}

TEST_F(ClusterTest, CancelEndsTheJobAndFreesTheWorker) {
  Cluster cluster(*root_);
  cluster.AddWorker();
  v1::JobSpec spec = Spec("tiny");
  spec.mutable_calibration()->set_sequences(64);
  const auto job = cluster.Submit(spec);
  ASSERT_TRUE(job.ok()) << job.status();
  const auto working = cluster.WaitUntil(
      job->job_id(), [](const v1::Job& j) { return j.state() >= v1::JOB_STATE_CALIBRATING; });
  ASSERT_TRUE(working.ok()) << working.status();
  grpc::ClientContext context;
  rpc::SetDeadline(&context, absl::Seconds(10));
  v1::CancelJobRequest request;
  request.set_job_id(job->job_id());
  v1::Job cancelled;
  ASSERT_TRUE(cluster.jobs().CancelJob(&context, request, &cancelled).ok());
  const auto end = cluster.WaitForEnd(job->job_id(), absl::Seconds(30));
  ASSERT_TRUE(end.ok()) << end.status();
  EXPECT_EQ(end->state(), v1::JOB_STATE_CANCELLED);
  // The worker takes the next job.
  const auto next = cluster.Submit(Spec("tiny"));
  ASSERT_TRUE(next.ok()) << next.status();
  EXPECT_EQ(cluster.EndsAs(next->job_id(), Undisturbed()), absl::OkStatus());
}

TEST_F(ClusterTest, ASourceThatVanishedFailsTheJobAndRetryGoesOn) {
  Cluster cluster(*root_);
  cluster.AddWorker();
  v1::JobSpec spec = Spec("tiny");
  spec.set_source("file://" + *root_ + "/later");
  const auto job = cluster.Submit(spec);
  ASSERT_TRUE(job.ok()) << job.status();
  const auto failed = cluster.WaitForEnd(job->job_id());
  ASSERT_TRUE(failed.ok()) << failed.status();
  EXPECT_EQ(failed->state(), v1::JOB_STATE_FAILED);
  EXPECT_NE(failed->error().find("/later"), std::string::npos) << failed->error();
  EXPECT_EQ(RunCommand({"cp", "-r", *root_ + "/tiny", *root_ + "/later"}).exit_code, 0);
  grpc::ClientContext context;
  rpc::SetDeadline(&context, absl::Seconds(10));
  v1::RetryJobRequest request;
  request.set_job_id(job->job_id());
  v1::Job retried;
  const grpc::Status status = cluster.jobs().RetryJob(&context, request, &retried);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(cluster.EndsAs(job->job_id(), Undisturbed()), absl::OkStatus());
}

TEST_F(ClusterTest, BudgetsOfAllThreeKindsAreMet) {
  Cluster cluster(*root_);
  cluster.AddWorker();
  v1::JobSpec spec = Spec("tiny", v1::METHOD_RTN);
  const auto dry = cluster.Submit(spec, /*validate_only=*/true);
  ASSERT_TRUE(dry.ok()) << dry.status();
  const auto plan = cluster.WaitForEnd(dry->job_id());
  ASSERT_TRUE(plan.ok()) << plan.status();
  ASSERT_EQ(plan->state(), v1::JOB_STATE_SUCCEEDED) << plan->error();
  EXPECT_EQ(plan->plan().layers_size(), 4 * 7);
  EXPECT_TRUE(plan->plan().budget_feasible());
  EXPECT_TRUE(plan->package_digest().empty());

  const uint64_t middle =
      (plan->plan().minimum_package_bytes() + plan->plan().maximum_package_bytes()) / 2;
  spec.mutable_budget()->set_bytes(middle);
  auto job = cluster.Submit(spec);
  ASSERT_TRUE(job.ok()) << job.status();
  auto end = cluster.WaitForEnd(job->job_id());
  ASSERT_TRUE(end.ok() && end->state() == v1::JOB_STATE_SUCCEEDED) << end.status() << end->error();
  EXPECT_LE(end->quality().package_bytes(), middle);

  spec.mutable_budget()->set_stored_bits(3.4);
  job = cluster.Submit(spec);
  ASSERT_TRUE(job.ok()) << job.status();
  end = cluster.WaitForEnd(job->job_id());
  ASSERT_TRUE(end.ok() && end->state() == v1::JOB_STATE_SUCCEEDED) << end.status() << end->error();
  EXPECT_LE(end->quality().stored_bits(), 3.4);

  spec.mutable_budget()->set_bytes(1000);
  job = cluster.Submit(spec);
  if (job.ok()) {
    end = cluster.WaitForEnd(job->job_id());
    ASSERT_TRUE(end.ok()) << end.status();
    EXPECT_EQ(end->state(), v1::JOB_STATE_FAILED);
    EXPECT_NE(end->error().find("least"), std::string::npos) << end->error();
  }
}

// A child job has the bytes of a job that was submitted with its budget, and lives without its
// parent.
TEST_F(ClusterTest, AnotherBudgetIsPublishedFromTheSameCandidates) {
  v1::JobSpec spec = Spec("tiny");
  spec.mutable_budget()->set_planes(2.5);
  const std::string direct = DigestWith(1, spec);

  Cluster cluster(*root_);
  cluster.AddWorker();
  const auto parent = cluster.Submit(Spec("tiny"));
  ASSERT_TRUE(parent.ok()) << parent.status();
  const auto done = cluster.WaitForEnd(parent->job_id());
  ASSERT_TRUE(done.ok() && done->state() == v1::JOB_STATE_SUCCEEDED) << done->error();
  {
    grpc::ClientContext context;
    rpc::SetDeadline(&context, absl::Seconds(10));
    v1::PlanBudgetRequest request;
    request.set_job_id(parent->job_id());
    request.mutable_budget()->set_planes(1);  // and the details name the field
    v1::PlanBudgetResponse plan;
    EXPECT_EQ(cluster.jobs().PlanBudget(&context, request, &plan).error_code(),
              grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_FALSE(context.GetServerTrailingMetadata().empty());
  }
  v1::Job child;
  {
    grpc::ClientContext context;
    rpc::SetDeadline(&context, absl::Seconds(10));
    v1::PublishBudgetRequest request;
    request.set_job_id(parent->job_id());
    request.mutable_budget()->set_planes(2.5);
    request.set_output("tiny:small");
    const grpc::Status status = cluster.jobs().PublishBudget(&context, request, &child);
    ASSERT_TRUE(status.ok()) << status.error_message();
  }
  {
    grpc::ClientContext context;
    rpc::SetDeadline(&context, absl::Seconds(10));
    v1::DeleteJobRequest request;
    request.set_job_id(parent->job_id());
    google::protobuf::Empty empty;
    ASSERT_TRUE(cluster.jobs().DeleteJob(&context, request, &empty).ok());
  }
  const auto end = cluster.WaitForSuccess(child.job_id());
  ASSERT_TRUE(end.ok()) << end.status();
  EXPECT_LE(end->quality().planes(), 2.5);
  EXPECT_EQ(end->package_digest(), direct);
}

TEST_F(ClusterTest, AllocatesByWhatWasMeasured) {
  v1::JobSpec spec = Spec("tiny");
  spec.set_criterion(v1::CRITERION_MEASURED);
  const std::string one = DigestWith(1, spec);
  ASSERT_FALSE(one.empty());
  EXPECT_EQ(DigestWith(2, spec), one);
}

}  // namespace
}  // namespace shiftadd::testing
