// `shiftadd eval` as a user types it, against real processes.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "services/blob/testing/registry_process.h"
#include "tests/cluster.h"
#include "worker/model/testing/tiny_llama.h"

namespace shiftadd::testing {
namespace {

using Json = nlohmann::json;

class EvalTest : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = NewTempDir("eval");
    TinyLlamaOptions options;
    options.blocks = 2;
    ASSERT_TRUE(WriteTinyLlamaDirectory(root_ + "/tiny", options).ok());
    std::string text;
    for (int i = 0; i < 400; ++i)
      absl::StrAppend(&text, "line ", i * 7919 % 1000, " of some text\n");
    WriteFile(root_ + "/text.txt", text);
    cluster_ = std::make_unique<Cluster>(root_);
    cluster_->AddWorker();
  }

  RunResult Shiftadd(const std::vector<std::string>& arguments) {
    return cluster_->Shiftadd(arguments);
  }
  std::string Errors() const { return cluster_->Errors(); }
  Json Parse(const RunResult& result) {
    EXPECT_EQ(result.exit_code, 0) << Errors() << cluster_->Logs();
    Json json = Json::parse(result.output, nullptr, false);
    EXPECT_FALSE(json.is_discarded()) << result.output;
    return json;
  }

  std::string root_;
  std::unique_ptr<Cluster> cluster_;
};

TEST_F(EvalTest, AgreesWithTheJobAndStaysWithThePackage) {
  const Json job = [&] {
    const RunResult submitted =
        Shiftadd({"submit", root_ + "/tiny", "--bits", "2", "--name", "tiny", "--method", "rtn",
                  "--calibration-sequences", "4", "--calibration-length", "32", "--eval-text",
                  root_ + "/text.txt", "--eval-sequences", "6", "--eval-length", "48", "--watch"});
    EXPECT_EQ(submitted.exit_code, 0) << submitted.output << Errors() << cluster_->Logs();
    return Parse(Shiftadd({"jobs", "--json"}))["jobs"][0];
  }();
  const std::vector<std::string> eval = {
      "eval", "tiny", "--text", root_ + "/text.txt", "--windows", "6", "--length", "48", "--json"};
  const Json one = Parse(Shiftadd(eval))["package_evaluation"];
  // The same windows as the job's: the same numbers.
  EXPECT_NEAR(one["perplexity"]["value"], job["quality"]["perplexity_quantized"], 1e-9);
  EXPECT_NEAR(one["perplexity_full"]["value"], job["quality"]["perplexity_full"], 1e-9);
  EXPECT_NEAR(one["kl"]["value"], job["quality"]["kl"], 1e-12);
  EXPECT_NEAR(one["kl"]["standard_error"], job["quality"]["kl_standard_error"], 1e-12);
  EXPECT_NEAR(one["perplexity"]["standard_error"],
              job["quality"]["perplexity_quantized_standard_error"], 1e-9);
  EXPECT_EQ(one["tokens"], 6 * 47);
  EXPECT_GE(one["kl_max"]["value"], one["kl_p99"]["value"]);
  EXPECT_GT(one["kl_p99"]["value"], one["kl"]["value"]);
  EXPECT_GT(one["top1_agreement"]["value"], 0);
  EXPECT_LT(one["top1_agreement"]["value"], 1);
  EXPECT_LT(one["server_max_logit_error"], 0.05);

  // Windows enough for three tasks, which two workers share.
  const std::vector<std::string> many = {
      "eval", "tiny", "--text", root_ + "/text.txt", "--windows", "40", "--length", "16", "--json"};
  const Json alone = Parse(Shiftadd(many))["package_evaluation"];
  EXPECT_EQ(alone["windows"], 40);
  cluster_->AddWorker();
  EXPECT_EQ(Parse(Shiftadd(many))["package_evaluation"], alone) << "workers change nothing";
  EXPECT_EQ(Parse(Shiftadd(eval))["package_evaluation"], one);
  // All of the text, and another one beside the first.
  const RunResult whole =
      Shiftadd({"eval", "tiny", "--text", root_ + "/text.txt", "--length", "64"});
  ASSERT_EQ(whole.exit_code, 0) << whole.output << Errors();
  for (const char* part :
       {"perplexity, full precision", "99 % of tokens", "same most likely token"})
    EXPECT_NE(whole.output.find(part), std::string::npos) << part << " in\n" << whole.output;

  const Json inspected = Parse(Shiftadd({"inspect", "tiny", "--json"}));
  EXPECT_EQ(inspected["digest"], job["package_digest"]) << "measuring changes no package";
  ASSERT_EQ(inspected["evaluations"].size(), 3u);  // the same one twice is once
  EXPECT_EQ(inspected["evaluations"][0]["kl"], one["kl"]);
  EXPECT_EQ(inspected["evaluations"][1]["kl"], alone["kl"]);
  EXPECT_GT(inspected["evaluations"][2]["windows"], 6);
  const RunResult text = Shiftadd({"inspect", "tiny"});
  EXPECT_NE(text.output.find("measured on 282 tokens"), std::string::npos) << text.output;
  const Json report = Parse(Shiftadd({"report", job["job_id"].get<std::string>(), "--json"}));
  EXPECT_EQ(report["evaluations"].size(), 3u);
  const RunResult shown = Shiftadd({"report", job["job_id"].get<std::string>()});
  EXPECT_NE(shown.output.find("Evaluation of the package"), std::string::npos) << shown.output;
}

