// One trace from whoever submits a job through the daemons that work on it, in their JSON logs.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tests/cluster.h"
#include "worker/model/testing/tiny_llama.h"

namespace shiftadd::testing {
namespace {

using nlohmann::json;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kTraceId[] = "0af7651916cd43dd8448eb211c80319c";
constexpr char kOtherId[] = "4bf92f3577b34da6a3ce929d0e0e4736";

class TraceTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    root_ = new std::string(NewTempDir("model"));
    ASSERT_TRUE(WriteTinyLlamaDirectory(*root_ + "/tiny", TinyLlamaOptions()).ok());
    setenv("SHIFTADD_LOG_FORMAT", "json", 1);
  }

  // Submits under a trace and waits for the end; the job's id.
  std::string Submit(const std::string& trace_id) {
    const RunResult run =
        RunCommand({Binary("shiftadd"), "submit", *root_ + "/tiny", "--bits", "3", "--name", "tiny",
                    "--watch", "--calibration-sequences", "4", "--calibration-length", "32",
                    "--eval-sequences", "2", "--eval-length", "32"},
                   absl::Seconds(120),
                   {absl::StrCat("TRACEPARENT=00-", trace_id, "-b7ad6b7169203331-01"),
                    absl::StrCat("SHIFTADD_COORDINATOR=", cluster_.coordinator_address()),
                    absl::StrCat("SHIFTADD_PACKAGER=", cluster_.packager_address())});
    EXPECT_EQ(run.exit_code, 0) << run.output << cluster_.Logs();
    const size_t at = run.output.find("job-");
    return at == std::string::npos
               ? ""
               : run.output.substr(at, run.output.find_first_of(" \n", at) - at);
  }
  std::vector<json> Lines(const std::string& log) const {
    std::vector<json> lines;
    const std::string text = ReadFile(absl::StrCat(cluster_.dir(), "/", log));
    for (const absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
      lines.push_back(json::parse(line));
    }
    return lines;
  }
  // Of lines that one daemon wrote under the trace.
  std::vector<std::string> Messages(const std::string& log, const std::string& trace_id) const {
    std::vector<std::string> messages;
    for (const json& line : Lines(log)) {
      if (line.value("trace_id", "") == trace_id) messages.push_back(line["message"]);
    }
    return messages;
  }

  static std::string* root_;
  Cluster cluster_{*root_};
};
std::string* TraceTest::root_ = nullptr;

TEST_F(TraceTest, GoesFromWhoSubmitsToTheTasks) {
  cluster_.AddWorker();
  const std::string job = Submit(kTraceId), other = Submit(kOtherId);
  ASSERT_FALSE(job.empty());
  ASSERT_NE(job, other);
  const auto asked = cluster_.Get(job);
  ASSERT_TRUE(asked.ok()) << asked.status();
  EXPECT_EQ(asked->trace_id(), kTraceId);
  const auto coordinator = Messages("coordinator.log", kTraceId);
  EXPECT_THAT(coordinator, Contains(HasSubstr(job + ": submitted by")));
  EXPECT_THAT(coordinator, Contains(HasSubstr(job + ": JOB_STATE_PROFILING")));
  EXPECT_THAT(coordinator, Contains(HasSubstr(job + ": JOB_STATE_SUCCEEDED")));
  EXPECT_THAT(Messages("worker0.log", kTraceId), Contains(HasSubstr("PROFILE done")));
  EXPECT_THAT(Messages("packager.log", kTraceId), Contains(HasSubstr("PublishPackage")));
  // Whatever a worker says of a job, it says under that job's trace.
  for (const auto& [id, trace] : {std::pair{job, kTraceId}, std::pair{other, kOtherId}}) {
    std::set<std::string> traces;
    for (const json& line : Lines("worker0.log")) {
      if (line.value("job", "") == id) traces.insert(line.value("trace_id", ""));
    }
    EXPECT_THAT(traces, ElementsAre(trace));
  }
}

}  // namespace
}  // namespace shiftadd::testing
