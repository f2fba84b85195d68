// `compare` against services in this process: what it asks for, what it prints, what it leaves.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>
#include <limits>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "services/base/digest.h"
#include "services/cli/commands.h"
#include "services/cli/comparison.h"
#include "services/cli/testing/command_test.h"
#include "services/rpc/rpc.h"
#include "shiftadd/v1/job.grpc.pb.h"
#include "shiftadd/v1/package.grpc.pb.h"

namespace shiftadd::cli {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

// A coordinator whose jobs succeed at once, except those of method lat, which fail, and those of
// method acc, which it refuses; `endless` jobs end by being cancelled.
class FakeJobs : public v1::JobService::Service {
 public:
  grpc::Status ListJobs(grpc::ServerContext*, const v1::ListJobsRequest*,
                        v1::ListJobsResponse*) override {
    return grpc::Status::OK;
  }
  grpc::Status SubmitJob(grpc::ServerContext*, const v1::SubmitJobRequest* request,
                         v1::Job* job) override {
    const v1::Recipe& recipe = request->spec().recipe();
    if (recipe.method() == v1::METHOD_ACC)
      return {grpc::StatusCode::INVALID_ARGUMENT, "recipe.method: found acc"};
    submitted.push_back(request->spec());
    *job = Add(request->spec());
    if (recipe.method() == v1::METHOD_LAT) {
      std::lock_guard lock(mutex);
      jobs[job->job_id()].set_state(v1::JOB_STATE_FAILED);
      jobs[job->job_id()].set_resume_state(v1::JOB_STATE_PROFILING);
      jobs[job->job_id()].set_error("blocks.0.attn.q: not finite");
    }
    return grpc::Status::OK;
  }
  grpc::Status PublishBudget(grpc::ServerContext*, const v1::PublishBudgetRequest* request,
                             v1::Job* job) override {
    if (unreachable > 0) {
      --unreachable;
      return {grpc::StatusCode::UNAVAILABLE, "packager: connection refused"};
    }
    published.push_back(*request);
    v1::JobSpec spec;
    *spec.mutable_budget() = request->budget();
    spec.set_output(request->output());
    *job = Add(spec);
    return grpc::Status::OK;
  }
  grpc::Status GetJob(grpc::ServerContext*, const v1::GetJobRequest* request,
                      v1::Job* job) override {
    std::lock_guard lock(mutex);
    if (jobs.count(request->job_id()) == 0) return {grpc::StatusCode::NOT_FOUND, "no such job"};
    *job = jobs[request->job_id()];
    if (endless && !asked) {
      asked = true;
      kill(getpid(), signal);
    }
    return grpc::Status::OK;
  }
  grpc::Status GetJobReport(grpc::ServerContext*, const v1::GetJobReportRequest*,
                            v1::JobReport* report) override {
    (*report->mutable_state_seconds())["PROFILING"] = 60;
    (*report->mutable_state_seconds())["CALIBRATING"] = 4;
    (*report->mutable_state_seconds())["EVALUATING"] = 1000;
    return grpc::Status::OK;
  }
  grpc::Status CancelJob(grpc::ServerContext*, const v1::CancelJobRequest* request,
                         v1::Job* job) override {
    job->set_job_id(request->job_id());
    cancelled.push_back(request->job_id());
    return grpc::Status::OK;
  }
  grpc::Status DeleteJob(grpc::ServerContext*, const v1::DeleteJobRequest* request,
                         google::protobuf::Empty*) override {
    deleted.push_back(request->job_id());
    return grpc::Status::OK;
  }

  v1::Job Add(const v1::JobSpec& spec) {
    std::lock_guard lock(mutex);
    const std::string id = absl::StrCat("job-", jobs.size() + 1);
    v1::Job& job = jobs[id];
    job.set_job_id(id);
    *job.mutable_spec() = spec;
    job.set_state(endless ? v1::JOB_STATE_PROFILING : v1::JOB_STATE_SUCCEEDED);
    v1::Quality* quality = job.mutable_quality();
    quality->set_planes(spec.budget().planes());
    quality->set_stored_bits(spec.budget().planes() + 0.25);
    quality->set_perplexity_full(20);
    quality->set_perplexity_quantized(20 + 100 / spec.budget().planes());
    quality->set_kl(1 / spec.budget().planes());
    quality->set_kl_standard_error(0.01);
    quality->set_windows(4);
    quality->set_window_length(256);
    return job;
  }

  int unreachable = 0;  // calls of PublishBudget that find no packager
  bool endless = false;
  bool asked = false;
  int signal = SIGINT;  // what an `endless` job sends when it is asked for
  std::mutex mutex;
  std::map<std::string, v1::Job> jobs;
  std::vector<v1::JobSpec> submitted;
  std::vector<v1::PublishBudgetRequest> published;
  std::vector<std::string> cancelled, deleted;
};

class FakePackages : public v1::PackageService::Service {
 public:
  grpc::Status StatBlob(grpc::ServerContext*, const v1::StatBlobRequest*,
                        v1::StatBlobResponse* response) override {
    response->set_size(sizeof("some text") - 1);  // is there already
    return grpc::Status::OK;
  }
  grpc::Status DeletePackage(grpc::ServerContext*, const v1::DeletePackageRequest* request,
                             google::protobuf::Empty*) override {
    deleted.push_back(request->reference().substr(request->reference().find(':') + 1));
    return grpc::Status::OK;
  }
  std::vector<std::string> deleted;
};

class CompareTest : public CommandTest<FakeJobs, FakePackages> {
 protected:
  void SetUp() override {
    CommandTest::SetUp();
    model_ = File("m.gguf", "x");
  }
  int Compare(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"compare", model_});
    return Shiftadd(std::move(arguments));
  }

  std::string model_;
};