// lm-eval's figures become the package's, and those of another model, or none at all, do not.
TEST_F(EvalTest, KeepsZeroShotFiguresWithThePackage) {
  ASSERT_EQ(
      Shiftadd({"submit", root_ + "/tiny", "--bits", "2", "--name", "tiny:v1", "--method", "rtn",
                "--calibration-sequences", "4", "--calibration-length", "32", "--watch"})
          .exit_code,
      0);
  const std::string job = Parse(Shiftadd({"jobs", "--json"}))["jobs"][0]["job_id"];
  const std::string file = root_ + "/results.json";
  const std::vector<std::string> attach = {"eval", "tiny:v1", "--attach-results", file};
  WriteFile(file, R"({"results": {"copa": {"alias": "copa", "acc,none": 0.75,
                      "acc_stderr,none": 0.0432}}, "n-shot": {"copa": 0},
                      "n-samples": {"copa": {"original": 100, "effective": 100}},
                      "config": {"model_args": {"model": "tiny:v1"}},
                      "lm_eval_version": "0.4.13", "a new field": 1})");
  for (int i = 0; i < 2; ++i) {  // the same one twice is once
    const RunResult attached = Shiftadd(attach);
    ASSERT_EQ(attached.exit_code, 0) << Errors();
    EXPECT_NE(attached.output.find("kept with tiny:v1"), std::string::npos) << attached.output;
  }
  const Json inspected = Parse(Shiftadd({"inspect", "tiny:v1", "--json"}));
  ASSERT_EQ(inspected["evaluations"].size(), 1u);
  EXPECT_EQ(inspected["evaluations"][0]["harness"], "lm-eval 0.4.13");
  EXPECT_EQ(inspected["evaluations"][0]["tasks"][0]["value"]["standard_error"], 0.0432);
  for (const auto& shown : {Shiftadd({"inspect", "tiny:v1"}), Shiftadd({"report", job})}) {
    for (const char* part : {"copa", "0.750", "0.043", "lm-eval 0.4.13"}) {
      EXPECT_NE(shown.output.find(part), std::string::npos) << part << " in\n" << shown.output;
    }
  }
  ASSERT_EQ(Parse(Shiftadd({"report", job, "--json"}))["evaluations"].size(), 1u);

  WriteFile(file, R"({"results": {"copa": {"acc,none": NaN}}})");
  EXPECT_NE(Shiftadd(attach).exit_code, 0);
  EXPECT_NE(Errors().find("results.json: is not JSON"), std::string::npos) << Errors();
  WriteFile(file, R"({"results": {"copa": {"acc,none": 1}},
                      "config": {"model_args": "base_url=http://h,model=other:v1"}})");
  EXPECT_NE(Shiftadd(attach).exit_code, 0);
  EXPECT_NE(Errors().find("the model is other:v1, expected tiny:v1"), std::string::npos)
      << Errors();
  EXPECT_EQ(Shiftadd({"eval", "tiny:v1", "--attach-results", file, "--windows", "3"}).exit_code, 2);
  EXPECT_EQ(Shiftadd({"eval", "tiny:v1", "--attach-results", file, "--text", file}).exit_code, 2);
  EXPECT_EQ(Parse(Shiftadd({"inspect", "tiny:v1", "--json"}))["evaluations"].size(), 1u);
}

