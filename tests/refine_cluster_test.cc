// REFINING with guided Hessians through real processes: the same bytes for any number of workers,
// and after kill -9 of workers and coordinator in its middle.
#include <gtest/gtest.h>

#include <set>

#include "absl/strings/str_cat.h"
#include "services/rpc/rpc.h"
#include "tests/cluster.h"
#include "worker/model/testing/tiny_llama.h"

namespace shiftadd::testing {
namespace {

class RefineClusterTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    root_ = new std::string(NewTempDir("refine_model"));
    TinyLlamaOptions options;
    options.hidden = 96;
    options.intermediate = 160;
    options.blocks = 3;
    ASSERT_TRUE(WriteTinyLlamaDirectory(*root_ + "/tiny", options).ok());
  }

  static v1::JobSpec Spec() {
    v1::JobSpec spec;
    spec.set_source("file://" + *root_ + "/tiny");
    spec.mutable_recipe()->set_hessian(v1::HESSIAN_GUIDED);
    spec.mutable_recipe()->set_propagate(v1::PROPAGATE_QUANTIZED);
    spec.mutable_budget()->set_planes(2.5);
    spec.mutable_calibration()->set_sequences(20);  // two parts
    spec.mutable_calibration()->set_length(32);
    spec.mutable_evaluation()->set_sequences(6);
    spec.set_output("tiny");
    return spec;
  }

  static v1::Job RunWith(int workers) {
    Cluster cluster(*root_);
    for (int i = 0; i < workers; ++i) cluster.AddWorker();
    const auto job = cluster.Submit(Spec());
    EXPECT_TRUE(job.ok()) << job.status();
    if (!job.ok()) return {};
    const auto end = cluster.WaitForSuccess(job->job_id());
    EXPECT_TRUE(end.ok()) << end.status();
    return end.ok() ? *end : v1::Job();
  }

  static const std::string& Undisturbed() {
    static const std::string* const digest = new std::string(RunWith(1).package_digest());
    return *digest;
  }

  // Until REFINING has done `tasks` tasks, or the job has ended.
  static absl::Status WaitForTasks(Cluster* cluster, const std::string& job_id, uint32_t tasks) {
    const auto reached = cluster->WaitUntil(job_id, [tasks](const v1::Job& j) {
      return (j.state() == v1::JOB_STATE_REFINING && j.progress().tasks_done() >= tasks) ||
             j.quality().kl_unrefined() > 0 || Ended(j);
    });
    if (!reached.ok()) return reached.status();
    return reached->state() == v1::JOB_STATE_REFINING
               ? absl::OkStatus()
               : absl::FailedPreconditionError("REFINING is over already");
  }

  static std::string* root_;
};
std::string* RefineClusterTest::root_ = nullptr;

TEST_F(RefineClusterTest, SameBytesForOneTwoAndThreeWorkers) {
  ASSERT_FALSE(Undisturbed().empty());
  const v1::Job two = RunWith(2);
  EXPECT_EQ(two.package_digest(), Undisturbed());
  EXPECT_EQ(RunWith(3).package_digest(), Undisturbed());
  EXPECT_GT(two.quality().kl(), 0);
  EXPECT_GT(two.quality().kl_unrefined(), 0);
  EXPECT_NE(two.quality().kl(), two.quality().kl_unrefined());
  EXPECT_LT(two.quality().server_max_logit_error(), 0.05);
}

TEST_F(RefineClusterTest, TheReportShowsWhatIsPublished) {
  Cluster cluster(*root_);
  cluster.AddWorker();
  const auto job = cluster.Submit(Spec());
  ASSERT_TRUE(job.ok()) << job.status();
  const auto end = cluster.WaitForSuccess(job->job_id());
  ASSERT_TRUE(end.ok()) << end.status();
  grpc::ClientContext context;
  rpc::SetDeadline(&context, absl::Seconds(10));
  v1::GetJobReportRequest request;
  request.set_job_id(job->job_id());
  v1::JobReport report;
  const grpc::Status status = cluster.jobs().GetJobReport(&context, request, &report);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_EQ(report.layers_size(), 3 * 7);
  int changed = 0;
  for (const v1::LayerReport& layer : report.layers()) {
    ASSERT_TRUE(layer.has_refined()) << layer.layer().name();
    EXPECT_EQ(layer.refined().bits(), layer.chosen_bits());
    EXPECT_GT(layer.refined().guided_error(), 0);
    EXPECT_GT(layer.refined().output_error(), 0);
    EXPECT_LT(layer.refined().output_error(), 0.5);
    for (const v1::CandidateReport& c : layer.candidates()) {
      if (c.bits() != layer.chosen_bits()) continue;
      EXPECT_EQ(c.stored_bytes(), layer.refined().stored_bytes());
      changed += c.digest() != layer.refined().digest();
    }
  }
  // Block 0's q, k and v see the original's inputs; all that follows does not.
  EXPECT_GE(changed, 3 * 7 - 3);
  EXPECT_GT(report.state_seconds().at("REFINING"), 0);
}

TEST_F(RefineClusterTest, WorkersKilledInRefiningLoseOnlyTheirTasks) {
  Cluster cluster(*root_, /*lease_seconds=*/2);
  size_t victim = cluster.AddWorker();
  const auto job = cluster.Submit(Spec());
  ASSERT_TRUE(job.ok()) << job.status();
  for (const uint32_t tasks : {1u, 8u, 20u}) {  // in mid-block each time
    const absl::Status reached = WaitForTasks(&cluster, job->job_id(), tasks);
    ASSERT_TRUE(reached.ok()) << reached;
    cluster.KillWorker(victim);
    victim = cluster.AddWorker();
  }
  cluster.AddWorker();  // and one more that joins late
  EXPECT_EQ(cluster.EndsAs(job->job_id(), Undisturbed()), absl::OkStatus());
}

TEST_F(RefineClusterTest, ACoordinatorKilledInRefiningGoesOnWhereItWas) {
  Cluster cluster(*root_, /*lease_seconds=*/2);
  cluster.AddWorker();
  cluster.AddWorker();
  const auto job = cluster.Submit(Spec());
  ASSERT_TRUE(job.ok()) << job.status();
  for (const uint32_t tasks : {0u, 10u, 22u}) {
    const absl::Status reached = WaitForTasks(&cluster, job->job_id(), tasks);
    ASSERT_TRUE(reached.ok()) << reached;
    cluster.KillCoordinator();
    cluster.StartCoordinator();
  }
  EXPECT_EQ(cluster.EndsAs(job->job_id(), Undisturbed()), absl::OkStatus());
}

}  // namespace
}  // namespace shiftadd::testing
