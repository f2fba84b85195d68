// The worker's process against a coordinator in this one.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/rpc/rpc.h"
#include "shiftadd/v1/task.grpc.pb.h"
#include "tests/cluster.h"
#include "worker/model/testing/tiny_llama.h"

namespace shiftadd::testing {
namespace {

using ::testing::HasSubstr;

// How long a worker that must not ask for another task is given to do so.
constexpr absl::Duration kTempted = absl::Seconds(2);

// Gives one INGEST task and refuses whatever comes of it, but takes it back when it has failed. If
// it is not the first attempt, the result is taken late.
class RefusingTasks : public v1::TaskService::Service {
 public:
  explicit RefusingTasks(std::string source) : source_(std::move(source)) {}
  // Before the first worker.
  void set_attempt(uint32_t attempt) { attempt_ = attempt; }

  grpc::Status LeaseTask(grpc::ServerContext* context, const v1::LeaseTaskRequest*,
                         v1::LeaseTaskResponse* response) override {
    {
      const std::lock_guard<std::mutex> hold(mutex_);
      if (!given_) {
        given_ = true;
        FillTask(response->mutable_task());
        return grpc::Status::OK;
      }
      asked_again_ = true;
    }
    while (!context->IsCancelled()) absl::SleepFor(absl::Milliseconds(10));
    return grpc::Status::CANCELLED;
  }
  grpc::Status RenewLease(grpc::ServerContext*, const v1::RenewLeaseRequest*,
                          v1::RenewLeaseResponse* response) override {
    response->mutable_lease()->set_seconds(30);
    return grpc::Status::OK;
  }
  grpc::Status CompleteTask(grpc::ServerContext*, const v1::CompleteTaskRequest* request,
                            v1::CompleteTaskResponse*) override {
    for (const absl::Time end = absl::Now() + kTempted;
         attempt_ > 1 && !asked_again() && absl::Now() < end;)
      absl::SleepFor(absl::Milliseconds(10));
    const std::lock_guard<std::mutex> hold(mutex_);
    completed_.push_back(*request);
    if (attempt_ > 1) {
      asked_beside_ = asked_again_;
      return grpc::Status::OK;
    }
    return {grpc::StatusCode::INVALID_ARGUMENT, "result: found 14 layers, expected 7"};
  }
  grpc::Status FailTask(grpc::ServerContext*, const v1::FailTaskRequest* request,
                        v1::FailTaskResponse*) override {
    const std::lock_guard<std::mutex> hold(mutex_);
    failed_.push_back(*request);
    return grpc::Status::OK;
  }

  std::vector<v1::CompleteTaskRequest> completed() const {
    const std::lock_guard<std::mutex> hold(mutex_);
    return completed_;
  }
  std::vector<v1::FailTaskRequest> failed() const {
    const std::lock_guard<std::mutex> hold(mutex_);
    return failed_;
  }
  bool asked_again() const {
    const std::lock_guard<std::mutex> hold(mutex_);
    return asked_again_;
  }
  // Before the first task was reported.
  bool asked_beside() const {
    const std::lock_guard<std::mutex> hold(mutex_);
    return asked_beside_;
  }

 private:
  void FillTask(v1::Task* task) const {
    task->set_task_id("task-1");
    task->set_kind(v1::TASK_KIND_INGEST);
    task->set_lease_epoch(5);
    task->set_attempt(attempt_);
    task->mutable_lease()->set_seconds(30);
    task->mutable_stall_limit()->set_seconds(600);
    task->mutable_context()->set_job_id("job-1");
    task->mutable_context()->set_source(source_);
    v1::Recipe* recipe = task->mutable_context()->mutable_recipe();
    recipe->set_method(v1::METHOD_RTN);
    recipe->set_group_size(128);
    recipe->add_candidate_bits(3);
    task->mutable_ingest()->mutable_calibration()->set_sequences(4);
    task->mutable_ingest()->mutable_calibration()->set_length(24);
  }

