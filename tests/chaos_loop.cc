// kill -9 of random daemons, again and again while jobs run, for SHIFTADD_CHAOS_SECONDS. Each job
// has to end with the digest of an undisturbed run. Skipped without the variable: tests/deep.sh
// sets it.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <random>

#include "absl/time/clock.h"
#include "tests/cluster.h"
#include "worker/model/testing/tiny_llama.h"

namespace shiftadd::testing {
namespace {

constexpr int kWorkers = 2;
// Longer than an undisturbed job takes, short enough that a job that hangs is noticed.
constexpr absl::Duration kCalmTimeout = absl::Seconds(120);
// For how long one job is disturbed; then it must come to its end by itself.
constexpr absl::Duration kDisturbance = absl::Seconds(25);

int Number(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::atoi(text);
}

struct Kills {
  int workers = 0, coordinators = 0, packagers = 0;
};

class ChaosLoop : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = NewTempDir("chaos_loop");
    TinyLlamaOptions options;
    options.hidden = 96;
    options.intermediate = 160;
    options.blocks = 3;
    ASSERT_TRUE(WriteTinyLlamaDirectory(root_ + "/tiny", options).ok());
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  v1::JobSpec Spec() const {
    v1::JobSpec spec;
    spec.set_source("file://" + root_ + "/tiny");
    spec.mutable_recipe()->set_propagate(v1::PROPAGATE_QUANTIZED);  // through every state
    spec.mutable_budget()->set_planes(3);
    spec.mutable_calibration()->set_sequences(20);
    spec.mutable_calibration()->set_length(32);
    spec.mutable_evaluation()->set_sequences(10);
    spec.set_output("tiny");
    return spec;
  }
  // One job in a fresh cluster; its digest, or empty after a failure. `random` null: undisturbed.
  std::string RunJob(std::mt19937* random, Kills* kills);
  static void KillOne(Cluster* cluster, std::vector<size_t>* workers, std::mt19937* random,
                      Kills* kills);

  std::string root_;
};

// Kills one daemon and starts another in its place, at once or after a pause.
void ChaosLoop::KillOne(Cluster* cluster, std::vector<size_t>* workers, std::mt19937* random,
                        Kills* kills) {
  const absl::Duration pause = absl::Milliseconds((*random)() % 3 == 0 ? (*random)() % 1500 : 0);
  switch ((*random)() % 4) {
    case 0:
      cluster->KillCoordinator();
      absl::SleepFor(pause);
      cluster->StartCoordinator();
      ++kills->coordinators;
      break;
    case 1:
      cluster->KillPackager();
      absl::SleepFor(pause);
      cluster->StartPackager();
      ++kills->packagers;
      break;
    default: {
      size_t& worker = (*workers)[(*random)() % workers->size()];
      cluster->KillWorker(worker);
      absl::SleepFor(pause);
      worker = cluster->AddWorker();
      ++kills->workers;
    }
  }
}

std::string ChaosLoop::RunJob(std::mt19937* random, Kills* kills) {
  Cluster cluster(root_, /*lease_seconds=*/1);
  std::vector<size_t> workers;
  for (int w = 0; w < kWorkers; ++w) workers.push_back(cluster.AddWorker());
  const auto submitted = cluster.Submit(Spec());
  EXPECT_TRUE(submitted.ok()) << submitted.status();
  if (!submitted.ok()) return "";

  const absl::Time end = absl::Now() + kDisturbance;
  while (random != nullptr && absl::Now() < end) {
    absl::SleepFor(absl::Milliseconds((*random)() % 1200));
    const auto job = cluster.Get(submitted->job_id());
    if (job.ok() && Ended(*job)) break;
    KillOne(&cluster, &workers, random, kills);
  }
  const auto job = cluster.WaitUntil(
      submitted->job_id(), [](const v1::Job& j) { return Ended(j); }, kCalmTimeout);
  EXPECT_TRUE(job.ok()) << job.status();
  if (!job.ok()) return "";
  EXPECT_EQ(job->state(), v1::JOB_STATE_SUCCEEDED) << job->error() << cluster.Logs();
  return job->package_digest();
}

TEST_F(ChaosLoop, EveryJobEndsWithTheSameDigest) {
  const int seconds = Number("SHIFTADD_CHAOS_SECONDS", 60);
  const int seed = Number("SHIFTADD_CHAOS_SEED", 1);
  std::mt19937 random(static_cast<uint32_t>(seed));
  Kills kills;
  const std::string digest = RunJob(nullptr, &kills);
  ASSERT_FALSE(digest.empty());

  int jobs = 0;
  const absl::Time end = absl::Now() + absl::Seconds(seconds);
  while (absl::Now() < end && !HasFailure()) {
    EXPECT_EQ(RunJob(&random, &kills), digest) << "seed " << seed << ", job " << jobs;
    ++jobs;
  }
  std::printf("chaos: %d jobs with digest %s; killed %d workers, %d coordinators, %d packagers\n",
              jobs, digest.c_str(), kills.workers, kills.coordinators, kills.packagers);
  // A loop that disturbed nothing would say nothing.
  EXPECT_GT(kills.workers + kills.coordinators + kills.packagers, jobs);
}

}  // namespace
}  // namespace shiftadd::testing
