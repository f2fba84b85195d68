// The commands against services in this process: what they send, what they print, how they end.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "services/base/digest.h"
#include "services/cli/cluster_lock.h"
#include "services/cli/commands.h"
#include "services/cli/testing/command_test.h"
#include "services/cli/watch.h"
#include "services/rpc/rpc.h"
#include "shiftadd/v1/job.grpc.pb.h"
#include "shiftadd/v1/package.grpc.pb.h"

namespace shiftadd::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// Answers from what the test has put in.
class FakeJobs : public v1::JobService::Service {
 public:
  grpc::Status SubmitJob(grpc::ServerContext*, const v1::SubmitJobRequest* request,
                         v1::Job* job) override {
    submitted = *request;
    *job = this->job;
    return grpc::Status::OK;
  }
  grpc::Status GetJob(grpc::ServerContext*, const v1::GetJobRequest* request,
                      v1::Job* job) override {
    if (request->job_id() != this->job.job_id())
      return {grpc::StatusCode::NOT_FOUND, "no job " + request->job_id()};
    *job = this->job;
    return grpc::Status::OK;
  }
  grpc::Status ListJobs(grpc::ServerContext*, const v1::ListJobsRequest*,
                        v1::ListJobsResponse* response) override {
    if (!job.job_id().empty()) *response->add_jobs() = job;
    return grpc::Status::OK;
  }
  // The first stream breaks off after two events.
  grpc::Status WatchJob(grpc::ServerContext* context, const v1::WatchJobRequest* request,
                        grpc::ServerWriter<v1::JobEvent>* writer) override {
    if (request->job_id() != job.job_id())
      return {grpc::StatusCode::NOT_FOUND, "no job " + request->job_id()};
    from.push_back(request->from_sequence());
    for (const v1::JobEvent& event : events) {
      if (event.sequence() < request->from_sequence()) continue;
      if (from.size() == 1 && event.sequence() == 3)
        return {grpc::StatusCode::UNAVAILABLE, "going down"};
      writer->Write(event);
    }
    while (stands && !context->IsCancelled()) absl::SleepFor(absl::Milliseconds(10));
    return grpc::Status::OK;
  }
  grpc::Status ListWorkers(grpc::ServerContext*, const v1::ListWorkersRequest*,
                           v1::ListWorkersResponse* response) override {
    if (!stands) return {grpc::StatusCode::UNIMPLEMENTED, ""};
    response->add_workers()->set_state("lost");
    if (++looks == 2) stands = false;  // long enough
    return grpc::Status::OK;
  }

  grpc::Status PlanBudget(grpc::ServerContext*, const v1::PlanBudgetRequest* request,
                          v1::PlanBudgetResponse* response) override {
    if (request->job_id() != job.job_id())
      return {grpc::StatusCode::NOT_FOUND, "no job " + request->job_id()};
    planned.push_back(*request);
    response->set_planes(request->budget().planes());
    response->set_importance(8 - request->budget().planes());
    response->set_uniform_bits(2);
    response->set_importance_uniform(7);
    response->set_criterion(v1::CRITERION_GUIDED);
    v1::PlannedLayer* layer = response->add_layers();
    layer->set_layer("blocks.0.attn.q");
    layer->set_bits(3);
    return grpc::Status::OK;
  }
  grpc::Status PublishBudget(grpc::ServerContext*, const v1::PublishBudgetRequest* request,
                             v1::Job* child) override {
    if (packager_away) return {grpc::StatusCode::UNAVAILABLE, "packager: connection refused"};
    published = *request;
    *child = job;
    return grpc::Status::OK;
  }

