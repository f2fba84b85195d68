// Lease loops over gRPC and the services of a coordinator on a real store, in one process: all that
// the threads of workers and of a coordinator share. Only the work of a task is simulated, so that
// sanitizers see everything that runs here.
#include "worker/tasks/lease_loop.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/base/ids.h"
#include "services/coordinator/services.h"
#include "services/coordinator/simulated_cluster.h"
#include "services/rpc/rpc.h"
#include "services/store/job_store.h"
#include "shiftadd/v1/job.grpc.pb.h"

namespace shiftadd {
namespace {

using coordinator::SimulatedCluster;
using coordinator::SimulatedModel;

constexpr absl::Duration kLease = absl::Seconds(9);
constexpr absl::Duration kHung = absl::Seconds(120);  // by then a test has hung
constexpr SimulatedModel kModel{.blocks = 12};

bool Within(const std::function<bool()>& condition) {
  for (const absl::Time end = absl::Now() + kHung; absl::Now() < end;) {
    if (condition()) return true;
    absl::SleepFor(absl::Milliseconds(5));
  }
  return condition();
}

// Works on a task until its time is over, and stores what came of it as long again.
class SimulatedRunner : public Runner {
 public:
  SimulatedRunner(const SimulatedCluster* answers, absl::Duration time)
      : answers_(answers), time_(time) {}

  std::unique_ptr<StoringTask> Begin(const v1::Task& task, TaskControl* control) override {
    ++begun;
    const absl::Time end = absl::Now() + time_;
    while ((held_back || absl::Now() < end) && control->Check().ok()) {
      ++control->progress_count;
      control->progress = 0.5;
      absl::SleepFor(absl::Milliseconds(1));
    }
    if (!control->Check().ok()) ++cancelled;
    held_.reset();
    if (task.has_profile()) held_ = {task.context().job_id(), task.profile().block() + 1};
    return std::make_unique<Stored>(control->Check(), answers_->Answer(task), time_);
  }
  std::optional<HeldActivations> held() const override { return held_; }
  absl::Status device_fault() const override { return absl::OkStatus(); }

  std::atomic<bool> held_back{false};  // work goes on until it is cancelled or this is false
  std::atomic<int> begun{0}, cancelled{0};

 private:
  class Stored : public StoringTask {
   public:
    Stored(absl::Status status, v1::TaskResult result, absl::Duration time)
        : status_(std::move(status)), result_(std::move(result)), time_(time) {}
    const absl::Status& status() const override { return status_; }
    absl::StatusOr<v1::TaskResult> Finish() override {
      if (!status_.ok()) return status_;
      absl::SleepFor(time_);
      return result_;
    }
    std::vector<std::string> lost_blobs() const override { return {}; }

   private:
    const absl::Status status_;
    const v1::TaskResult result_;
    const absl::Duration time_;
  };

  const SimulatedCluster* const answers_;
  const absl::Duration time_;
  std::optional<HeldActivations> held_;
};

// A loop on its own thread, as a worker's process has it.
class Worker {
 public:
  Worker(const std::string& name, const std::string& coordinators, const SimulatedCluster* answers,
         absl::Duration time)
      : metrics_(&registry_),
        coordinators_(coordinators),
        runner_(answers, time),
        loop_({name, "cpu-avx2", 1 << 30}, &coordinators_, &runner_, &metrics_) {}
  ~Worker() { Stop(); }
  void Start() {
    thread_ = std::thread([this] { EXPECT_EQ(loop_.Run(), absl::OkStatus()); });
  }
  void Stop() {
    loop_.Stop();
    if (thread_.joinable()) thread_.join();
  }
  // Tasks that ended so.
  double Tasks(const std::string& kind, const std::string& outcome) {
    return metrics_.tasks->Add({{"kind", kind}, {"outcome", outcome}}).Value();
  }
  SimulatedRunner& runner() { return runner_; }
  LeaseLoop& loop() { return loop_; }