  const std::string source_;
  mutable std::mutex mutex_;
  uint32_t attempt_ = 1;
  bool given_ = false, asked_again_ = false, asked_beside_ = false;
  std::vector<v1::CompleteTaskRequest> completed_;
  std::vector<v1::FailTaskRequest> failed_;
};

// RefusingTasks at a port, and a worker that asks them.
class WorkerTest : public ::testing::Test {
 protected:
  void Start(const std::vector<std::string>& environment = {}) {
    ASSERT_TRUE(WriteTinyLlamaDirectory(dir_ + "/tiny", TinyLlamaOptions()).ok());
    rpc::ServerOptions options;
    options.address = "127.0.0.1:0";
    auto server = rpc::Server::Start(options, {&tasks_});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    worker_ = Process({Binary("shiftadd-worker"), "--coordinator",
                       absl::StrCat("127.0.0.1:", server_->port()), "--blobs", dir_ + "/store",
                       "--source-root", dir_, "--http", "127.0.0.1:0", "--threads", "1"},
                      log_, environment);
  }

  const std::string dir_ = NewTempDir("worker"), log_ = dir_ + "/worker.log";
  RefusingTasks tasks_{"file://" + dir_ + "/tiny"};
  std::unique_ptr<rpc::Server> server_;
  Process worker_;
};

TEST_F(WorkerTest, AResultThatIsRefusedFailsTheTaskAndSaysWhy) {
  Start();
  for (const absl::Time end = absl::Now() + absl::Seconds(60);
       tasks_.failed().empty() && absl::Now() < end;)
    absl::SleepFor(absl::Milliseconds(20));
  // Once each: the same result is not offered again.
  ASSERT_EQ(tasks_.completed().size(), 1u) << ReadFile(log_);
  ASSERT_EQ(tasks_.failed().size(), 1u) << ReadFile(log_);
  EXPECT_TRUE(tasks_.completed()[0].result().has_ingest());
  const v1::FailTaskRequest failed = tasks_.failed()[0];
  EXPECT_EQ(failed.task_id(), "task-1");
  EXPECT_EQ(failed.lease_epoch(), tasks_.completed()[0].lease_epoch());
  EXPECT_EQ(failed.code(), static_cast<int32_t>(absl::StatusCode::kInvalidArgument));
  EXPECT_EQ(failed.message(),
            "the coordinator refused the result: result: found 14 layers, expected 7");
  EXPECT_THAT(ReadFile(log_), HasSubstr("reporting task-1: INVALID_ARGUMENT"));
  worker_.Signal(SIGTERM);  // it has gone on and asks for the next
  EXPECT_EQ(worker_.Wait(absl::Seconds(20)), 0);
}

// Should it be what ends workers, no other task may be at work when it does.
TEST_F(WorkerTest, ATaskThatWasLostBeforeIsReportedBeforeThereIsAnother) {
  tasks_.set_attempt(2);
  Start();
  for (const absl::Time end = absl::Now() + absl::Seconds(60);
       !tasks_.asked_again() && absl::Now() < end;)
    absl::SleepFor(absl::Milliseconds(20));
  EXPECT_EQ(tasks_.completed().size(), 1u) << ReadFile(log_);
  EXPECT_TRUE(tasks_.asked_again()) << ReadFile(log_);
  EXPECT_FALSE(tasks_.asked_beside());
}

// Nothing can be done with a device that is lost: the task fails, its lease is given back, and the
// worker ends, so that whoever watches it notices.
TEST_F(WorkerTest, ADeviceThatIsLostEndsTheWorker) {
  Start({"SHIFTADD_FAIL_POINT=task.device:1:fail"});
  EXPECT_EQ(worker_.Wait(absl::Seconds(60)), 1) << ReadFile(log_);
  EXPECT_TRUE(tasks_.completed().empty());
  ASSERT_EQ(tasks_.failed().size(), 1u) << ReadFile(log_);
  EXPECT_EQ(tasks_.failed()[0].task_id(), "task-1");
  EXPECT_EQ(tasks_.failed()[0].code(), static_cast<int32_t>(absl::StatusCode::kInternal));
  EXPECT_THAT(tasks_.failed()[0].message(), HasSubstr("the GPU is lost: it does not answer"));
  EXPECT_THAT(ReadFile(log_), HasSubstr("shiftadd-worker: the GPU is lost: it does not answer"));
}

}  // namespace
}  // namespace shiftadd::testing