  grpc::Status CancelJob(grpc::ServerContext*, const v1::CancelJobRequest* request,
                         v1::Job* cancelled) override {
    return Change(request->job_id(), v1::JOB_STATE_CANCELLED, cancelled);
  }
  grpc::Status RetryJob(grpc::ServerContext*, const v1::RetryJobRequest* request,
                        v1::Job* retried) override {
    return Change(request->job_id(), job.resume_state(), retried);
  }
  grpc::Status Change(const std::string& id, v1::JobState state, v1::Job* changed) {
    if (id != job.job_id()) return {grpc::StatusCode::NOT_FOUND, "no job " + id};
    job.set_state(state);
    *changed = job;
    return grpc::Status::OK;
  }

  bool packager_away = false;
  std::atomic<bool> stands = false;  // streams stay open, and the only worker is lost
  std::atomic<int> looks = 0;
  v1::Job job;
  std::vector<v1::PlanBudgetRequest> planned;
  v1::PublishBudgetRequest published;
  std::vector<v1::JobEvent> events;
  v1::SubmitJobRequest submitted;
  std::vector<uint64_t> from;
};

class FakePackages : public v1::PackageService::Service {
 public:
  grpc::Status StatBlob(grpc::ServerContext*, const v1::StatBlobRequest*,
                        v1::StatBlobResponse*) override {
    return {grpc::StatusCode::NOT_FOUND, "no such blob"};
  }
  grpc::Status WriteBlob(grpc::ServerContext*, grpc::ServerReader<v1::WriteBlobRequest>* reader,
                         v1::WriteBlobResponse* response) override {
    std::string data;
    for (v1::WriteBlobRequest piece; reader->Read(&piece);) data += piece.data();
    response->set_digest(Sha256Digest(data));
    response->set_size(data.size());
    return grpc::Status::OK;
  }
  grpc::Status ListPackages(grpc::ServerContext*, const v1::ListPackagesRequest*,
                            v1::ListPackagesResponse* response) override {
    v1::Package* package = response->add_packages();
    package->set_name("m");
    package->set_tag("latest");
    package->set_digest("sha256:ab");
    package->set_bytes(2048);
    return grpc::Status::OK;
  }
};

class CliTest : public CommandTest<FakeJobs, FakePackages> {
 protected:
  void AddEvent(const std::function<void(v1::JobEvent*)>& fill) {
    v1::JobEvent event;
    event.set_sequence(jobs_.events.size() + 1);
    event.mutable_time()->set_seconds(1);
    fill(&event);
    jobs_.events.push_back(event);
  }
  void MakeJob(v1::JobState end) {
    jobs_.job.set_job_id("job-1");
    jobs_.job.set_state(end);
    jobs_.job.mutable_spec()->set_output("m:latest");
    jobs_.job.mutable_spec()->set_source("file:///m.gguf");
    for (const v1::JobState state :
         {v1::JOB_STATE_QUEUED, v1::JOB_STATE_INGESTING, v1::JOB_STATE_PROFILING, end}) {
      AddEvent([state](v1::JobEvent* event) { event->set_state(state); });
    }
  }
};

TEST_F(CliTest, SubmitSendsTheSpec) {
  MakeJob(v1::JOB_STATE_SUCCEEDED);
  const std::string model = File("m.gguf", "x"), text = File("t.txt", "some text");
  const std::string recipe = File("r.yaml", "method: rtn\ncandidate_bits: [2, 3]\n");
  ASSERT_EQ(Shiftadd({"submit",
                      model,
                      "--bytes",
                      "4GiB",
                      "--name",
                      "m",
                      "--recipe",
                      recipe,
                      "--calibration",
                      text,
                      "--calibration-sequences",
                      "4",
                      "--label",
                      "a=b",
                      "--any-device",
                      "--criterion",
                      "paper",
                      "--uniform",
                      "--eval-text",
                      text,
                      "--eval-skip",
                      "110"}),
            kExitOk)
      << err_;
  const v1::JobSpec& spec = jobs_.submitted.spec();
  EXPECT_EQ(spec.source(), "file://" + std::filesystem::canonical(model).string());
  EXPECT_EQ(spec.budget().bytes(), 4ull << 30);
  EXPECT_EQ(spec.output(), "m:latest");
  EXPECT_EQ(spec.recipe().method(), v1::METHOD_RTN);
  EXPECT_EQ(spec.calibration().text_digest(), Sha256Digest("some text"));
  EXPECT_EQ(spec.calibration().sequences(), 4u);
  EXPECT_EQ(spec.criterion(), v1::CRITERION_PAPER);
  EXPECT_TRUE(spec.uniform());
  EXPECT_EQ(spec.evaluation().skip(), 110u);
  EXPECT_EQ(spec.evaluation().text_digest(), Sha256Digest("some text"));
  EXPECT_EQ(spec.labels().at("a"), "b");
  EXPECT_TRUE(spec.any_device());
  EXPECT_FALSE(jobs_.submitted.request_id().empty());
  EXPECT_EQ(out_, "job-1\n");
}