 private:
  prometheus::Registry registry_;
  WorkerMetrics metrics_;
  const rpc::Failover<v1::TaskService> coordinators_;
  SimulatedRunner runner_;
  LeaseLoop loop_;
  std::thread thread_;
};

class LeaseLoopTest : public testing::Test {
 protected:
  void SetUp() override {
    StorePolicy policy;
    policy.lease = kLease;
    policy.max_attempts = 1000;  // a machine that is slow fails no job here
    store_ =
        OpenSqliteJobStore(answers_.dir + "/served.db", std::make_shared<SystemClock>(), policy)
            .value();
    clock_ = std::make_unique<StoreClock>(store_.get());
    coordinator::CoordinatorOptions options;
    options.lease = kLease;
    options.observer = metrics_.MakeObserver();
    core_ = std::make_unique<coordinator::Coordinator>(
        store_.get(), &answers_.publisher, answers_.scratch.get(), clock_.get(), options);
    server_ = Serve(0);
    port_ = server_->server->port();
    driver_ = std::thread([this] { Drive(); });
  }
  void TearDown() override {
    workers_.clear();
    EndDriver();
    server_.reset();
    other_.reset();
  }

  // The services at a port.
  struct Served {
    coordinator::JobServiceHandler jobs;
    coordinator::TaskServiceHandler tasks;
    std::unique_ptr<rpc::Server> server;
  };
  std::unique_ptr<Served> Serve(int port) {
    std::unique_ptr<Served> served(
        new Served{coordinator::JobServiceHandler(core_.get(), &metrics_, &stop_),
                   coordinator::TaskServiceHandler(core_.get(), &metrics_, &stop_), nullptr});
    served->server =
        rpc::Server::Start({absl::StrCat("127.0.0.1:", port)}, {&served->jobs, &served->tasks})
            .value();
    return served;
  }
  std::string Address() const { return absl::StrCat("127.0.0.1:", port_); }
  Worker& AddWorker(absl::Duration time, const std::string& coordinators) {
    return *workers_.emplace_back(std::make_unique<Worker>(absl::StrCat("w", workers_.size()),
                                                           coordinators, &answers_, time));
  }
  std::string Submit() {
    std::vector<FieldFault> faults;
    return core_->Submit(SimulatedCluster::Request(), "local", &faults).value().job_id();
  }
  v1::JobState StateOf(const std::string& job) { return store_->GetJob(job)->job.state(); }
  // Watches over gRPC until the job has ended: no event is missed or told twice.
  void Watch(const std::string& job, const std::string& address) const {
    const auto stub = v1::JobService::NewStub(rpc::MakeChannel(address));
    grpc::ClientContext context;
    rpc::SetDeadline(&context, kHung);
    v1::WatchJobRequest request;
    request.set_job_id(job);
    const auto reader = stub->WatchJob(&context, request);
    v1::JobEvent event;
    for (uint64_t sequence = 1; reader->Read(&event); ++sequence) {
      EXPECT_EQ(event.sequence(), sequence);
    }
    const grpc::Status status = reader->Finish();
    EXPECT_TRUE(status.ok()) << status.error_message();
  }
  // Nothing is asked of the publisher from then on.
  void EndDriver() {
    stop_ = true;
    store_->StopWaiting();
    if (driver_.joinable()) driver_.join();
  }
  // What one worker alone would have published.
  static std::string ExpectedConfig() {
    SimulatedCluster cluster(kModel);
    cluster.Submit(SimulatedCluster::Request());
    cluster.Run(1);
    return cluster.publisher.published.at(0).config_json();
  }

  SimulatedCluster answers_{kModel};
  coordinator::CoordinatorMetrics metrics_{std::make_shared<prometheus::Registry>()};
  coordinator::StopFlag stop_ = false;
  std::unique_ptr<JobStore> store_;
  std::unique_ptr<StoreClock> clock_;
  std::unique_ptr<coordinator::Coordinator> core_;
  std::unique_ptr<Served> server_, other_;
  int port_ = 0;
  std::vector<std::unique_ptr<Worker>> workers_;

 private:
  void Drive() {
    uint64_t seen = 0;
    while (!stop_) {
      EXPECT_EQ(core_->Tick(), absl::OkStatus());
      seen = store_->AwaitChange(seen, absl::Milliseconds(200));
    }
  }

