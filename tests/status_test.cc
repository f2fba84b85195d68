// `shiftadd status` and cordoned workers, with the real daemons of a cluster that has lost one
// coordinator.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/store/postgres_server.h"
#include "tests/cluster.h"
#include "worker/model/testing/tiny_llama.h"

namespace shiftadd::testing {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;

class StatusTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    root_ = new std::string(NewTempDir("model"));
    ASSERT_TRUE(WriteTinyLlamaDirectory(*root_ + "/tiny", TinyLlamaOptions()).ok());
  }

  static v1::JobSpec Spec(const std::string& model) {
    v1::JobSpec spec;
    spec.set_source("file://" + *root_ + "/" + model);
    spec.mutable_recipe()->set_method(v1::METHOD_RTN);
    spec.mutable_budget()->set_planes(3);
    spec.mutable_calibration()->set_sequences(8);
    spec.mutable_calibration()->set_length(32);
    spec.mutable_evaluation()->set_sequences(4);
    spec.set_output("tiny:v1");
    return spec;
  }

  // The address of a coordinator that was killed.
  std::string LostCoordinator() {
    const std::string port_file = cluster_.dir() + "/lost.port", log = cluster_.dir() + "/lost.log";
    Process lost({Binary("shiftadd-coordinator"), "--listen", "127.0.0.1:0", "--http",
                  "127.0.0.1:0", "--data-dir", cluster_.dir() + "/lost", "--packager",
                  cluster_.packager_address(), "--port-file", port_file},
                 log);
    const int port = WaitForPorts(port_file, &lost, log)[0];
    lost.Kill();
    return absl::StrCat("127.0.0.1:", port);
  }

  json StatusJson(std::vector<std::string> words = {}) {
    words.insert(words.begin(), {"status", "--json"});
    return json::parse(cluster_.Shiftadd(words).output);
  }
  std::string StateOf(const std::string& worker) {
    const json status = StatusJson();
    for (const json& w : status["workers"]) {
      if (w["worker_id"] == worker) return w["state"];
    }
    return "unknown";
  }
  // The ids of those that ever leased a task of a job that has ended.
  std::set<std::string> WorkersOf(const std::string& job_id) {
    std::set<std::string> workers;
    const auto events = cluster_.Events(job_id);
    EXPECT_TRUE(events.ok()) << events.status();
    if (!events.ok()) return workers;
    for (const v1::JobEvent& event : *events) {
      if (event.task().change() == "leased") workers.insert(event.task().worker());
    }
    return workers;
  }

  static std::string* root_;
  // A worker that waits is heard of every 20 seconds: with shorter leases it would count as lost.
  Cluster cluster_{*root_, /*lease_seconds=*/15};
};
std::string* StatusTest::root_ = nullptr;