TEST_F(CliTest, WhoeverFindsAClusterRunningIsToldHowToEndIt) {
  setenv("SHIFTADD_DATA_DIR", dir_.c_str(), 1);
  EXPECT_EQ(DownCommand(dir_), "shiftadd down");
  EXPECT_EQ(DownCommand("/data/a"), "shiftadd down --data-dir /data/a");
  EXPECT_EQ(DownCommand("/data/it's a"), "shiftadd down --data-dir '/data/it'\\''s a'");
  const auto first = ClusterLock::Acquire(dir_);
  ASSERT_TRUE(first.ok()) << first.status();
  const auto second = ClusterLock::Acquire(dir_);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("another `shiftadd up`"));
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("stop it with: shiftadd down"));
}

TEST_F(CliTest, BadFlagsAreUsageErrorsAndSendNothing) {
  const std::string model = File("m.gguf", "x");
  EXPECT_EQ(Shiftadd({"submit", model, "--name", "m"}), kExitUsage);
  EXPECT_THAT(err_, HasSubstr("exactly one of --bits"));
  EXPECT_EQ(Shiftadd({"submit", model, "--name", "m", "--bits", "3", "--bytes", "1GiB"}),
            kExitUsage);
  EXPECT_EQ(Shiftadd({"submit", model, "--name", "m", "--bits", "9"}), kExitUsage);
  EXPECT_EQ(Shiftadd({"submit", model, "--name", "m", "--bits", "nan"}), kExitUsage);
  EXPECT_EQ(Shiftadd({"submit", model, "--name", "M:x", "--bits", "3"}), kExitUsage);
  EXPECT_EQ(Shiftadd({"submit", model, "--name", "m", "--bits", "3", "--method", "best"}),
            kExitUsage);
  EXPECT_THAT(err_, HasSubstr("recipe.method: expected one of: shiftadd, lat, rtn, acc, optq"));
  EXPECT_EQ(Shiftadd({"submit", model, "--name", "m", "--bits", "2,3"}), kExitUsage);
  EXPECT_THAT(err_, HasSubstr("found 2 budgets, expected one"));
  EXPECT_EQ(Shiftadd({"submit", model, "--name", "m", "--bits", "3", "--criterion", "luck"}),
            kExitUsage);
  EXPECT_THAT(err_, HasSubstr("--criterion: expected one of: guided, output, weight, paper"));
  EXPECT_EQ(Shiftadd({"submit", model, "--name", "m", "--bits", "3", "--eval-skip", "4"}),
            kExitUsage);
  EXPECT_THAT(err_, HasSubstr("give --eval-text"));
  EXPECT_EQ(Shiftadd({"submit", model, "--name", "m", "--bits", "3", "--frob"}), kExitUsage);
  EXPECT_EQ(Shiftadd({"bench", "m", "--source", "/nonexistent"}), kExitUsage);
  EXPECT_THAT(err_, HasSubstr("--source: Path does not exist: /nonexistent"));
  EXPECT_EQ(Shiftadd({"export", "m", dir_ + "/out", "--format", "zip"}), kExitUsage);
  EXPECT_THAT(err_, HasSubstr("zip not in {hf-fp16,gguf}"));
  for (const char* format : {"gguf", "hf-fp16"}) {
    EXPECT_EQ(Shiftadd({"export", "m", "--format", format, ""}), kExitUsage);
    EXPECT_THAT(err_, HasSubstr("dir: expected a value, found \"\""));
  }
  for (const char* option : {"--recipe", "--certs", "--eval-text", "--tls-ca", "--bytes"}) {
    EXPECT_EQ(Shiftadd({"submit", model, "--name", "m", "--bits", "3", option, ""}), kExitUsage);
    EXPECT_THAT(err_, HasSubstr(absl::StrCat(option, ": expected a value, found \"\"")));
  }
  EXPECT_EQ(Shiftadd({"submit", "", "--name", "m", "--bits", "3"}), kExitUsage);
  EXPECT_THAT(err_, HasSubstr("source: expected a value, found \"\""));
  EXPECT_EQ(Shiftadd({"bench", "m", "--seconds", "nan"}), kExitUsage);
  EXPECT_THAT(err_, HasSubstr("--seconds: expected a number, found nan"));
  for (const char* bad : {",", "localhost", ":7070", "localhost:"}) {
    const std::string said =
        absl::StrCat(": expected HOST:PORT, or several with commas, found \"", bad, "\"");
    EXPECT_EQ(Shiftadd({"jobs", "--coordinator", bad}), kExitUsage);
    EXPECT_THAT(err_, HasSubstr("--coordinator" + said));
    EXPECT_EQ(Shiftadd({"packages", "--packager", bad}), kExitUsage);
    EXPECT_THAT(err_, HasSubstr("--packager" + said));
    EXPECT_EQ(Shiftadd({"generate", "m", "-p", "x", "--server", bad}), kExitUsage);
    EXPECT_THAT(err_, HasSubstr("--server" + said));
  }
  EXPECT_EQ(Shiftadd({"frob"}), kExitUsage);
  EXPECT_EQ(Shiftadd({"submit", model, "--name", "m", "--bits", "3", "--label", "a=\xff"}),
            kExitUsage);
  EXPECT_THAT(err_, HasSubstr("argument 8: expected UTF-8"));
  EXPECT_EQ(Shiftadd({"submit", dir_ + "/none.gguf", "--name", "m", "--bits", "3"}), kExitFailed);
  EXPECT_THAT(err_, HasSubstr("none.gguf: No such file"));
  std::filesystem::create_directories(dir_ + "/exported");
  const std::string inside = File("exported/m.gguf", "x");
  EXPECT_EQ(Shiftadd({"submit", dir_ + "/exported", "--name", "m", "--bits", "3"}), kExitUsage);
  EXPECT_THAT(err_, HasSubstr("has no config.json"));
  EXPECT_THAT(err_, HasSubstr("submit " + inside));
  EXPECT_TRUE(jobs_.submitted.spec().output().empty());
}