// What was measured refers to a package: it goes along to an image layout and to a registry, and
// from there to packagers that know nothing else.
TEST_F(EvalTest, GoesAlongWithPushAndPull) {
  ASSERT_EQ(
      Shiftadd({"submit", root_ + "/tiny", "--bits", "2", "--name", "tiny:v1", "--method", "rtn",
                "--calibration-sequences", "4", "--calibration-length", "32", "--watch"})
          .exit_code,
      0)
      << Errors() << cluster_->Logs();
  const auto measure = [this](const char* windows) {
    Json found = Parse(Shiftadd({"eval", "tiny:v1", "--text", root_ + "/text.txt", "--windows",
                                 windows, "--length", "48", "--json"}))["package_evaluation"];
    for (const char* field : {"tasks", "harness"}) found.erase(field);  // of zero-shot tasks
    return found;
  };
  const Json first = measure("5");
  std::vector<std::string> places = {root_ + "/layout"};
  std::unique_ptr<RegistryProcess> registry;
  if (RegistryProcess::IsInstalled()) {
    registry = RegistryProcess::Start();
    ASSERT_NE(registry, nullptr);
    places.push_back(registry->url() + "/team/tiny:v1");
  }
  for (const std::string& place : places) {
    ASSERT_EQ(Shiftadd({"push", "tiny:v1", place}).exit_code, 0) << Errors();
  }
  // One more, of a package that was pushed already.
  const Json second = measure("3");
  ASSERT_NE(second["kl"], first["kl"]);
  for (size_t i = 0; i < places.size(); ++i) {
    const std::string name = absl::StrCat(root_, "/other", i);
    Process packager({Binary("shiftadd-packager"), "--listen", "127.0.0.1:0", "--http",
                      "127.0.0.1:0", "--data-dir", name, "--port-file", name + ".port"},
                     name + ".log");
    const std::string other =
        absl::StrCat("127.0.0.1:", WaitForPorts(name + ".port", &packager, name + ".log")[0]);
    const auto pull = [&] {
      EXPECT_EQ(Shiftadd({"pull", places[i], "tiny:v1", "--packager", other}).exit_code, 0)
          << Errors();
      return Parse(Shiftadd({"inspect", "tiny:v1", "--json", "--packager", other}));
    };
    Json seen = pull();
    ASSERT_EQ(seen["evaluations"].size(), 1u) << places[i];
    EXPECT_EQ(seen["evaluations"][0], first) << places[i];
    ASSERT_EQ(Shiftadd({"push", "tiny:v1", places[i]}).exit_code, 0) << Errors();
    seen = pull();
    ASSERT_EQ(seen["evaluations"].size(), 2u) << places[i];
    EXPECT_EQ(seen["evaluations"][1], second) << places[i];
    EXPECT_EQ(seen["digest"], Parse(Shiftadd({"inspect", "tiny:v1", "--json"}))["digest"]);
    packager.Kill();
  }
}

TEST_F(EvalTest, SaysWhatIsWrong) {
  RunResult result = Shiftadd({"eval", "nothing", "--text", root_ + "/text.txt"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_NE(Errors().find("nothing:latest"), std::string::npos) << Errors();
  result = Shiftadd({"eval", "tiny", "--text", root_ + "/none.txt"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_NE(Errors().find("none.txt"), std::string::npos) << Errors();
  result = Shiftadd({"eval", "tiny"});
  EXPECT_EQ(result.exit_code, 2);

  ASSERT_EQ(Shiftadd({"submit", root_ + "/tiny", "--bits", "2", "--name", "tiny", "--method", "rtn",
                      "--calibration-sequences", "4", "--calibration-length", "32", "--watch"})
                .exit_code,
            0);
  result = Shiftadd({"eval", "tiny", "--text", root_ + "/text.txt", "--length", "4"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_NE(Errors().find("evaluation.length"), std::string::npos) << Errors();
  result = Shiftadd({"eval", "tiny", "--text", root_ + "/text.txt", "--length", "64", "--windows",
                     "4000", "--json"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_NE(Errors().find("asked for 4000"), std::string::npos) << Errors();
  // Another model of the same shape at the source's place.
  TinyLlamaOptions options;
  options.blocks = 2;
  options.seed = 99;
  ASSERT_TRUE(WriteTinyLlamaDirectory(root_ + "/other", options).ok());
  result = Shiftadd({"eval", "tiny", "--text", root_ + "/text.txt", "--length", "64", "--source",
                     root_ + "/other", "--json"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_NE(Errors().find("has changed since it was quantized"), std::string::npos) << Errors();
}

}  // namespace
}  // namespace shiftadd::testing
