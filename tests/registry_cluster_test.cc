// A cluster whose processes share nothing but an OCI registry: the same package as through a
// folder, served from the registry alone, and seen there by other tools.
#include <gtest/gtest.h>

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "services/base/digest.h"
#include "services/blob/testing/registry_process.h"
#include "services/rpc/rpc.h"
#include "tests/cluster.h"
#include "worker/model/testing/tiny_llama.h"

namespace shiftadd::testing {
namespace {

class RegistryClusterTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    root_ = new std::string(NewTempDir("model"));
    TinyLlamaOptions options;
    options.hidden = 64;
    options.intermediate = 96;
    options.blocks = 2;
    ASSERT_TRUE(WriteTinyLlamaDirectory(*root_ + "/tiny", options).ok());
  }
  static void TearDownTestSuite() { std::filesystem::remove_all(*root_); }
  void SetUp() override {
    if (!RegistryProcess::IsInstalled()) GTEST_SKIP() << "no docker-registry";
  }

  static v1::JobSpec Spec() {
    v1::JobSpec spec;
    spec.set_source("file://" + *root_ + "/tiny");
    spec.mutable_budget()->set_planes(3);
    spec.mutable_calibration()->set_sequences(8);
    spec.mutable_calibration()->set_length(32);
    spec.mutable_evaluation()->set_sequences(2);
    spec.set_output("tiny:v1");
    return spec;
  }

  // The digest of the package tiny:v1 that a job of `cluster` publishes.
  static std::string RunJob(Cluster* cluster) {
    const auto job = cluster->Submit(Spec());
    EXPECT_TRUE(job.ok()) << job.status();
    if (!job.ok()) return "";
    const auto end = cluster->WaitForSuccess(job->job_id());
    EXPECT_TRUE(end.ok()) << end.status();
    return end.ok() ? end->package_digest() : "";
  }

  // Ids of an answer of a server that has nothing but `package_dir`.
  static std::string Answer(const std::string& package_dir) {
    const std::string dir = NewTempDir("server");
    Process server({Binary("shiftadd-server"), "--package", "tiny:v1", "--package-dir", package_dir,
                    "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--threads", "1",
                    "--port-file", dir + "/ports"},
                   dir + "/log");
    const int port = WaitForPorts(dir + "/ports", &server, dir + "/log")[0];
    const auto stub =
        v1::GenerateService::NewStub(rpc::MakeChannel(absl::StrCat("127.0.0.1:", port)));
    v1::GenerateRequest request;
    request.set_text("Hello");
    request.set_max_tokens(8);
    request.set_ignore_eos(true);
    grpc::ClientContext context;
    rpc::SetDeadline(&context, absl::Seconds(20));
    const auto reader = stub->Generate(&context, request);
    std::string ids;
    for (v1::GenerateResponse r; reader->Read(&r);) {
      for (const uint32_t id : r.tokens()) absl::StrAppend(&ids, id, " ");
    }
    EXPECT_TRUE(reader->Finish().ok());
    server.Kill();
    std::filesystem::remove_all(dir);
    return ids;
  }

  static std::string* root_;
};
std::string* RegistryClusterTest::root_ = nullptr;

TEST_F(RegistryClusterTest, TheSamePackageAsThroughAFolderAndServedFromTheRegistryAlone) {
  std::string expected, answer;
  {
    Cluster folder(*root_);
    folder.AddWorker();
    expected = RunJob(&folder);
    answer = Answer(folder.store_dir());
  }
  const auto registry = RegistryProcess::Start();
  ASSERT_NE(registry, nullptr);
  const std::string store = registry->url() + "/shiftadd";
  Cluster cluster(*root_, 10, store);
  cluster.AddWorker();
  cluster.AddWorker();
  EXPECT_EQ(RunJob(&cluster), expected);
  EXPECT_EQ(Answer(store), answer);
  EXPECT_EQ(std::vector<std::string>(absl::StrSplit(answer, ' ', absl::SkipEmpty())).size(), 8u);
  const RunResult bench = RunCommand({Binary("shiftadd"), "bench", "tiny:v1", "--blobs", store,
                                      "--packager", cluster.packager_address(), "--no-source",
                                      "--context", "8", "--seconds", "0.01"});
  EXPECT_EQ(bench.exit_code, 0) << bench.output;

  // What nobody needs goes, here and in the registry; the package stays.
  v1::CollectGarbageRequest collect;
  v1::CollectGarbageResponse collected;
  grpc::ClientContext context;
  rpc::SetDeadline(&context, absl::Seconds(60));
  const grpc::Status status = cluster.packages().CollectGarbage(&context, collect, &collected);
  EXPECT_TRUE(status.ok()) << status.error_message();
  ASSERT_TRUE(registry->CollectGarbage());
  ASSERT_TRUE(registry->Restart());
  EXPECT_EQ(Answer(store), answer);

  // Other tools see it under its own name, byte for byte.
  const std::string host = registry->url().substr(sizeof("http://") - 1);
  if (!std::filesystem::exists("/usr/bin/skopeo")) return;
  const RunResult seen = RunCommand({"/usr/bin/skopeo", "inspect", "--raw", "--tls-verify=false",
                                     absl::StrCat("docker://", host, "/shiftadd/tiny:v1")});
  ASSERT_EQ(seen.exit_code, 0) << seen.output;
  EXPECT_EQ(Sha256Digest(seen.output), expected);
  const std::string copy = NewTempDir("copy");
  const RunResult copied =
      RunCommand({"/usr/bin/skopeo", "copy", "--preserve-digests", "--src-tls-verify=false",
                  absl::StrCat("docker://", host, "/shiftadd/tiny:v1"),
                  absl::StrCat("oci:", copy, ":tiny:v1")});
  ASSERT_EQ(copied.exit_code, 0) << copied.output;
  EXPECT_EQ(Answer(copy), answer);
  std::filesystem::remove_all(copy);
}

TEST_F(RegistryClusterTest, WhileTheRegistryIsAwayAJobWaitsAndNothingFails) {
  std::string expected;
  {
    Cluster folder(*root_);
    folder.AddWorker();
    expected = RunJob(&folder);
  }
  const auto registry = RegistryProcess::Start();
  ASSERT_NE(registry, nullptr);
  Cluster cluster(*root_, /*lease_seconds=*/3, registry->url() + "/shiftadd");
  cluster.AddWorker();
  cluster.AddWorker();
  const auto job = cluster.Submit(Spec());
  ASSERT_TRUE(job.ok()) << job.status();
  // Its first blobs are there, and most are not.
  const auto started = cluster.WaitUntil(
      job->job_id(), [](const v1::Job& j) { return j.state() >= v1::JOB_STATE_CALIBRATING; });
  ASSERT_TRUE(started.ok()) << started.status();
  registry->Stop();
  absl::SleepFor(absl::Seconds(10));  // three leases
  const auto waiting = cluster.Get(job->job_id());
  ASSERT_TRUE(waiting.ok()) << waiting.status();
  EXPECT_FALSE(Ended(*waiting)) << v1::JobState_Name(waiting->state()) << ": " << waiting->error();
  ASSERT_TRUE(registry->Restart());
  const absl::Status end = cluster.EndsAs(job->job_id(), expected);
  EXPECT_TRUE(end.ok()) << end;
  const auto events = cluster.Events(job->job_id());
  ASSERT_TRUE(events.ok()) << events.status();
  for (const v1::JobEvent& event : *events) {
    EXPECT_NE(event.task().change(), "failed") << event.ShortDebugString();
  }
}

}  // namespace
}  // namespace shiftadd::testing