TEST_F(CliTest, DryRunFailsIfTheBudgetCannotBeMet) {
  MakeJob(v1::JOB_STATE_SUCCEEDED);
  jobs_.job.mutable_plan()->set_budget_message("60 MiB at least");
  const std::string model = File("m.gguf", "x");
  EXPECT_EQ(Shiftadd({"submit", model, "--name", "m", "--bits", "1", "--dry-run"}), kExitFailed);
  EXPECT_THAT(out_, HasSubstr("CANNOT be met: 60 MiB at least"));
  EXPECT_TRUE(jobs_.submitted.validate_only());
  jobs_.job.mutable_plan()->set_budget_feasible(true);
  EXPECT_EQ(Shiftadd({"submit", model, "--name", "m", "--bits", "1", "--dry-run"}), kExitOk);
}

TEST_F(CliTest, PlanShowsOneBudgetOrACurve) {
  MakeJob(v1::JOB_STATE_SUCCEEDED);
  v1::LayerPlan* layer = jobs_.job.mutable_plan()->add_layers();
  layer->set_name("blocks.0.attn.q");
  layer->set_kind("q");
  layer->set_rows(4);
  layer->set_cols(4);
  ASSERT_EQ(Shiftadd({"plan", "job-1", "--bits", "2.5", "--criterion", "paper"}), kExitOk) << err_;
  EXPECT_EQ(jobs_.planned.at(0).criterion(), v1::CRITERION_PAPER);
  EXPECT_THAT(out_, HasSubstr("2.5 planes   2.500"));
  EXPECT_THAT(out_, HasSubstr("block     q  mean\n    0     3  3.00\n"));
  EXPECT_THAT(out_, HasSubstr("the same command with --publish NAME[:TAG]"));
  ASSERT_EQ(Shiftadd({"plan", "job-1", "--bits", "2,2.25, 2.5", "--json"}), kExitOk) << err_;
  const auto json = nlohmann::json::parse(out_);
  ASSERT_EQ(json["plans"].size(), 3u);
  EXPECT_EQ(json["plans"][1]["budget"]["planes"], 2.25);
  EXPECT_EQ(json["plans"][1]["importance"], 5.75);
  EXPECT_EQ(json["plans"][1]["criterion"], "guided");
  EXPECT_EQ(json["plans"][1]["layers"][0]["bits"], 3);
  EXPECT_EQ(Shiftadd({"plan", "job-2", "--bits", "2"}), kExitFailed);
  EXPECT_THAT(err_, HasSubstr("2 planes: no job job-2"));
  jobs_.job.mutable_spec()->mutable_recipe()->set_propagate(v1::PROPAGATE_QUANTIZED);
  ASSERT_EQ(Shiftadd({"plan", "job-1", "--bits", "2.5"}), kExitOk) << err_;
  EXPECT_THAT(out_, Not(HasSubstr("--publish"))) << "a refined job's candidates are not published";
}