TEST_F(StatusTest, OneCoordinatorDownIsSaidAndNoErrorOfTheWhole) {
  cluster_.AddWorker();
  cluster_.AddWorker();
  const auto broken = cluster_.Submit(Spec("no-such-model"));
  ASSERT_TRUE(broken.ok()) << broken.status();
  ASSERT_TRUE(cluster_.WaitForEnd(broken->job_id()).ok());
  ASSERT_EQ(cluster_.Shiftadd({"drain", "worker-1", "--cordon"}).exit_code, 0) << cluster_.Errors();

  const std::string lost = LostCoordinator();
  const std::string both = absl::StrCat(lost, ",", cluster_.coordinator_address());
  const RunResult text = cluster_.Shiftadd({"status", "--coordinator", both});
  EXPECT_EQ(text.exit_code, 0) << text.output << cluster_.Errors();
  EXPECT_THAT(
      text.output,
      AllOf(ContainsRegex("coordinator  " + lost + " +the coordinator at .* cannot be reached"),
            ContainsRegex("coordinator  " + cluster_.coordinator_address() + " +answers"),
            ContainsRegex("packager .*answers"),
            HasSubstr("stores: database answers, blob store answers"), HasSubstr("jobs: 1 FAILED"),
            ContainsRegex("failed: " + broken->job_id() + " .tiny:v1.: .*no-such-model"),
            HasSubstr("tasks: 0 leased, 0 wait for a worker"),
            HasSubstr("workers: 2 connected, of which 0 at work, 1 idle, 1 cordoned"),
            ContainsRegex("worker-0 +idle: no task is ready"),
            ContainsRegex("worker-1 +cordoned, idle"), Not(HasSubstr("REPLICA OF"))));

  const json all = StatusJson({"--coordinator", both});
  EXPECT_FALSE(all["coordinators"][0]["reachable"]);
  EXPECT_EQ(all["coordinators"][0]["address"], lost);
  EXPECT_TRUE(all["coordinators"][1]["reachable"]);
  EXPECT_TRUE(all["packagers"][0]["reachable"]);
  EXPECT_TRUE(all["database"]["reachable"]);
  EXPECT_TRUE(all["blobs"]["reachable"]);
  EXPECT_EQ(all["jobs"]["FAILED"], 1);
  EXPECT_EQ(all["failed_jobs"][0]["job_id"], broken->job_id());
  EXPECT_EQ(all["workers"].size(), 2u);
  EXPECT_TRUE(all["replicas"].empty());

  // Of one kind nobody is left: what the others know is told all the same.
  const RunResult none = cluster_.Shiftadd({"status", "--coordinator", lost});
  EXPECT_EQ(none.exit_code, 3);
  EXPECT_THAT(none.output, AllOf(HasSubstr("not known, as no coordinator answers"),
                                 HasSubstr("stores: blob store answers")));
  cluster_.KillPackager();
  const RunResult work = cluster_.Shiftadd({"status"});
  EXPECT_EQ(work.exit_code, 3);
  EXPECT_THAT(work.output, AllOf(HasSubstr("jobs: 1 FAILED"), Not(HasSubstr("blob store"))));
}

// A coordinator answers without its database, but of no use to anybody: a script must notice.
TEST_F(StatusTest, ADatabaseThatIsAwayIsAFailure) {
  PostgresServer postgres;
  const std::string port_file = cluster_.dir() + "/pg.port", log = cluster_.dir() + "/pg.log";
  Process coordinator({Binary("shiftadd-coordinator"), "--listen", "127.0.0.1:0", "--http",
                       "127.0.0.1:0", "--store", postgres.NewDatabase(), "--packager",
                       cluster_.packager_address(), "--port-file", port_file},
                      log);
  const std::string address =
      absl::StrCat("127.0.0.1:", WaitForPorts(port_file, &coordinator, log)[0]);
  EXPECT_EQ(cluster_.Shiftadd({"status", "--coordinator", address}).exit_code, 0);

  postgres.Kill();
  const RunResult text = cluster_.Shiftadd({"status", "--coordinator", address});
  EXPECT_EQ(text.exit_code, 3) << text.output;
  EXPECT_THAT(text.output, HasSubstr("database is away: "));
  const RunResult machine = cluster_.Shiftadd({"status", "--json", "--coordinator", address});
  EXPECT_EQ(machine.exit_code, 3);
  EXPECT_FALSE(json::parse(machine.output)["database"]["reachable"]);

  postgres.Start();
  const absl::Time patience = absl::Now() + absl::Seconds(60);
  int code = 3;
  while (code != 0 && absl::Now() < patience) {
    code = cluster_.Shiftadd({"status", "--coordinator", address}).exit_code;
  }
  EXPECT_EQ(code, 0);
}