TEST_F(CompareTest, OneJobARecipeAndAChildForEveryOtherWidth) {
  const std::string text = File("c4.txt", "some text");
  const std::string recipe = File("my recipe.yaml", "method: shiftadd\nsweeps: 0\nseed: 7\n");
  ASSERT_EQ(Compare({"--methods", "rtn", "--recipe", recipe, "--bits", "4,2,3", "--calibration",
                     text, "--eval-text", text, "--eval-skip", "110"}),
            kExitOk)
      << err_;
  ASSERT_EQ(jobs_.submitted.size(), 2u);
  for (const v1::JobSpec& spec : jobs_.submitted) {
    EXPECT_THAT(spec.recipe().candidate_bits(), ElementsAre(2, 3, 4));
    EXPECT_TRUE(spec.uniform());
    EXPECT_EQ(spec.budget().planes(), 2);
    EXPECT_EQ(spec.calibration().text_digest(), Sha256Digest("some text"));
    EXPECT_EQ(spec.evaluation().skip(), 110u);
  }
  EXPECT_EQ(jobs_.submitted[0].recipe().method(), v1::METHOD_RTN);
  EXPECT_EQ(jobs_.submitted[1].recipe().sweeps(), 0u);
  EXPECT_TRUE(jobs_.submitted[1].recipe().has_sweeps());
  ASSERT_EQ(jobs_.published.size(), 4u);
  EXPECT_EQ(jobs_.published[0].job_id(), "job-1");
  EXPECT_EQ(jobs_.published[0].budget().planes(), 3);
  EXPECT_TRUE(jobs_.published[0].uniform());
  EXPECT_THAT(jobs_.published[3].output(), HasSubstr(":my-recipe-4"));
  EXPECT_EQ(
      out_,
      R"(recipe          planes  stored bits  size  perplexity  KL to full (nats)  quantized in
full precision       -            -     -      20.000                  0             -
rtn               2.00        2.250   0 B      70.000   0.5000 +- 0.0100    1 min 04 s
rtn               3.00        3.250   0 B      53.333   0.3333 +- 0.0100    1 min 04 s
rtn               4.00        4.250   0 B      45.000   0.2500 +- 0.0100    1 min 04 s
my-recipe         2.00        2.250   0 B      70.000   0.5000 +- 0.0100    1 min 04 s
my-recipe         3.00        3.250   0 B      53.333   0.3333 +- 0.0100    1 min 04 s
my-recipe         4.00        4.250   0 B      45.000   0.2500 +- 0.0100    1 min 04 s
measured on 4 windows of 256 tokens; quantized in: wall time, all widths of a recipe together
)");
  EXPECT_THAT(packages_.deleted,
              ElementsAre("my-recipe-4", "my-recipe-3", "my-recipe-2", "rtn-4", "rtn-3", "rtn-2"));
  EXPECT_THAT(jobs_.deleted, ElementsAre("job-6", "job-5", "job-4", "job-3", "job-2", "job-1"))
      << "children before the job that has their candidates";
}

TEST_F(CompareTest, WhatFailsSaysWhyAndStopsNothing) {
  EXPECT_EQ(Compare({"--methods", "lat,acc,rtn", "--bits", "2,3", "--json"}), kExitFailed);
  const auto json = nlohmann::json::parse(out_);
  ASSERT_EQ(json["rows"].size(), 6u);
  EXPECT_EQ(json["full_precision"]["perplexity"], 20);
  EXPECT_THAT(json["rows"][1]["error"].get<std::string>(),
              HasSubstr("FAILED in PROFILING: blocks.0.attn.q: not finite"));
  EXPECT_EQ(json["rows"][1]["kl"], nullptr);
  EXPECT_THAT(json["rows"][2]["error"].get<std::string>(), HasSubstr("found acc"));
  EXPECT_EQ(json["rows"][5]["recipe"], "rtn");
  EXPECT_EQ(json["rows"][5]["planes"], 3);
  EXPECT_EQ(json["rows"][5]["seconds"], 64) << "evaluating does not count";
  EXPECT_EQ(json["rows"][5]["error"], "");
  EXPECT_EQ(jobs_.deleted.size(), 2u) << "the failed job stays, to be looked at";
  EXPECT_THAT(err_, HasSubstr("were removed, but for what failed"));
  EXPECT_EQ(Compare({"--methods", "lat", "--bits", "2"}), kExitFailed);
  EXPECT_THAT(out_, HasSubstr("failed"));
  EXPECT_THAT(out_, HasSubstr("lat, 2 planes: job-"));
}