TEST_F(CliTest, PlanPublishes) {
  MakeJob(v1::JOB_STATE_SUCCEEDED);
  const std::string text = File("t.txt", "some text");
  ASSERT_EQ(Shiftadd({"plan", "job-1", "--stored-bits", "2.4", "--publish", "m:small",
                      "--eval-text", text, "--eval-skip", "110", "--eval-sequences", "24",
                      "--eval-length", "2048", "--uniform", "--watch"}),
            kExitOk)
      << err_;
  const v1::PublishBudgetRequest& request = jobs_.published;
  EXPECT_EQ(request.job_id(), "job-1");
  EXPECT_EQ(request.budget().stored_bits(), 2.4);
  EXPECT_EQ(request.output(), "m:small");
  EXPECT_TRUE(request.uniform());
  EXPECT_FALSE(request.request_id().empty());
  EXPECT_EQ(request.evaluation().text_digest(), Sha256Digest("some text"));
  EXPECT_EQ(request.evaluation().skip(), 110u);
  EXPECT_EQ(request.evaluation().sequences(), 24u);
  EXPECT_EQ(request.evaluation().length(), 2048u);
  EXPECT_THAT(out_, HasSubstr("job-1 SUCCEEDED"));
  ASSERT_EQ(Shiftadd({"plan", "job-1", "--bits", "2", "--publish", "m:small"}), kExitOk);
  EXPECT_FALSE(jobs_.published.has_evaluation()) << "the job's own";
}

