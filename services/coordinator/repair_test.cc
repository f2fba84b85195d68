// Blobs of a job that are lost while it runs.
#include "services/coordinator/repair.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "absl/strings/str_cat.h"
#include "services/base/digest.h"
#include "services/coordinator/simulated_cluster.h"

namespace shiftadd::coordinator {
namespace {

using ::testing::HasSubstr;

class RepairTest : public ::testing::Test {
 protected:
  absl::Status Lose(const std::string& worker, const v1::Task& task,
                    const std::vector<std::string>& digests) {
    v1::FailTaskRequest request;
    request.set_worker_id(worker);
    request.set_task_id(task.task_id());
    request.set_lease_epoch(task.lease_epoch());
    request.set_code(static_cast<int>(absl::StatusCode::kNotFound));
    request.set_message("blob is not in the store");
    for (const std::string& digest : digests) request.add_lost_digests(digest);
    return cluster_.core->Fail(request);
  }
  // A PROFILE task of a job that has come so far, held by w0.
  v1::Task Profile() {
    job_ = cluster_.Submit(SimulatedCluster::Request()).job_id();
    cluster_.RunTo(job_, v1::JOB_STATE_PROFILING);
    std::optional<v1::Task> task = cluster_.Lease("w0");
    while (task.has_value() && task->kind() != v1::TASK_KIND_PROFILE) {
      EXPECT_TRUE(cluster_.Complete("w0", *task).ok());
      task = cluster_.Lease("w0");
    }
    return *task;
  }
  std::string Published() {
    cluster_.Run(2);
    const v1::Job job = cluster_.Get(job_);
    EXPECT_EQ(job.state(), v1::JOB_STATE_SUCCEEDED) << job.error();
    return job.package_digest();
  }
  static std::string Undisturbed() {
    SimulatedCluster cluster;
    const std::string job = cluster.Submit(SimulatedCluster::Request()).job_id();
    cluster.Run(1);
    return cluster.Get(job).package_digest();
  }

