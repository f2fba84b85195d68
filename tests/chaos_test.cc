// Faults while a job runs: frozen workers, kills in each kind of task, a packager that is away, a
// full disk. Lost blobs, outages and restores: chaos/disaster_test.cc. Whatever happens, the digest
// is that of an undisturbed run.
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/rpc/rpc.h"
#include "tests/cluster.h"
#include "worker/model/testing/tiny_llama.h"

namespace shiftadd::testing {
namespace {

class ChaosTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    root_ = NewTempDir("chaos");
    TinyLlamaOptions options;
    options.hidden = 96;
    options.intermediate = 160;
    options.blocks = 3;
    ASSERT_TRUE(WriteTinyLlamaDirectory(root_ + "/tiny", options).ok());
    Cluster cluster(root_);
    cluster.AddWorker();
    digest_ = new std::string();
    *digest_ = Finish(&cluster, SubmitGood(&cluster));
    ASSERT_FALSE(digest_->empty());
  }
  static void TearDownTestSuite() { std::filesystem::remove_all(root_); }

  static v1::JobSpec Spec() {
    v1::JobSpec spec;
    spec.set_source("file://" + root_ + "/tiny");
    spec.mutable_budget()->set_planes(3);
    spec.mutable_calibration()->set_sequences(20);
    spec.mutable_calibration()->set_length(32);
    spec.mutable_evaluation()->set_sequences(10);
    spec.set_output("tiny");
    return spec;
  }
  static std::string SubmitGood(Cluster* cluster) {
    const auto job = cluster->Submit(Spec());
    EXPECT_TRUE(job.ok()) << job.status();
    return job.ok() ? job->job_id() : "";
  }
  // The digest, or empty.
  static std::string Finish(Cluster* cluster, const std::string& job_id) {
    const auto end = cluster->WaitForSuccess(job_id, absl::Seconds(60));
    EXPECT_TRUE(end.ok()) << end.status();
    return end.ok() ? end->package_digest() : "";
  }
  // Which of these workers first logs a task of this kind; their number if none does.
  static size_t WaitForTask(Cluster* cluster, const std::vector<size_t>& workers,
                            const std::string& kind) {
    const std::string text = absl::StrCat(" ", kind, " of ");
    for (const absl::Time end = absl::Now() + absl::Seconds(20); absl::Now() < end;) {
      for (size_t i = 0; i < workers.size(); ++i) {
        const std::string log = absl::StrCat(cluster->dir(), "/worker", workers[i], ".log");
        if (absl::StrContains(ReadFile(log), text)) return i;
      }
      absl::SleepFor(absl::Milliseconds(2));
    }
    return workers.size();
  }

  static std::string root_;
  static std::string* digest_;
};
std::string ChaosTest::root_;
std::string* ChaosTest::digest_ = nullptr;

TEST_F(ChaosTest, AWorkerFrozenBeyondItsLeaseIsRefusedWhenItWakes) {
  Cluster cluster(root_, /*lease_seconds=*/1);
  cluster.AddWorker();
  const std::string job = SubmitGood(&cluster);
  ASSERT_EQ(WaitForTask(&cluster, {0}, "PROFILE"), 0u);
  cluster.SignalWorker(0, SIGSTOP);
  cluster.AddWorker();
  EXPECT_EQ(Finish(&cluster, job), *digest_);
  cluster.SignalWorker(0, SIGCONT);
  // It drops what it held, and takes the next job.
  cluster.KillWorker(1);
  EXPECT_EQ(Finish(&cluster, SubmitGood(&cluster)), *digest_);
  const std::string log = ReadFile(cluster.dir() + "/worker0.log");
  EXPECT_TRUE(absl::StrContains(log, "lease is lost") || absl::StrContains(log, "ABORTED") ||
              absl::StrContains(log, "NOT_FOUND"))
      << log;
}