TEST_F(CliTest, PlanJudgesItsFlagsFirst) {
  server_.reset();
  const auto usage = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"plan", "job-1"});
    EXPECT_EQ(Shiftadd(arguments), kExitUsage);
    return err_;
  };
  EXPECT_THAT(usage({}), HasSubstr("exactly one of --bits"));
  EXPECT_THAT(usage({"--bits", "2,,3"}), HasSubstr("--bits: found ''"));
  EXPECT_THAT(usage({"--bits", "2,9"}), HasSubstr("--bits: found '9'"));
  EXPECT_THAT(usage({"--bits", "2", "--uniform"}), HasSubstr("give --publish"));
  EXPECT_THAT(usage({"--bits", "2", "--eval-sequences", "2"}), HasSubstr("give --publish"));
  EXPECT_THAT(usage({"--bits", "2,3", "--publish", "m"}), HasSubstr("--publish: found 2 budgets"));
  EXPECT_THAT(usage({"--bits", "2", "--publish", "M"}), HasSubstr("--publish: "));
  EXPECT_EQ(Shiftadd({"plan", "job-1", "--bits", "2"}), kExitUnreachable);
}

TEST_F(CliTest, WatchGoesOnAfterABreak) {
  MakeJob(v1::JOB_STATE_SUCCEEDED);
  jobs_.job.set_package_digest("sha256:ab");
  EXPECT_EQ(Shiftadd({"watch", "job-1"}), kExitOk) << err_;
  EXPECT_EQ(out_,
            "00:00:01  QUEUED\n00:00:01  INGESTING\n00:00:01  PROFILING\n00:00:01  SUCCEEDED\n"
            "job-1 SUCCEEDED: m:latest is sha256:ab\n");
  EXPECT_THAT(jobs_.from, ::testing::ElementsAre(1u, 3u));
}

TEST_F(CliTest, WatchSaysThatNoWorkerIsConnected) {
  MakeJob(v1::JOB_STATE_PROFILING);
  jobs_.stands = true;
  jobs_.from = {1};  // no stream breaks off
  jobs_.events.resize(3);
  std::ostringstream out, err;
  Context context{out, err};
  WatchOptions options;
  options.quiet = absl::Milliseconds(100);
  options.patience = absl::ZeroDuration();
  WatchJob(context, JobClient("coordinator", address_), "job-1", options);
  EXPECT_THAT(out.str(), HasSubstr("no worker is connected; tasks wait: see `shiftadd status`"));
}

TEST_F(CliTest, WatchTellsAFailure) {
  MakeJob(v1::JOB_STATE_FAILED);
  jobs_.job.set_error("m.gguf: wrong magic");
  jobs_.job.set_resume_state(v1::JOB_STATE_INGESTING);
  EXPECT_EQ(Shiftadd({"watch", "job-1"}), kExitFailed);
  EXPECT_THAT(out_, HasSubstr("FAILED in INGESTING: m.gguf: wrong magic"));
}