  SimulatedCluster cluster_;
  std::string job_;
};

// A part of a digest would be found in what any task has stored.
TEST_F(RepairTest, WhatIsNoDigestIsNotMadeAgain) {
  const v1::Task profile = Profile();
  for (const char* none : {"", "sha256:", "a", "blobs.0.attn.q"}) {
    const absl::Status status = Lose("w0", profile, {profile.profile().tokens_digests(1), none});
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << none;
    EXPECT_THAT(std::string(status.message()), HasSubstr("lost_digests"));
  }
  ASSERT_TRUE(cluster_.Complete("w0", profile).ok());  // it was not taken away
  EXPECT_EQ(Published(), Undisturbed());
  const auto tasks = cluster_.store->ListTasks(job_, false);
  for (const TaskRecord& task : *tasks) {
    EXPECT_NE(task.kind, v1::TASK_KIND_REPAIR);
  }
}

TEST_F(RepairTest, WhatStoredALostBlobIsRunAgainBeforeWhatNeedsIt) {
  const v1::Task profile = Profile();
  const std::string lost = profile.profile().tokens_digests(1);
  ASSERT_TRUE(Lose("w0", profile, {lost}).ok());

  const auto repair = cluster_.Lease("w0");
  ASSERT_TRUE(repair.has_value());
  EXPECT_EQ(repair->kind(), v1::TASK_KIND_REPAIR);
  EXPECT_EQ(repair->repaired_digest(), lost);
  ASSERT_TRUE(repair->has_calibrate());
  EXPECT_EQ(repair->calibrate().first(), kMicrobatch);  // of the second part
  EXPECT_FALSE(cluster_.Lease("w1").has_value()) << "nothing else of the job is begun meanwhile";
  ASSERT_TRUE(cluster_.Complete("w0", *repair).ok());

  const auto again = cluster_.Lease("w0");
  ASSERT_TRUE(again.has_value());
  EXPECT_EQ(again->kind(), v1::TASK_KIND_PROFILE);
  EXPECT_EQ(again->attempt(), 1u) << "that its input was lost is not the task's fault";
  ASSERT_TRUE(cluster_.Complete("w0", *again).ok());
  EXPECT_EQ(Published(), Undisturbed());
}

TEST_F(RepairTest, ARepairThatLacksABlobItselfWaitsForAnother) {
  const v1::Task profile = Profile();
  const std::string first = profile.profile().tokens_digests(0),
                    second = profile.profile().tokens_digests(1);
  ASSERT_TRUE(Lose("w0", profile, {first, second}).ok());
  const auto of_second = cluster_.Lease("w0");
  ASSERT_TRUE(of_second.has_value());
  // Whichever of the two comes first finds that it needs the other's: also if one is open for it.
  const std::string other = of_second->repaired_digest() == first ? second : first;
  ASSERT_TRUE(Lose("w0", *of_second, {other}).ok());
  const auto deeper = cluster_.Lease("w0");
  ASSERT_TRUE(deeper.has_value());
  EXPECT_EQ(deeper->kind(), v1::TASK_KIND_REPAIR);
  EXPECT_EQ(deeper->repaired_digest(), other);
  ASSERT_TRUE(cluster_.Complete("w0", *deeper).ok());
  EXPECT_EQ(Published(), Undisturbed());
}

TEST_F(RepairTest, TheSameLossSeenTwiceIsRepairedOnce) {
  const v1::Task profile = Profile();
  const auto other = cluster_.Lease("w1");
  ASSERT_TRUE(other.has_value());
  const std::string lost = profile.profile().tokens_digests(0);
  ASSERT_TRUE(Lose("w0", profile, {lost}).ok());
  ASSERT_TRUE(Lose("w1", *other, {lost}).ok());
  const auto view = JobView::Read(cluster_.store.get(), job_);
  ASSERT_TRUE(view.ok());
  EXPECT_EQ(view->OfKind(v1::TASK_KIND_REPAIR).size(), 1u);
  EXPECT_EQ(Published(), Undisturbed());
}

TEST_F(RepairTest, WhatNobodyStoredFailsTheJobAndIsNamed) {
  const v1::Task profile = Profile();
  const std::string lost = Sha256Digest("a text of the user's");
  ASSERT_TRUE(Lose("w0", profile, {lost}).ok());
  ASSERT_TRUE(cluster_.core->Tick().ok());
  const v1::Job job = cluster_.Get(job_);
  EXPECT_EQ(job.state(), v1::JOB_STATE_FAILED);
  EXPECT_THAT(job.error(), HasSubstr(lost));
  EXPECT_THAT(job.error(), HasSubstr("no task of this job has stored it"));
}

TEST_F(RepairTest, WhatIsLostAgainAndAgainFailsTheJob) {
  v1::Task profile = Profile();
  const std::string lost = profile.profile().tokens_digests(0);
  for (int i = 0; i < kMaxRepairs; ++i) {
    ASSERT_TRUE(Lose("w0", profile, {lost}).ok());
    const auto repair = cluster_.Lease("w0");
    ASSERT_TRUE(repair.has_value());
    ASSERT_EQ(repair->kind(), v1::TASK_KIND_REPAIR);
    ASSERT_TRUE(cluster_.Complete("w0", *repair).ok());
    const auto again = cluster_.Lease("w0");
    ASSERT_TRUE(again.has_value());
    ASSERT_EQ(again->kind(), v1::TASK_KIND_PROFILE);
    profile = *again;
  }
  ASSERT_TRUE(Lose("w0", profile, {lost}).ok());
  ASSERT_TRUE(cluster_.core->Tick().ok());
  EXPECT_EQ(cluster_.Get(job_).state(), v1::JOB_STATE_FAILED);
  EXPECT_THAT(cluster_.Get(job_).error(), HasSubstr("lost again"));
}

TEST_F(RepairTest, OtherBytesThanBeforeAreRefused) {
  const v1::Task profile = Profile();
  ASSERT_TRUE(Lose("w0", profile, {profile.profile().tokens_digests(0)}).ok());
  const auto repair = cluster_.Lease("w0");
  ASSERT_TRUE(repair.has_value());
  v1::CompleteTaskRequest request;
  request.set_worker_id("w0");
  request.set_task_id(repair->task_id());
  request.set_lease_epoch(repair->lease_epoch());
  *request.mutable_result() = cluster_.Answer(*repair);
  request.mutable_result()->mutable_calibrate()->set_digest(Sha256Digest("something else"));
  const absl::Status status = cluster_.core->Complete(request);
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(repair->repaired_digest()));
}

TEST_F(RepairTest, WhoHasLostTheLeaseHasNoSay) {
  v1::Task profile = Profile();
  profile.set_lease_epoch(profile.lease_epoch() + 1);
  EXPECT_TRUE(absl::IsAborted(Lose("w0", profile, {profile.profile().tokens_digests(0)})));
  const auto view = JobView::Read(cluster_.store.get(), job_);
  ASSERT_TRUE(view.ok());
  EXPECT_TRUE(view->OfKind(v1::TASK_KIND_REPAIR).empty());
}

TEST_F(RepairTest, ACandidateThatThePackagerLacksIsMadeAgain) {
  job_ = cluster_.Submit(SimulatedCluster::Request()).job_id();
  cluster_.RunTo(job_, v1::JOB_STATE_EVALUATING);
  for (const char* bits : {"2", "3", "4"}) {
    cluster_.publisher.gone.insert(Sha256Digest(absl::StrCat("blocks.1.attn.q@", bits)));
  }
  std::optional<v1::Task> task;
  while ((task = cluster_.Lease("w0")).has_value() && task->kind() != v1::TASK_KIND_REPAIR) {
    ASSERT_TRUE(cluster_.Complete("w0", *task).ok());
  }
  ASSERT_TRUE(task.has_value()) << cluster_.Get(job_).error();
  EXPECT_EQ(cluster_.Get(job_).state(), v1::JOB_STATE_PACKAGING);
  EXPECT_EQ(cluster_.publisher.gone.count(task->repaired_digest()), 1u);
  EXPECT_EQ(task->profile().block(), 1u);
  EXPECT_FALSE(cluster_.Lease("w1").has_value()) << "one task makes all three again";
  cluster_.publisher.gone.clear();
  ASSERT_TRUE(cluster_.Complete("w0", *task).ok());
  EXPECT_EQ(Published(), Undisturbed());
}

// The parent made the candidate, and what it was made from has gone with the parent's end.
TEST_F(RepairTest, ACandidateOfTheParentIsMadeAgainFromTheBeginning) {
  v1::SubmitJobRequest request = SimulatedCluster::Request();
  request.mutable_spec()->mutable_recipe()->set_hessian(v1::HESSIAN_GUIDED);
  const std::string parent = cluster_.Submit(request).job_id();
  cluster_.Run(2);
  v1::PublishBudgetRequest publish;
  publish.set_job_id(parent);
  publish.mutable_budget()->set_planes(2.5);
  publish.set_output("child:latest");
  std::vector<FieldFault> faults;
  const auto child = cluster_.core->PublishBudget(publish, "ann", &faults);
  ASSERT_TRUE(child.ok()) << child.status();
  job_ = child->job_id();
  cluster_.RunTo(job_, v1::JOB_STATE_EVALUATING);
  const auto evaluate = cluster_.Lease("w0");
  ASSERT_TRUE(evaluate.has_value());
  ASSERT_EQ(evaluate->kind(), v1::TASK_KIND_EVALUATE);
  const std::string lost = evaluate->evaluate().variants(0).layers(0).digest();
  ASSERT_TRUE(Lose("w0", *evaluate, {lost}).ok());

  const auto profile = cluster_.Lease("w0");
  ASSERT_TRUE(profile.has_value()) << cluster_.Get(job_).error();
  ASSERT_EQ(profile->kind(), v1::TASK_KIND_REPAIR);
  ASSERT_TRUE(profile->has_profile());
  EXPECT_EQ(profile->context().job_id(), job_) << "whose scratch it uses";
  ASSERT_GT(profile->profile().token_weights_size(), 0);
  const std::string weights = profile->profile().token_weights(0).digest(),
                    tokens = profile->profile().tokens_digests(0);
  ASSERT_TRUE(Lose("w0", *profile, {tokens, weights}).ok());

  std::set<std::string> repaired;
  for (int i = 0; i < 3; ++i) {
    const auto repair = cluster_.Lease("w0");
    ASSERT_TRUE(repair.has_value()) << cluster_.Get(job_).error();
    ASSERT_EQ(repair->kind(), v1::TASK_KIND_REPAIR);
    repaired.insert(repair->repaired_digest());
    ASSERT_TRUE(cluster_.Complete("w0", *repair).ok());
  }
  EXPECT_EQ(repaired, (std::set<std::string>{lost, tokens, weights}));
  cluster_.Run(2);
  EXPECT_EQ(cluster_.Get(job_).state(), v1::JOB_STATE_SUCCEEDED) << cluster_.Get(job_).error();
}

TEST_F(RepairTest, AStoreThatIsAwayCountsAsNoAttempt) {
  for (int i = 0; i < 10; ++i) {
    const v1::Task profile = i == 0 ? Profile() : *cluster_.Lease("w0");
    EXPECT_EQ(profile.attempt(), 1u);
    ASSERT_TRUE(cluster_.Fail("w0", profile, absl::StatusCode::kUnavailable, "registry").ok());
  }
  EXPECT_EQ(Published(), Undisturbed());
}

}  // namespace
}  // namespace shiftadd::coordinator