TEST_F(StatusTest, ACordonedWorkerEndsItsTaskAndGetsNoOther) {
  cluster_.AddWorker();
  cluster_.AddWorker();
  ASSERT_EQ(cluster_.Shiftadd({"drain", "worker-0", "--cordon"}).exit_code, 0) << cluster_.Errors();
  const auto first = cluster_.Submit(Spec("tiny"));
  ASSERT_TRUE(first.ok()) << first.status();
  const auto end = cluster_.WaitForSuccess(first->job_id());
  ASSERT_TRUE(end.ok()) << end.status();
  EXPECT_THAT(WorkersOf(first->job_id()), ::testing::ElementsAre("worker-1"));

  // Nobody is left who takes tasks: the job waits, and whoever watches it is told why.
  ASSERT_EQ(cluster_.Shiftadd({"drain", "worker-1", "--cordon"}).exit_code, 0) << cluster_.Errors();
  const auto second = cluster_.Submit(Spec("tiny"));
  ASSERT_TRUE(second.ok()) << second.status();
  const std::string log = cluster_.dir() + "/watch.out";
  Process watch({Binary("shiftadd"), "watch", second->job_id(), "--coordinator",
                 cluster_.coordinator_address()},
                log);
  const absl::Time patience = absl::Now() + absl::Seconds(60);
  while (!absl::StrContains(ReadFile(log), "cordoned") && absl::Now() < patience) {
    absl::SleepFor(absl::Milliseconds(50));
  }
  EXPECT_THAT(ReadFile(log), HasSubstr("no worker takes tasks, 2 are cordoned or drained"));
  EXPECT_EQ(StateOf("worker-0"), "cordoned, idle");
  EXPECT_GT(StatusJson()["tasks"]["ready"], 0);

  ASSERT_EQ(cluster_.Shiftadd({"drain", "worker-0", "--undo"}).exit_code, 0) << cluster_.Errors();
  const auto again = cluster_.WaitForSuccess(second->job_id());
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_THAT(WorkersOf(second->job_id()), ::testing::ElementsAre("worker-0"));
  EXPECT_EQ(watch.Wait(absl::Seconds(60)), 0);
}

// Cordoned in the middle of a task, a worker ends it: what it did counts, and nothing is lost.
TEST_F(StatusTest, AWorkerIsCordonedAtWork) {
  cluster_.AddWorker();
  v1::JobSpec spec = Spec("tiny");
  spec.mutable_calibration()->set_sequences(64);  // long enough to be met at work
  const auto job = cluster_.Submit(spec);
  ASSERT_TRUE(job.ok()) << job.status();
  ASSERT_TRUE(cluster_
                  .WaitUntil(job->job_id(),
                             [](const v1::Job& j) {
                               return j.state() >= v1::JOB_STATE_CALIBRATING &&
                                      j.progress().workers() > 0;
                             })
                  .ok());
  ASSERT_EQ(cluster_.Shiftadd({"drain", "worker-0", "--cordon"}).exit_code, 0) << cluster_.Errors();
  const absl::Time patience = absl::Now() + absl::Seconds(60);
  while (StateOf("worker-0") != "cordoned, idle" && absl::Now() < patience) {
    absl::SleepFor(absl::Milliseconds(20));
  }
  EXPECT_EQ(StateOf("worker-0"), "cordoned, idle");
  const auto waits = cluster_.Get(job->job_id());
  ASSERT_TRUE(waits.ok()) << waits.status();
  EXPECT_FALSE(Ended(*waits));
  cluster_.AddWorker();
  const auto end = cluster_.WaitForSuccess(job->job_id());
  ASSERT_TRUE(end.ok()) << end.status();
  const auto events = cluster_.Events(job->job_id());
  ASSERT_TRUE(events.ok()) << events.status();
  int leased = 0, done = 0, other = 0;
  for (const v1::JobEvent& event : *events) {
    if (event.task().worker() != "worker-0") continue;
    ++(event.task().change() == "leased" ? leased : event.task().change() == "done" ? done : other);
  }
  EXPECT_GT(leased, 0);
  EXPECT_EQ(done, leased);
  EXPECT_EQ(other, 0);
}

}  // namespace
}  // namespace shiftadd::testing