TEST_F(CliTest, WatchOfARetriedJobGoesOnBehindItsFirstEnd) {
  MakeJob(v1::JOB_STATE_FAILED);
  for (const v1::JobState state : {v1::JOB_STATE_PROFILING, v1::JOB_STATE_SUCCEEDED})
    AddEvent([state](v1::JobEvent* event) { event->set_state(state); });
  jobs_.job.set_state(v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(Shiftadd({"watch", "job-1"}), kExitOk) << err_;
  EXPECT_THAT(out_, HasSubstr("FAILED\n00:00:01  PROFILING\n00:00:01  SUCCEEDED\njob-1 SUCCEEDED"));
}

TEST_F(CliTest, WatchGivesUpInTheEnd) {
  const std::string gone = address_;
  server_.reset();
  std::ostringstream out, err;
  Context context{out, err};
  WatchOptions options;
  options.patience = absl::Milliseconds(300);
  options.first_pause = absl::Milliseconds(20);
  EXPECT_EQ(WatchJob(context, JobClient("coordinator", gone), "job-1", options), kExitUnreachable);
  EXPECT_THAT(err.str(), HasSubstr("coordinator at " + gone + " cannot be reached"));
}

TEST_F(CliTest, Lists) {
  EXPECT_EQ(Shiftadd({"jobs"}), kExitOk);
  EXPECT_EQ(out_, "no jobs\n");
  MakeJob(v1::JOB_STATE_PROFILING);
  EXPECT_EQ(Shiftadd({"jobs"}), kExitOk);
  EXPECT_EQ(out_,
            "JOB    STATE      DONE  CREATED (UTC)        OUTPUT    SOURCE\n"
            "job-1  PROFILING   0 %  1970-01-01 00:00:00  m:latest  file:///m.gguf\n");
  EXPECT_EQ(Shiftadd({"jobs", "--json"}), kExitOk);
  EXPECT_EQ(nlohmann::json::parse(out_)["jobs"][0]["state"], "profiling");
  EXPECT_EQ(Shiftadd({"packages", "--json"}), kExitOk) << err_;
  const auto packages = nlohmann::json::parse(out_);
  EXPECT_EQ(packages["packages"][0]["name"], "m");
  EXPECT_EQ(packages["packages"][0]["bytes"], 2048);
}

TEST_F(CliTest, CancelAndRetryPrintTheStateByItsName) {
  MakeJob(v1::JOB_STATE_PROFILING);
  ASSERT_EQ(Shiftadd({"cancel", "job-1"}), kExitOk) << err_;
  EXPECT_EQ(out_, "job-1 CANCELLED\n");
  jobs_.job.set_resume_state(v1::JOB_STATE_EVALUATING);
  ASSERT_EQ(Shiftadd({"retry", "job-1"}), kExitOk) << err_;
  EXPECT_EQ(out_, "job-1 EVALUATING\n");
  jobs_.job.set_resume_state(static_cast<v1::JobState>(99));  // a younger coordinator's
  ASSERT_EQ(Shiftadd({"retry", "job-1"}), kExitOk) << err_;
  EXPECT_THAT(out_, HasSubstr("99"));
  EXPECT_EQ(Shiftadd({"cancel", "job-2"}), kExitFailed);
  EXPECT_THAT(err_, HasSubstr("no job job-2"));
}

TEST_F(CliTest, SaysWhichDaemonIsAway) {
  MakeJob(v1::JOB_STATE_SUCCEEDED);
  jobs_.packager_away = true;  // and the coordinator says so
  EXPECT_EQ(Shiftadd({"plan", "job-1", "--bits", "2", "--publish", "m"}), kExitUnreachable);
  EXPECT_THAT(err_, HasSubstr("the coordinator at " + address_ +
                              " cannot reach its packager: connection refused"));
  server_.reset();
  EXPECT_EQ(Shiftadd({"jobs"}), kExitUnreachable);
  EXPECT_THAT(err_, HasSubstr("the coordinator at " + address_ + " cannot be reached"));
  EXPECT_EQ(Shiftadd({"packages"}), kExitUnreachable);
  EXPECT_THAT(err_, HasSubstr("packager at " + address_));
}

TEST_F(CliTest, ExitCodes) {
  MakeJob(v1::JOB_STATE_PROFILING);
  EXPECT_EQ(Shiftadd({"watch", "job-2"}), kExitFailed);
  EXPECT_THAT(err_, HasSubstr("no job job-2"));
  EXPECT_EQ(Shiftadd({"workers"}), kExitFailed);
  EXPECT_THAT(err_, HasSubstr("does not know this call"));
  server_.reset();
  EXPECT_EQ(Shiftadd({"jobs"}), kExitUnreachable);
  EXPECT_EQ(Shiftadd({"packages"}), kExitUnreachable);
  EXPECT_EQ(Shiftadd({"status"}), kExitUnreachable);
  EXPECT_EQ(Shiftadd({"--help"}), kExitOk);
  EXPECT_EQ(Shiftadd({"--version"}), kExitOk);
}

}  // namespace
}  // namespace shiftadd::cli
