#include "services/store/job_store_conformance.h"

#include <atomic>
#include <cmath>
#include <filesystem>
#include <limits>
#include <set>
#include <thread>
#include <utility>

#include "services/base/ids.h"

namespace shiftadd {

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(JobStoreConformance);

void JobStoreConformance::SetUp() {
  place_ = testing::TempDir() + NewId("store");
  std::filesystem::create_directories(place_);
  Reopen();
}

void JobStoreConformance::TearDown() {
  store_.reset();
  std::filesystem::remove_all(place_);
}

void JobStoreConformance::Reopen() {
  store_.reset();
  StorePolicy policy;
  policy.poll = absl::Hours(1);  // nobody may need it
  auto opened = GetParam().open(place_, clock_, policy);
  ASSERT_TRUE(opened.ok()) << opened.status();
  store_ = *std::move(opened);
}

std::shared_ptr<JobStore> JobStoreConformance::Another() {
  if (!GetParam().shared) return store_;
  auto opened = GetParam().open(place_, clock_, StorePolicy{});
  EXPECT_TRUE(opened.ok()) << opened.status();
  return *std::move(opened);
}

JobRecord JobStoreConformance::Create(const std::string& job_id, const std::string& owner,
                                      int priority) {
  NewJob job;
  job.job.set_job_id(job_id);
  job.job.set_owner(owner);
  job.job.set_state(v1::JOB_STATE_QUEUED);
  job.job.mutable_spec()->set_priority(priority);
  auto record = store_->CreateJob(job);
  EXPECT_TRUE(record.ok()) << record.status();
  return *record;
}

JobRecord JobStoreConformance::Plan(const JobRecord& job, int count) {
  JobUpdate update{job.job, job.revision, {}, false, {}};
  update.job.set_state(v1::JOB_STATE_PROFILING);
  for (int i = 0; i < count; ++i) {
    update.tasks.push_back({v1::TASK_KIND_PROFILE, static_cast<uint32_t>(i), 0, 1, "payload"});
  }
  auto record = store_->UpdateJob(update);
  EXPECT_TRUE(record.ok()) << record.status();
  return *record;
}

LeaseQuery JobStoreConformance::Worker(const std::string& name, const std::string& device) {
  LeaseQuery query;
  query.worker = name;
  query.device_class = device;
  return query;
}

TaskRecord JobStoreConformance::Lease(const LeaseQuery& query) {
  auto outcome = store_->LeaseTask(query);
  EXPECT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_TRUE(outcome->task.has_value()) << outcome->idle_reason;
  return outcome->task.value_or(TaskRecord{});
}

LeaseKey JobStoreConformance::KeyOf(const TaskRecord& task) {
  return {task.task_id, task.worker, task.lease_epoch};
}

void JobStoreConformance::ExpectNoGaps(const std::string& job_id) {
  const auto events = store_->Events(job_id, 1, 100000);
  ASSERT_TRUE(events.ok());
  for (size_t i = 0; i < events->size(); ++i) EXPECT_EQ((*events)[i].sequence(), i + 1);
  EXPECT_EQ(store_->GetJob(job_id)->job.last_sequence(), events->size());
}

namespace {

using absl::StatusCode;

TEST_P(JobStoreConformance, CreateIsIdempotentByRequest) {
  NewJob job;
  job.job.set_job_id("job-a");
  job.job.set_owner("ann");
  job.job.set_state(v1::JOB_STATE_QUEUED);
  job.request_id = "r1";
  job.fingerprint = "f1";
  ASSERT_TRUE(store_->CreateJob(job).ok());
  job.job.set_job_id("job-b");
  EXPECT_EQ(store_->CreateJob(job)->job.job_id(), "job-a");
  job.fingerprint = "f2";
  EXPECT_EQ(store_->CreateJob(job).status().code(), StatusCode::kAlreadyExists);
  job.job.set_owner("bob");  // request ids are an owner's own
  EXPECT_EQ(store_->CreateJob(job)->job.job_id(), "job-b");
  Reopen();
  EXPECT_EQ(store_->GetJob("job-a")->job.owner(), "ann");
  EXPECT_EQ(store_->GetJob("job-c").status().code(), StatusCode::kNotFound);
}

TEST_P(JobStoreConformance, FindsAJobByItsRequest) {
  NewJob job;
  job.job.set_job_id("job-a");
  job.job.set_owner("ann");
  job.request_id = "once";
  job.fingerprint = "f";
  EXPECT_FALSE(store_->FindRequest("ann", "once", "f")->has_value());
  ASSERT_TRUE(store_->CreateJob(job).ok());
  EXPECT_EQ((*store_->FindRequest("ann", "once", "f"))->job.job_id(), "job-a");
  EXPECT_EQ(store_->FindRequest("ann", "once", "g").status().code(), StatusCode::kAlreadyExists);
  EXPECT_FALSE(store_->FindRequest("bob", "once", "f")->has_value());
  EXPECT_FALSE(store_->FindRequest("ann", "", "f")->has_value());
}

TEST_P(JobStoreConformance, AJobMayTakeOverTasksThatAreDone) {
  NewJob job;
  job.job.set_job_id("job-a");
  job.job.set_state(v1::JOB_STATE_QUEUED);
  job.job.set_device_class("cpu-avx2");
  job.quantizer_version = "17";
  job.tasks.push_back({v1::TASK_KIND_PROFILE, 3, 0, 0, "payload", "result", "w7"});
  ASSERT_TRUE(store_->CreateJob(job).ok());
  Reopen();
  EXPECT_EQ(store_->GetJob("job-a")->job.device_class(), "cpu-avx2");
  EXPECT_EQ(store_->GetJob("job-a")->quantizer_version, "17");
  const auto tasks = store_->ListTasks("job-a", true);
  ASSERT_TRUE(tasks.ok());
  ASSERT_EQ(tasks->size(), 1u);
  EXPECT_TRUE((*tasks)[0].inherited());
  EXPECT_EQ((*tasks)[0].state, TaskState::kDone);
  EXPECT_EQ((*tasks)[0].ordinal, 3u);
  EXPECT_EQ((*tasks)[0].worker, "w7");
  EXPECT_EQ((*tasks)[0].payload, "payload");
  EXPECT_EQ((*tasks)[0].result, "result");
  EXPECT_FALSE(store_->LeaseTask(Worker("w0"))->task.has_value());  // nobody does it again
  // The class is the job's from the beginning.
  JobRecord record = *store_->GetJob("job-a");
  Plan(record, 1);
  EXPECT_FALSE(store_->LeaseTask(Worker("w0", "gpu"))->task.has_value());
  EXPECT_FALSE(Lease(Worker("w0", "cpu-avx2")).inherited());
}

TEST_P(JobStoreConformance, ListsNewestFirstInPages) {
  for (int i = 0; i < 5; ++i) Create("job-" + std::to_string(i));
  std::string token, seen;
  int pages = 0;
  do {
    const auto page = store_->ListJobs(2, token, &token);
    ASSERT_TRUE(page.ok());
    for (const JobRecord& r : *page) seen += r.job.job_id().back();
    ++pages;
  } while (!token.empty());
  EXPECT_EQ(seen, "43210");
  EXPECT_EQ(pages, 3);
  EXPECT_EQ(store_->ListJobs(2, "x", &token).status().code(), StatusCode::kInvalidArgument);
}

TEST_P(JobStoreConformance, UpdatesNameTheirRevision) {
  const JobRecord job = Create("job-a");
  const JobRecord planned = Plan(job, 1);
  EXPECT_GT(planned.revision, job.revision);
  JobUpdate stale{job.job, job.revision, {}, false, {}};
  EXPECT_EQ(store_->UpdateJob(stale).status().code(), StatusCode::kAborted);
  EXPECT_EQ(store_->GetJob("job-a")->job.state(), v1::JOB_STATE_PROFILING);
  // Planning the same task again changes nothing: what exists stays.
  const TaskRecord leased = Lease(Worker("w"));
  Plan(planned, 2);
  const auto tasks = store_->ListTasks("job-a", true);
  ASSERT_EQ(tasks->size(), 2u);
  EXPECT_EQ((*tasks)[0].task_id, leased.task_id);
  EXPECT_EQ((*tasks)[0].state, TaskState::kRunning);
}

TEST_P(JobStoreConformance, EpochsFenceAndRepeatsAreAccepted) {
  Plan(Create("job-a"), 1);
  const TaskRecord first = Lease(Worker("w1"));
  EXPECT_EQ(first.payload, "payload");
  EXPECT_EQ(store_->GetJob("job-a")->job.device_class(), "cpu-avx2");
  clock_->Advance(absl::Seconds(31));
  ASSERT_EQ(store_->ReapExpired()->size(), 1u);
  const TaskRecord second = Lease(Worker("w2"));
  EXPECT_EQ(second.task_id, first.task_id);
  EXPECT_GT(second.lease_epoch, first.lease_epoch);
  EXPECT_EQ(second.attempts.at("expired"), 1);

  EXPECT_EQ(store_->RenewLease(KeyOf(first), 0.5).status().code(), StatusCode::kAborted);
  EXPECT_EQ(store_->CompleteTask(KeyOf(first), "r", {}).status().code(), StatusCode::kAborted);
  EXPECT_EQ(store_->FailTask(KeyOf(first), FailureKind::kFatal, "c", 3, "m").status().code(),
            StatusCode::kAborted);
  LeaseKey forged = KeyOf(second);
  forged.worker = "w3";
  EXPECT_EQ(store_->CompleteTask(forged, "r", {}).status().code(), StatusCode::kAborted);

  v1::JobEvent event;
  event.set_log("layer done");
  EXPECT_TRUE(*store_->CompleteTask(KeyOf(second), "r", {event}));
  const uint64_t events = store_->GetJob("job-a")->job.last_sequence();
  EXPECT_FALSE(*store_->CompleteTask(KeyOf(second), "r", {event}));  // the answer was lost
  EXPECT_EQ(store_->GetJob("job-a")->job.last_sequence(), events);
  EXPECT_EQ(store_->CompleteTask(KeyOf(second), "other", {}).status().code(), StatusCode::kAborted);
  EXPECT_EQ(store_->RenewLease(KeyOf(second), 1).status().code(), StatusCode::kAborted);
  EXPECT_EQ(store_->GetTask(second.task_id)->result, "r");
  EXPECT_EQ(store_->CompleteTask({"no-such-task", "w", 1}, "r", {}).status().code(),
            StatusCode::kAborted);
  ExpectNoGaps("job-a");
}

TEST_P(JobStoreConformance, RenewalKeepsALeaseAlive) {
  Plan(Create("job-a"), 1);
  const TaskRecord task = Lease(Worker("w"));
  for (int i = 0; i < 10; ++i) {
    clock_->Advance(absl::Seconds(20));
    const auto renewed = store_->RenewLease(KeyOf(task), i / 10.0);
    ASSERT_TRUE(renewed.ok());
    EXPECT_EQ(renewed->deadline, clock_->Now() + absl::Seconds(30));
    EXPECT_FALSE(renewed->cancel);
    EXPECT_TRUE(store_->ReapExpired()->empty());
  }
  EXPECT_DOUBLE_EQ(store_->GetTask(task.task_id)->progress, 0.9);
  const double infinity = std::numeric_limits<double>::infinity();
  for (const auto& [said, kept] : {std::pair(7.0, 1.0), std::pair(-1.0, 0.0),
                                   std::pair(infinity, 1.0), std::pair(std::nan(""), 0.0)}) {
    EXPECT_TRUE(store_->RenewLease(KeyOf(task), said).ok()) << said;
    EXPECT_EQ(store_->GetTask(task.task_id)->progress, kept) << said;
  }
}

TEST_P(JobStoreConformance, FourAttemptsThenTheTaskFails) {
  Plan(Create("job-a"), 1);
  for (int i = 1; i <= 4; ++i) {
    const TaskRecord task = Lease(Worker("w" + std::to_string(i)));
    if (i % 2) {
      EXPECT_EQ(*store_->FailTask(KeyOf(task), FailureKind::kRetry, "RESOURCE_EXHAUSTED", 8, "oom"),
                i == 4);
    } else {
      clock_->Advance(absl::Seconds(31));
      const auto expired = store_->ReapExpired();
      ASSERT_EQ(expired->size(), 1u);
      EXPECT_EQ((*expired)[0].failed, i == 4);
    }
  }
  const TaskRecord task = store_->ListTasks("job-a", false)->front();
  EXPECT_EQ(task.state, TaskState::kFailed);
  EXPECT_EQ(task.attempts, (std::map<std::string, int>{{"RESOURCE_EXHAUSTED", 2}, {"expired", 2}}));
  EXPECT_FALSE(store_->LeaseTask(Worker("w9"))->task.has_value());
}

TEST_P(JobStoreConformance, ACrashIsNotTheTasksFaultUntilAnotherWorkerCrashesToo) {
  Plan(Create("job-a"), 1);
  const auto crash = [&](const std::string& worker) {
    clock_->Advance(absl::Minutes(2));  // others are gone: better the same worker than none
    Lease(Worker(worker));
    clock_->Advance(absl::Seconds(31));
    const auto expired = store_->ReapExpired();
    EXPECT_EQ(expired->size(), 1u);
    return expired->front().failed;
  };
  const auto counted = [&] { return store_->ListTasks("job-a", false)->front().lost_attempts(); };
  EXPECT_FALSE(crash("w1"));
  EXPECT_EQ(counted(), 0);
  EXPECT_FALSE(crash("w1"));
  EXPECT_EQ(counted(), 1);  // a cluster of one worker does not go in circles for ever
  EXPECT_FALSE(crash("w2"));
  EXPECT_EQ(counted(), 3);
  EXPECT_TRUE(crash("w3"));
  const TaskRecord task = store_->ListTasks("job-a", false)->front();
  ASSERT_EQ(task.losses.size(), 4u);
  EXPECT_EQ(task.losses[2].worker, "w2");
  EXPECT_EQ(task.losses[3].cause, kExpiredCause);
  EXPECT_NE(task.losses[3].error.find("stopped renewing"), std::string::npos);
}

// Two tasks are stored beside the one at work. Renewals come at their own times, so their leases
// may end in any order.
TEST_P(JobStoreConformance, OneDeathIsOneAttemptOfTheTaskThatWasAtWork) {
  const std::shared_ptr<JobStore> other = Another();
  for (const bool last_first : {false, true}) {
    const std::string job = last_first ? "job-b" : "job-a";
    Plan(Create(job), 3);
    std::vector<TaskRecord> tasks;
    for (int i = 0; i < 3; ++i) {
      clock_->Advance(absl::Seconds(1));
      tasks.push_back(Lease(Worker("w1")));
    }
    size_t ended = 0;
    for (int i = 0; i < 3; ++i) {
      clock_->Advance(absl::Seconds(5));
      if (i < 2 && last_first) {
        ASSERT_TRUE(store_->RenewLease(KeyOf(tasks[1 - i]), 1).ok());
      }
    }
    for (int i = 0; i < 30; ++i, clock_->Advance(absl::Seconds(1))) {
      const auto expired = (i % 2 == 0 ? store_ : other)->ReapExpired();
      ASSERT_TRUE(expired.ok()) << expired.status();
      EXPECT_LE(expired->size(), 1u);
      for (const Expired& e : *expired) {
        EXPECT_EQ(e.task_id, tasks[last_first ? 2 - ended : ended].task_id);
        ++ended;
      }
    }
    EXPECT_EQ(ended, 3u);
    using Attempts = std::map<std::string, int>;
    for (int i = 0; i < 3; ++i) {
      const TaskRecord task = *store_->GetTask(tasks[i].task_id);
      EXPECT_EQ(task.state, TaskState::kReady);
      EXPECT_EQ(task.attempts, (Attempts{{i < 2 ? kExpiredBesideCause : kExpiredCause, 1}})) << i;
      ASSERT_EQ(task.losses.size(), 1u);  // who it was is told at any rate
      EXPECT_EQ(task.losses[0].worker, "w1");
      EXPECT_EQ(task.excuse, LeaseExcuse::kNone);
    }
    ASSERT_TRUE(store_->CancelJob(job).ok());
  }
}

TEST_P(JobStoreConformance, ATaskThatEndsWorkersWhileItIsStoredIsFoundOut) {
  Plan(Create("job-a"), 2);
  const auto crash = [&](const std::string& worker) {
    clock_->Advance(absl::Minutes(2));
    const TaskRecord first = Lease(Worker(worker));
    EXPECT_EQ(first.ordinal, 0u);
    clock_->Advance(absl::Seconds(1));
    const TaskRecord second = Lease(Worker(worker));
    clock_->Advance(absl::Minutes(1));
    EXPECT_EQ(store_->ReapExpired()->size(), 2u);
    return store_->GetTask(first.task_id)->lost_attempts();
  };
  EXPECT_EQ(crash("w1"), 0);
  EXPECT_EQ(crash("w2"), 0);
  EXPECT_EQ(crash("w3"), 2);  // beside another, it is excused once
  EXPECT_EQ(crash("w4"), 3);
}

// A worker that lives on keeps what it stores, and is held to it.
TEST_P(JobStoreConformance, WhatIsRenewedAfterALaterTaskWasLostIsNotExcused) {
  Plan(Create("job-a"), 2);
  const TaskRecord first = Lease(Worker("w1"));
  clock_->Advance(absl::Seconds(1));
  const TaskRecord second = Lease(Worker("w1"));
  clock_->Advance(absl::Seconds(25));
  ASSERT_TRUE(store_->RenewLease(KeyOf(first), 1).ok());
  clock_->Advance(absl::Seconds(10));
  EXPECT_EQ(store_->ReapExpired()->size(), 1u);
  EXPECT_EQ(store_->GetTask(second.task_id)->attempts.count(kExpiredCause), 1u);
  EXPECT_EQ(store_->GetTask(first.task_id)->excuse, LeaseExcuse::kBeside);
  ASSERT_TRUE(store_->RenewLease(KeyOf(first), 1).ok());
  clock_->Advance(absl::Seconds(31));
  EXPECT_EQ(store_->ReapExpired()->size(), 1u);
  EXPECT_EQ(store_->GetTask(first.task_id)->attempts.count(kExpiredCause), 1u);
}

TEST_P(JobStoreConformance, LossesNameWorkersAndErrorsWhateverBytesTheyHold) {
  Plan(Create("job-a"), 1);
  const std::string error = std::string(499, 'x') + "\xc3\xa4 and more";
  const TaskRecord task = Lease(Worker("w1"));
  EXPECT_FALSE(*store_->FailTask(KeyOf(task), FailureKind::kRetry, "INTERNAL", 13, error));
  const TaskRecord lost = *store_->GetTask(task.task_id);
  ASSERT_EQ(lost.losses.size(), 1u);
  EXPECT_EQ(lost.losses[0].worker, "w1");
  EXPECT_EQ(lost.losses[0].cause, "INTERNAL");
  EXPECT_EQ(lost.losses[0].error.substr(0, 499), std::string(499, 'x'));
  EXPECT_EQ(lost.error, error);
}

TEST_P(JobStoreConformance, ARepeatedLeaseRequestGetsTheSameTask) {
  Plan(Create("job-a"), 3);
  const std::shared_ptr<JobStore> other = Another();
  LeaseQuery query = Worker("w1");
  query.request_id = "r1";
  const TaskRecord first = Lease(query);
  clock_->Advance(absl::Seconds(20));
  const auto again = other->LeaseTask(query);  // the answer was lost
  ASSERT_TRUE(again->task.has_value());
  EXPECT_TRUE(again->repeated);
  EXPECT_EQ(again->task->task_id, first.task_id);
  EXPECT_EQ(again->task->lease_epoch, first.lease_epoch);
  clock_->Advance(absl::Seconds(20));  // the lease has begun anew
  EXPECT_TRUE(store_->ReapExpired()->empty());
  LeaseQuery another = Worker("w2");
  another.request_id = "r1";  // a name is its worker's own
  EXPECT_NE(Lease(another).task_id, first.task_id);
  EXPECT_TRUE(*store_->CompleteTask(KeyOf(first), "r", {}));
  const auto late = store_->LeaseTask(query);  // what is done is not held
  EXPECT_FALSE(late->repeated);
  EXPECT_NE(late->task->task_id, first.task_id);
}

TEST_P(JobStoreConformance, ACordonedWorkerEndsItsTaskAndADrainedOneGivesItBack) {
  Plan(Create("job-a"), 3);
  EXPECT_EQ(store_->SetStanding("w1", WorkerStanding::kCordoned).code(), StatusCode::kNotFound);
  const TaskRecord task = Lease(Worker("w1"));
  ASSERT_TRUE(store_->SetStanding("w1", WorkerStanding::kCordoned).ok());
  Reopen();
  EXPECT_FALSE(store_->RenewLease(KeyOf(task), 0.5)->cancel);
  EXPECT_EQ(store_->ListWorkers()->front().standing, WorkerStanding::kCordoned);
  ASSERT_TRUE(store_->SetStanding("w1", WorkerStanding::kDraining).ok());
  EXPECT_TRUE(store_->RenewLease(KeyOf(task), 0.5)->cancel);
  EXPECT_FALSE(*store_->FailTask(KeyOf(task), FailureKind::kReleased, "CANCELLED", 1, "drained"));
  EXPECT_TRUE(store_->TouchWorker(Worker("w1")).ok());
  EXPECT_EQ(store_->LeaseTask(Worker("w1"))->idle_reason, "drained");
  EXPECT_EQ(Lease(Worker("w2")).task_id, task.task_id);
  EXPECT_TRUE(store_->GetTask(task.task_id)->attempts.empty());
  ASSERT_TRUE(store_->SetStanding("w1", WorkerStanding::kActive).ok());
  Lease(Worker("w1"));
}

TEST_P(JobStoreConformance, ReleaseCountsAsNoAttemptAndFatalIsFinal) {
  Plan(Create("job-a"), 1);
  for (int i = 0; i < 6; ++i) {
    const TaskRecord task = Lease(Worker("w"));
    EXPECT_FALSE(*store_->FailTask(KeyOf(task), FailureKind::kReleased, "CANCELLED", 1, "drain"));
  }
  const TaskRecord task = Lease(Worker("w"));
  EXPECT_TRUE(task.attempts.empty());
  EXPECT_TRUE(*store_->FailTask(KeyOf(task), FailureKind::kFatal, "INVALID_ARGUMENT", 3, "bad"));
  const TaskRecord failed = *store_->GetTask(task.task_id);
  EXPECT_EQ(failed.state, TaskState::kFailed);
  EXPECT_EQ(failed.error, "bad");
  EXPECT_EQ(failed.error_code, 3);
}

TEST_P(JobStoreConformance, ALostTaskPrefersAnotherWorker) {
  Plan(Create("job-a"), 1);
  ASSERT_TRUE(store_->TouchWorker(Worker("w2")).ok());
  const TaskRecord task = Lease(Worker("w1"));
  EXPECT_FALSE(*store_->FailTask(KeyOf(task), FailureKind::kRetry, "INTERNAL", 13, "x"));
  EXPECT_FALSE(store_->LeaseTask(Worker("w1"))->task.has_value());
  clock_->Advance(absl::Minutes(2));  // w2 has gone: better the same worker than none
  EXPECT_EQ(Lease(Worker("w1")).task_id, task.task_id);
}

TEST_P(JobStoreConformance, ReopeningGivesRunningLeasesGrace) {
  Plan(Create("job-a"), 1);
  const TaskRecord task = Lease(Worker("w"));
  clock_->Advance(absl::Hours(1));
  Reopen();
  EXPECT_TRUE(store_->ReapExpired()->empty());
  clock_->Advance(absl::Seconds(29));
  EXPECT_TRUE(store_->ReapExpired()->empty());
  EXPECT_TRUE(store_->RenewLease(KeyOf(task), 0).ok());
  clock_->Advance(absl::Seconds(31));
  EXPECT_EQ(store_->ReapExpired()->size(), 1u);
}

TEST_P(JobStoreConformance, CancelWaitsForLeases) {
  Plan(Create("job-a"), 3);
  const TaskRecord one = Lease(Worker("w1"));
  const TaskRecord two = Lease(Worker("w2"));
  const auto job = store_->CancelJob("job-a");
  ASSERT_TRUE(job.ok());
  EXPECT_EQ(job->job.state(), v1::JOB_STATE_CANCELLING);
  EXPECT_EQ(job->job.resume_state(), v1::JOB_STATE_PROFILING);
  EXPECT_FALSE(store_->LeaseTask(Worker("w3"))->task.has_value());
  EXPECT_TRUE(store_->RenewLease(KeyOf(one), 0)->cancel);
  EXPECT_FALSE(*store_->FailTask(KeyOf(one), FailureKind::kReleased, "CANCELLED", 1, ""));
  EXPECT_EQ(store_->GetJob("job-a")->job.state(), v1::JOB_STATE_CANCELLING);
  EXPECT_TRUE(store_->CancelJob("job-a").ok());  // again: nothing new
  clock_->Advance(absl::Seconds(31));
  ASSERT_EQ(store_->ReapExpired()->size(), 1u);
  EXPECT_EQ(store_->GetJob("job-a")->job.state(), v1::JOB_STATE_CANCELLED);
  EXPECT_EQ(store_->RenewLease(KeyOf(two), 0).status().code(), StatusCode::kAborted);
  EXPECT_EQ(store_->JobsNeedingWork()->size(), 1u);  // its scratch
  ASSERT_TRUE(store_->MarkCleaned("job-a").ok());
  EXPECT_TRUE(store_->JobsNeedingWork()->empty());
  ExpectNoGaps("job-a");
  EXPECT_EQ(store_->Events("job-a", 1, 1000)->back().state(), v1::JOB_STATE_CANCELLED);
}

TEST_P(JobStoreConformance, FailingDropsOpenTasksAndRetryBringsThemBack) {
  JobRecord job = Plan(Create("job-a"), 3);
  const TaskRecord done = Lease(Worker("w1"));
  ASSERT_TRUE(store_->CompleteTask(KeyOf(done), "r", {}).ok());
  const TaskRecord running = Lease(Worker("w1"));
  JobUpdate update{job.job, job.revision, {}, true, {}};
  update.job.set_state(v1::JOB_STATE_FAILED);
  update.job.set_resume_state(v1::JOB_STATE_PROFILING);
  update.job.set_error("disk full");
  ASSERT_TRUE(store_->UpdateJob(update).ok());
  EXPECT_EQ(store_->RenewLease(KeyOf(running), 0).status().code(), StatusCode::kAborted);
  EXPECT_EQ(store_->CancelJob("job-a").status().code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(store_->AppendEvents("job-a", {v1::JobEvent()}).code(),
            StatusCode::kFailedPrecondition);

  const auto retried = store_->RetryJob("job-a");
  ASSERT_TRUE(retried.ok()) << retried.status();
  EXPECT_EQ(retried->job.state(), v1::JOB_STATE_PROFILING);
  EXPECT_EQ(retried->job.error(), "");
  EXPECT_EQ(store_->RetryJob("job-a").status().code(), StatusCode::kFailedPrecondition);
  std::map<TaskState, int> states;
  const auto tasks = store_->ListTasks("job-a", false);
  for (const TaskRecord& t : *tasks) ++states[t.state];
  EXPECT_EQ(states, (std::map<TaskState, int>{{TaskState::kReady, 2}, {TaskState::kDone, 1}}));
  EXPECT_EQ(store_->CompleteTask(KeyOf(running), "late", {}).status().code(), StatusCode::kAborted);
  ExpectNoGaps("job-a");
}

TEST_P(JobStoreConformance, MarksMoveWithEverythingButRenewals) {
  const JobRecord job = Plan(Create("job-a"), 3);
  Create("job-b");
  const auto mark = [&] {
    const auto marks = store_->MarksOfJobsNeedingWork();
    EXPECT_TRUE(marks.ok() && marks->size() == 2u && (*marks)[0].job_id == "job-a");
    EXPECT_EQ(store_->LastSequences({"job-a"})->at("job-a"), (*marks)[0].last_sequence);
    return std::make_pair((*marks)[0].revision, (*marks)[0].last_sequence);
  };
  auto before = mark();
  const auto moved = [&] {
    const auto now = mark();
    return std::exchange(before, now) != now;
  };
  EXPECT_FALSE(moved());
  const TaskRecord done = Lease(Worker("w1"));
  EXPECT_TRUE(moved());
  ASSERT_TRUE(store_->RenewLease(KeyOf(done), 0.5).ok());
  EXPECT_FALSE(moved());
  ASSERT_TRUE(store_->CompleteTask(KeyOf(done), "r", {}).ok());
  EXPECT_TRUE(moved());
  const TaskRecord failed = Lease(Worker("w1"));
  EXPECT_TRUE(moved());
  ASSERT_TRUE(store_->FailTask(KeyOf(failed), FailureKind::kRetry, "INTERNAL", 13, "x").ok());
  EXPECT_TRUE(moved());
  const TaskRecord released = Lease(Worker("w1"));
  EXPECT_TRUE(moved());
  ASSERT_TRUE(store_->FailTask(KeyOf(released), FailureKind::kReleased, "", 1, "x").ok());
  EXPECT_TRUE(moved());
  Lease(Worker("w1"));
  EXPECT_TRUE(moved());
  clock_->Advance(absl::Minutes(1));
  ASSERT_EQ(store_->ReapExpired()->size(), 1u);
  EXPECT_TRUE(moved());
  ASSERT_TRUE(store_->CancelJob("job-a").ok());
  EXPECT_TRUE(moved());
}

TEST_P(JobStoreConformance, LastSequencesOfManyJobsAndOfNone) {
  std::vector<std::string> ids = {"nobody"};
  for (int i = 0; i < 70; ++i) {
    ids.push_back("job-" + std::to_string(i));
    Create(ids.back());
  }
  Plan(*store_->GetJob("job-69"), 1);
  const auto sequences = store_->LastSequences(ids);
  ASSERT_TRUE(sequences.ok()) << sequences.status();
  EXPECT_EQ(sequences->size(), 70u);
  EXPECT_EQ(sequences->at("job-0"), 1u);
  EXPECT_EQ(sequences->at("job-69"), store_->GetJob("job-69")->job.last_sequence());
  EXPECT_TRUE(store_->LastSequences({})->empty());
}

TEST_P(JobStoreConformance, DeletesTerminalJobsOnly) {
  Plan(Create("job-a"), 1);
  EXPECT_EQ(store_->DeleteJob("job-a").code(), StatusCode::kFailedPrecondition);
  ASSERT_TRUE(store_->CancelJob("job-a").ok());
  EXPECT_TRUE(store_->DeleteJob("job-a").ok());
  EXPECT_EQ(store_->GetJob("job-a").status().code(), StatusCode::kNotFound);
  EXPECT_EQ(store_->Events("job-a", 1, 10).status().code(), StatusCode::kNotFound);
}

TEST_P(JobStoreConformance, OtherDeviceClassesIdle) {
  Plan(Create("job-a"), 2);
  Lease(Worker("w1", "cpu-avx2"));
  const auto other = store_->LeaseTask(Worker("w2", "cpu-generic"));
  ASSERT_TRUE(other.ok());
  EXPECT_FALSE(other->task.has_value());
  EXPECT_EQ(other->idle_reason, "idle: another device class");
  Lease(Worker("w3", "cpu-avx2"));
}

TEST_P(JobStoreConformance, OwnersTakeTurnsThenPriorityThenAge) {
  Plan(Create("old", "ann"), 2);
  Plan(Create("urgent", "ann", 5), 2);
  Plan(Create("other", "bob"), 2);
  std::string order;
  for (int i = 0; i < 6; ++i) order += Lease(Worker("w")).job_id + " ";
  EXPECT_EQ(order, "urgent other urgent other old old ");
}

TEST_P(JobStoreConformance, CountsAndWorkers) {
  Plan(Create("job-a"), 3);
  Create("job-b");
  ASSERT_TRUE(store_->TouchWorker(Worker("w2")).ok());
  const TaskRecord task = Lease(Worker("w1"));
  EXPECT_EQ((*store_->CountTasks()).at({v1::TASK_KIND_PROFILE, TaskState::kReady}), 2);
  EXPECT_EQ((*store_->CountJobs()).at(v1::JOB_STATE_QUEUED), 1);
  const auto workers = store_->ListWorkers();
  ASSERT_EQ(workers->size(), 2u);
  EXPECT_EQ((*workers)[0].task_id, task.task_id);
  EXPECT_EQ((*workers)[0].task_kind, v1::TASK_KIND_PROFILE);
  EXPECT_EQ((*workers)[1].task_id, "");
  clock_->Advance(absl::Hours(2));
  ASSERT_TRUE(store_->TouchWorker(Worker("w3")).ok());
  EXPECT_EQ(store_->ListWorkers()->size(), 1u);
}

TEST_P(JobStoreConformance, FailedJobsAreListedNewestFirst) {
  for (const char* id : {"job-a", "job-b", "job-c", "job-d"}) {
    const JobRecord record = Create(id);
    if (std::string(id) == "job-b") continue;
    JobUpdate update;
    update.job = record.job;
    update.job.set_state(v1::JOB_STATE_FAILED);
    update.job.set_error(absl::StrCat(id, " broke"));
    update.expected_revision = record.revision;
    ASSERT_TRUE(store_->UpdateJob(update).ok());
  }
  const auto failed = store_->ListFailedJobs(2);
  ASSERT_TRUE(failed.ok()) << failed.status();
  ASSERT_EQ(failed->size(), 2u);
  EXPECT_EQ((*failed)[0].job.error(), "job-d broke");
  EXPECT_EQ((*failed)[1].job.job_id(), "job-c");
  ASSERT_TRUE(store_->RetryJob("job-d").ok());
  EXPECT_EQ(store_->ListFailedJobs(10)->size(), 2u);
}

TEST_P(JobStoreConformance, WaitersSeeChanges) {
  const uint64_t seen = store_->AwaitChange(0, absl::ZeroDuration());
  std::thread writer([&] { Create("job-a"); });
  const uint64_t now = store_->AwaitChange(seen, absl::Seconds(30));
  writer.join();
  EXPECT_GT(now, seen);
  // A store that other processes write too may tell of its own commit a second time.
  uint64_t last = now;
  for (int i = 0; i < 3; ++i) last = store_->AwaitChange(last, absl::Milliseconds(200));
  EXPECT_LE(last, now + 1);
  EXPECT_EQ(store_->AwaitChange(last, absl::Milliseconds(1)), last);
  store_->StopWaiting();
  EXPECT_EQ(store_->AwaitChange(last, absl::Hours(1)), last);
}

// Whichever of two coordinators is asked: a task has one lease, and a completion that reaches both
// at once, as of a worker that moved on to the other, counts once.
TEST_P(JobStoreConformance, TwoCoordinatorsRaceForEachTask) {
  constexpr int kTasks = 24;
  Plan(Create("job-a"), kTasks);
  const std::shared_ptr<JobStore> other = Another();
  JobStore* const stores[] = {store_.get(), other.get()};
  std::atomic<int> accepted{0}, repeated{0};
  std::mutex mutex;
  std::multiset<std::string> leased;
  v1::JobEvent event;
  event.set_log("done");
  std::vector<std::thread> workers;
  workers.reserve(4);
  for (int i = 0; i < 4; ++i) {
    workers.emplace_back([&, i] {
      while (true) {
        const auto outcome = stores[i % 2]->LeaseTask(Worker("w" + std::to_string(i)));
        ASSERT_TRUE(outcome.ok()) << outcome.status();
        if (!outcome->task.has_value()) return;
        std::thread racers[2];
        for (int s = 0; s < 2; ++s) {
          racers[s] = std::thread([&, s] {
            const auto done = stores[s]->CompleteTask(KeyOf(*outcome->task), "r", {event});
            ASSERT_TRUE(done.ok()) << done.status();
            ++(*done ? accepted : repeated);
          });
        }
        for (std::thread& racer : racers) racer.join();
        const std::lock_guard<std::mutex> hold(mutex);
        leased.insert(outcome->task->task_id);
      }
    });
  }
  for (std::thread& worker : workers) worker.join();
  EXPECT_EQ(leased.size(), static_cast<size_t>(kTasks));
  EXPECT_EQ(std::set<std::string>(leased.begin(), leased.end()).size(),
            static_cast<size_t>(kTasks));
  EXPECT_EQ(accepted, kTasks);
  EXPECT_EQ(repeated, kTasks);
  int events = 0;
  const auto written = store_->Events("job-a", 1, 1000);
  for (const v1::JobEvent& e : *written) events += e.log() == "done" ? 1 : 0;
  EXPECT_EQ(events, kTasks);
  ExpectNoGaps("job-a");
}

// The lease ends while its worker completes: one of both has its way, whole.
TEST_P(JobStoreConformance, ACompletionRacesTheEndOfItsLease) {
  const std::shared_ptr<JobStore> other = Another();
  for (int round = 0; round < 10; ++round) {
    const std::string job = "job-" + std::to_string(round);
    Plan(Create(job), 1);
    const TaskRecord task = Lease(Worker("w1"));
    ASSERT_EQ(task.job_id, job);
    clock_->Advance(absl::Seconds(31));
    absl::StatusOr<bool> completed = absl::UnknownError("");
    absl::StatusOr<std::vector<Expired>> reaped = absl::UnknownError("");
    std::thread completes([&] { completed = store_->CompleteTask(KeyOf(task), "r", {}); });
    std::thread reaps([&] { reaped = other->ReapExpired(); });
    completes.join();
    reaps.join();
    ASSERT_TRUE(reaped.ok()) << reaped.status();
    const TaskRecord after = *store_->GetTask(task.task_id);
    if (completed.ok()) {
      EXPECT_TRUE(*completed);
      EXPECT_EQ(after.state, TaskState::kDone);
      EXPECT_TRUE(reaped->empty());
    } else {
      EXPECT_EQ(completed.status().code(), StatusCode::kAborted) << completed.status();
      EXPECT_EQ(after.state, TaskState::kReady);
      EXPECT_EQ(reaped->size(), 1u);
      // Another epoch, and it is done.
      EXPECT_TRUE(*other->CompleteTask(KeyOf(Lease(Worker("w2"))), "r", {}));
    }
    ExpectNoGaps(job);
  }
}

TEST_P(JobStoreConformance, WorkIsToldOfWhereATaskBecomesReady) {
  uint64_t seen = 0;
  const auto told = [&](absl::Duration timeout) {
    const uint64_t now = store_->AwaitWork(seen, timeout);
    return std::exchange(seen, now) != now;
  };
  // A shared store may still be told of what was before it was opened.
  const auto quiet = [&] { return GetParam().shared || !told(absl::ZeroDuration()); };
  const JobRecord created = Create("job-a");
  told(absl::ZeroDuration());
  Plan(created, 3);
  EXPECT_TRUE(told(absl::Seconds(30)));
  const TaskRecord done = Lease(Worker("w1"));
  ASSERT_TRUE(store_->RenewLease(KeyOf(done), 0.5).ok());
  ASSERT_TRUE(store_->CompleteTask(KeyOf(done), "r", {}).ok());
  EXPECT_TRUE(quiet());
  const TaskRecord failed = Lease(Worker("w1"));
  EXPECT_TRUE(quiet());
  ASSERT_TRUE(store_->FailTask(KeyOf(failed), FailureKind::kRetry, "INTERNAL", 13, "x").ok());
  EXPECT_TRUE(told(absl::Seconds(30)));
  Lease(Worker("w2"));
  clock_->Advance(absl::Minutes(1));
  ASSERT_EQ(store_->ReapExpired()->size(), 1u);
  EXPECT_TRUE(told(absl::Seconds(30)));
  ASSERT_TRUE(store_->SetStanding("w1", WorkerStanding::kActive).ok());
  EXPECT_TRUE(told(absl::Seconds(30)));
  store_->StopWaiting();
  EXPECT_EQ(store_->AwaitWork(seen, absl::Hours(1)), seen);
}

TEST_P(JobStoreConformance, OtherProcessesHearOfWork) {
  if (!GetParam().shared) GTEST_SKIP() << "one process at a time";
  const std::shared_ptr<JobStore> other = Another();
  const JobRecord job = Create("job-a");
  // Whatever it was told of by being opened has been told by now, or counts as an early hearing.
  uint64_t seen = other->AwaitWork(0, absl::ZeroDuration());
  const auto planned = Plan(job, 1);
  // Its own polling would find it too, after five seconds; the tenth planning is not polled for.
  for (int i = 1; i < 10; ++i) {
    const uint64_t now = other->AwaitWork(seen, absl::Seconds(30));
    EXPECT_NE(now, seen);
    seen = now;
    Plan(*store_->GetJob("job-a"), i + 1);
  }
}

TEST_P(JobStoreConformance, SaysWhetherAnybodyWouldGetATask) {
  EXPECT_TRUE(store_->LeaseTask(Worker("w1"))->none_ready);
  Plan(Create("job-a"), 2);
  Lease(Worker("w1"));
  const auto other = store_->LeaseTask(Worker("w2", "gpu"));
  EXPECT_FALSE(other->task.has_value());
  EXPECT_FALSE(other->none_ready);  // w1's class would
  Lease(Worker("w3"));
  EXPECT_TRUE(store_->LeaseTask(Worker("w4"))->none_ready);
}

TEST_P(JobStoreConformance, CountsTheTasksOfOneJob) {
  Plan(Create("job-a"), 3);
  Plan(Create("job-b"), 5);
  const TaskRecord task = Lease(Worker("w1"));
  ASSERT_TRUE(store_->CompleteTask(KeyOf(task), "r", {}).ok());
  EXPECT_EQ(*store_->CountTasksOf("job-a"),
            (TaskCounts{{{v1::TASK_KIND_PROFILE, TaskState::kReady}, 2},
                        {{v1::TASK_KIND_PROFILE, TaskState::kDone}, 1}}));
  EXPECT_TRUE(store_->CountTasksOf("nobody")->empty());
}

TEST_P(JobStoreConformance, ManyTasksAndEventsInOneStep) {
  Plan(Create("job-a"), 70);
  EXPECT_EQ(store_->ListTasks("job-a", false)->size(), 70u);
  const TaskRecord task = Lease(Worker("w1"));
  std::vector<v1::JobEvent> events(40);
  for (size_t i = 0; i < events.size(); ++i) events[i].set_log(std::to_string(i));
  ASSERT_TRUE(*store_->CompleteTask(KeyOf(task), "r", events));
  const auto all = store_->Events("job-a", 1, 1000);
  ASSERT_TRUE(all.ok());
  ASSERT_EQ(all->size(), 2u + 1 + 1 + 40);  // two states, leased, done
  for (size_t i = 0; i < 40; ++i) EXPECT_EQ((*all)[4 + i].log(), std::to_string(i));
  ExpectNoGaps("job-a");
}

TEST_P(JobStoreConformance, ManyJobsWithoutATaskForTheWorkerAreNoEnd) {
  for (int i = 0; i < 40; ++i) {
    Plan(Create("job-" + std::to_string(i)), 1);
    if (i < 39) Lease(Worker("w" + std::to_string(i)));  // pins it
  }
  const std::vector<WorkerRecord> workers = *store_->ListWorkers();
  for (const WorkerRecord& record : workers) {
    const TaskRecord task = *store_->GetTask(record.task_id);
    ASSERT_TRUE(store_->FailTask(KeyOf(task), FailureKind::kReleased, "", 1, "").ok());
  }
  EXPECT_EQ(Lease(Worker("other", "gpu")).job_id, "job-39");
  const auto none = store_->LeaseTask(Worker("another", "gpu"));
  EXPECT_EQ(none->idle_reason, "idle: another device class");
}

TEST_P(JobStoreConformance, ManyThreadsLeaseEachTaskOnce) {
  Plan(Create("job-a"), 40);
  std::mutex mutex;
  std::multiset<std::string> leased;
  std::vector<std::thread> threads;
  threads.reserve(4);
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      while (true) {
        const auto outcome = store_->LeaseTask(Worker("w" + std::to_string(i)));
        ASSERT_TRUE(outcome.ok()) << outcome.status();
        if (!outcome->task.has_value()) return;
        EXPECT_TRUE(store_->CompleteTask(KeyOf(*outcome->task), "r", {}).ok());
        std::lock_guard<std::mutex> hold(mutex);
        leased.insert(outcome->task->task_id);
      }
    });
  }
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(leased.size(), 40u);
  EXPECT_EQ(std::set<std::string>(leased.begin(), leased.end()).size(), 40u);
  ExpectNoGaps("job-a");
}

}  // namespace
}  // namespace shiftadd