TEST_F(ChaosTest, AWorkerKilledInEachKindOfTask) {
  // A few kills a job, in the order in which the kinds of task come.
  for (const std::vector<std::string>& kinds :
       {std::vector<std::string>{"INGEST", "CALIBRATE", "PROFILE"},
        std::vector<std::string>{"HASH", "FORWARD", "ENDS"},
        std::vector<std::string>{"EVALUATE"}}) {
    Cluster cluster(root_, /*lease_seconds=*/1);
    // With one worker nothing is split, and no FORWARD task is made.
    std::vector<size_t> live = {cluster.AddWorker(), cluster.AddWorker()};
    const std::string job = SubmitGood(&cluster);
    for (const std::string& kind : kinds) {
      const size_t victim = WaitForTask(&cluster, live, kind);
      ASSERT_LT(victim, live.size()) << "no " << kind << " task was seen\n" << cluster.Logs();
      cluster.KillWorker(live[victim]);
      live[victim] = cluster.AddWorker();
    }
    EXPECT_EQ(Finish(&cluster, job), *digest_) << cluster.Logs();
  }
}

TEST_F(ChaosTest, ThePackagerKilledBeforePackagingIsWaitedFor) {
  Cluster cluster(root_);
  cluster.AddWorker();
  const std::string job = SubmitGood(&cluster);
  const auto evaluating = cluster.WaitUntil(
      job, [](const v1::Job& j) { return j.state() >= v1::JOB_STATE_EVALUATING; });
  ASSERT_TRUE(evaluating.ok()) << evaluating.status();
  cluster.KillPackager();
  absl::SleepFor(absl::Seconds(2));
  const auto waiting = cluster.Get(job);
  ASSERT_TRUE(waiting.ok()) << waiting.status();
  EXPECT_FALSE(Ended(*waiting)) << v1::JobState_Name(waiting->state()) << waiting->error();
  cluster.StartPackager();
  EXPECT_EQ(Finish(&cluster, job), *digest_);
}

// A disk of its own for a store; none without the right to mount.
class SmallDisk {
 public:
  SmallDisk() : dir_(NewTempDir("disk")) {
    mounted_ = mount("tmpfs", dir_.c_str(), "tmpfs", 0, "size=64m") == 0;
  }
  ~SmallDisk() {
    if (mounted_) umount2(dir_.c_str(), MNT_DETACH);
    rmdir(dir_.c_str());
  }
  bool mounted() const { return mounted_; }
  const std::string& dir() const { return dir_; }
  // Leaves nothing free until Free.
  void Fill() const {
    const RunResult ignored = RunCommand({"dd", "if=/dev/zero", "of=" + dir_ + "/fill", "bs=4k"});
    EXPECT_NE(ignored.exit_code, 0);
  }
  void Free() const { std::filesystem::remove(dir_ + "/fill"); }

 private:
  std::string dir_;
  bool mounted_ = false;
};

TEST_F(ChaosTest, AFullDiskFailsTheJobAndARetryFinishesIt) {
  SmallDisk disk;
  if (!disk.mounted()) GTEST_SKIP() << "needs the right to mount a tmpfs";
  Cluster cluster(root_, /*lease_seconds=*/3, disk.dir() + "/store");
  cluster.AddWorker();
  const std::string job = SubmitGood(&cluster);
  const auto profiling = cluster.WaitUntil(job, [](const v1::Job& j) {
    return j.state() == v1::JOB_STATE_PROFILING && j.progress().tasks_done() >= 1;
  });
  ASSERT_TRUE(profiling.ok()) << profiling.status();
  disk.Fill();
  const auto failed = cluster.WaitForEnd(job, absl::Seconds(60));
  ASSERT_TRUE(failed.ok()) << failed.status();
  ASSERT_EQ(failed->state(), v1::JOB_STATE_FAILED);
  EXPECT_NE(failed->error().find("No space left on device"), std::string::npos) << failed->error();
  EXPECT_NE(failed->error().find(disk.dir() + "/store"), std::string::npos) << failed->error();
  disk.Free();
  grpc::ClientContext context;
  rpc::SetDeadline(&context, absl::Seconds(10));
  v1::RetryJobRequest request;
  request.set_job_id(job);
  v1::Job retried;
  const grpc::Status status = cluster.jobs().RetryJob(&context, request, &retried);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(Finish(&cluster, job), *digest_);
  EXPECT_TRUE(std::filesystem::is_empty(disk.dir() + "/store/tmp"));
}

}  // namespace
}  // namespace shiftadd::testing