  std::thread driver_;
};

TEST_F(LeaseLoopTest, ManyWorkersAtSeveralAddressesDoAsOneDoes) {
  other_ = Serve(0);
  const std::string other = absl::StrCat("127.0.0.1:", other_->server->port());
  const std::string addresses = absl::StrCat(Address(), ",", other);
  for (int i = 0; i < 4; ++i) AddWorker(absl::Milliseconds(10), addresses).Start();
  const std::string first = Submit(), second = Submit();
  std::vector<std::thread> watchers;
  for (const std::string& job : {first, second, first}) {
    watchers.emplace_back([this, job, other] { Watch(job, other); });
  }
  std::thread scraper([this, second] {
    while (!IsTerminal(StateOf(second))) {
      metrics_.Refresh(core_.get());
      absl::SleepFor(absl::Milliseconds(20));
    }
  });
  // Whoever asks there is at the other one from then on.
  EXPECT_TRUE(Within([&] { return StateOf(first) >= v1::JOB_STATE_PROFILING; }));
  server_.reset();
  for (std::thread& watcher : watchers) watcher.join();
  scraper.join();
  EXPECT_EQ(StateOf(first), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(StateOf(second), v1::JOB_STATE_SUCCEEDED);
  for (const auto& worker : workers_) worker->Stop();
  EndDriver();
  ASSERT_EQ(answers_.publisher.published.size(), 2u);
  for (const v1::PublishPackageRequest& request : answers_.publisher.published) {
    EXPECT_EQ(request.config_json(), ExpectedConfig());
  }
  const auto tasks = store_->ListTasks(first, false);
  for (const TaskRecord& task : *tasks) {
    EXPECT_EQ(task.state, TaskState::kDone) << task.task_id;
  }
}

TEST_F(LeaseLoopTest, ACancelledJobEndsTheTaskAtWork) {
  Worker& worker = AddWorker(absl::ZeroDuration(), Address());
  worker.runner().held_back = true;
  worker.Start();
  const std::string job = Submit();
  EXPECT_TRUE(Within([&] { return worker.runner().begun == 1; }));
  ASSERT_EQ(core_->Cancel(job).status(), absl::OkStatus());
  EXPECT_TRUE(Within([&] { return StateOf(job) == v1::JOB_STATE_CANCELLED; }));
  EXPECT_EQ(worker.runner().cancelled, 1);
  // It is there for others.
  worker.runner().held_back = false;
  const std::string next = Submit();
  EXPECT_TRUE(Within([&] { return IsTerminal(StateOf(next)); }));
  EXPECT_EQ(StateOf(next), v1::JOB_STATE_SUCCEEDED);
  worker.Stop();
  EXPECT_EQ(worker.Tasks("INGEST", "cancelled"), 1);
  EXPECT_EQ(worker.Tasks("INGEST", "done"), 1);
}

TEST_F(LeaseLoopTest, WhoeverStopsGivesHisTaskBack) {
  Worker& worker = AddWorker(absl::ZeroDuration(), Address());
  worker.runner().held_back = true;
  worker.Start();
  const std::string job = Submit();
  EXPECT_TRUE(Within([&] { return worker.runner().begun == 1; }));
  EXPECT_EQ(worker.loop().NotReadyReason(), "");
  worker.Stop();
  const std::vector<TaskRecord> tasks = store_->ListTasks(job, false).value();
  ASSERT_EQ(tasks.size(), 1u);
  EXPECT_EQ(tasks[0].state, TaskState::kReady);
  EXPECT_THAT(tasks[0].attempts, testing::IsEmpty());
}

TEST_F(LeaseLoopTest, WhoeverCannotRenewDropsHisTask) {
  Worker& worker = AddWorker(absl::ZeroDuration(), Address());
  worker.runner().held_back = true;
  worker.Start();
  const std::string job = Submit();
  EXPECT_TRUE(Within([&] { return worker.runner().begun == 1; }));
  server_.reset();
  EXPECT_TRUE(Within([&] { return worker.runner().cancelled == 1; }));
  worker.runner().held_back = false;
  server_ = Serve(port_);
  EXPECT_TRUE(Within([&] { return IsTerminal(StateOf(job)); }));
  EXPECT_EQ(StateOf(job), v1::JOB_STATE_SUCCEEDED);
  worker.Stop();
  EXPECT_EQ(worker.Tasks("INGEST", "lost"), 1);
  EXPECT_EQ(worker.Tasks("INGEST", "done"), 1);
}

}  // namespace
}  // namespace shiftadd