TEST_F(CompareTest, ADaemonThatRestartsIsAskedAgain) {
  jobs_.unreachable = 1;
  EXPECT_EQ(Compare({"--methods", "rtn", "--bits", "2,3"}), kExitOk) << out_;
  EXPECT_EQ(jobs_.published.size(), 1u);
}

TEST_F(CompareTest, ARefinedRecipeTakesAJobAWidth) {
  const std::string recipe = File("refine.json", "{\"propagate\": \"quantized\"}");
  EXPECT_EQ(Compare({"--recipe", recipe, "--bits", "2,3", "--keep"}), kExitOk) << err_;
  ASSERT_EQ(jobs_.submitted.size(), 2u);
  EXPECT_THAT(jobs_.submitted[1].recipe().candidate_bits(), ElementsAre(3));
  EXPECT_EQ(jobs_.submitted[1].budget().planes(), 3);
  EXPECT_TRUE(jobs_.published.empty());
  EXPECT_TRUE(jobs_.deleted.empty());
  EXPECT_TRUE(packages_.deleted.empty());
}

TEST_F(CompareTest, CtrlCCancelsItsJobs) {
  jobs_.endless = true;
  EXPECT_EQ(Compare({"--methods", "rtn,optq", "--bits", "2"}), kExitFailed);
  EXPECT_THAT(jobs_.cancelled, ElementsAre("job-1"));
  EXPECT_EQ(jobs_.submitted.size(), 1u);
  EXPECT_THAT(out_, HasSubstr("rtn, 2 planes: interrupted\noptq, 2 planes: not started\n"));
  EXPECT_TRUE(packages_.deleted.empty());
  EXPECT_THAT(err_, Not(HasSubstr("removed"))) << "there was nothing to remove";
}

TEST_F(CompareTest, SigtermCancelsItsJobs) {
  jobs_.endless = true;
  jobs_.signal = SIGTERM;
  EXPECT_EQ(Compare({"--methods", "rtn", "--bits", "2"}), kExitFailed);
  EXPECT_THAT(jobs_.cancelled, ElementsAre("job-1"));
}

TEST_F(CompareTest, JudgesItsFlagsFirst) {
  const auto usage = [&](std::vector<std::string> arguments) {
    EXPECT_EQ(Compare(std::move(arguments)), kExitUsage) << err_;
    return err_;
  };
  const std::string a = File("rtn.json", "{\"method\": \"rtn\"}");
  const std::string b = File("b.json", "{\"seed\": 1}");
  EXPECT_THAT(usage({}), HasSubstr("--methods, --recipe or both"));
  EXPECT_THAT(usage({"--methods", "rtn,best,worst", "--recipe", File("d.json", "{\"sede\": 0}")}),
              AllOf(HasSubstr("--methods: recipe.method: expected one"), HasSubstr("\"best\""),
                    HasSubstr("\"worst\""), HasSubstr("recipe.sede: unknown field")));
  EXPECT_THAT(usage({"--methods", "rtn,rtn"}), HasSubstr("'rtn' is given twice"));
  EXPECT_THAT(usage({"--methods", "rtn", "--recipe", a}), HasSubstr("'rtn' is given twice"));
  EXPECT_THAT(usage({"--methods", "rtn", "--bits", "2.5"}), HasSubstr("--bits: found '2.5'"));
  EXPECT_THAT(usage({"--methods", "rtn", "--bits", "2,2"}), HasSubstr("2 is given twice"));
  EXPECT_THAT(usage({"--methods", "rtn", "--recipe", b}), HasSubstr("seed 1 would give"));
  EXPECT_THAT(usage({"--recipe", File("c.json", "{\"sweps\": 0}")}), HasSubstr("unknown field"));
  EXPECT_TRUE(jobs_.submitted.empty());
  server_.reset();
  EXPECT_EQ(Compare({"--methods", "rtn"}), kExitUnreachable);
}

TEST(ComparisonText, FiguresThatAreNotFinite) {
  ComparisonRow row;
  row.recipe = "rtn";
  row.bits = 1;
  row.quality.set_perplexity_quantized(std::numeric_limits<double>::infinity());
  EXPECT_THAT(FormatComparison({row}), HasSubstr("rtn"));
  EXPECT_EQ(ComparisonJson({row})["rows"][0]["perplexity"], nullptr);
}

TEST(ComparisonText, WhatCannotBePackedIsMarked) {
  ComparisonRow rtn, acc;
  rtn.recipe = "rtn";
  acc.recipe = "acc";
  acc.simulated = true;
  EXPECT_THAT(FormatComparison({rtn}), Not(HasSubstr("simulated")));
  EXPECT_THAT(FormatComparison({rtn, acc}), HasSubstr("\nacc *"));
  EXPECT_THAT(FormatComparison({rtn, acc}), HasSubstr("\n* simulated, not packed: "));
  EXPECT_EQ(ComparisonJson({rtn, acc})["rows"][0]["simulated"], false);
  EXPECT_EQ(ComparisonJson({rtn, acc})["rows"][1]["simulated"], true);
}

}  // namespace
}  // namespace shiftadd::cli
