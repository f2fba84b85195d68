// `plan`, `report` and `compare` as a user types them, against real processes.
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "tests/cluster.h"
#include "worker/model/testing/tiny_llama.h"

namespace shiftadd::testing {
namespace {

using Json = nlohmann::json;

class CompareTest : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = NewTempDir("compare");
    TinyLlamaOptions options;
    options.blocks = 2;
    ASSERT_TRUE(WriteTinyLlamaDirectory(root_ + "/tiny", options).ok());
    cluster_ = std::make_unique<Cluster>(root_);
    cluster_->AddWorker();
    cluster_->AddWorker();
  }

  RunResult Shiftadd(const std::vector<std::string>& arguments) {
    return cluster_->Shiftadd(arguments);
  }
  Json Parse(const RunResult& result) {
    EXPECT_EQ(result.exit_code, 0) << cluster_->Errors() << cluster_->Logs();
    Json json = Json::parse(result.output, nullptr, false);
    EXPECT_FALSE(json.is_discarded()) << result.output;
    return json;
  }

  std::string root_;
  std::unique_ptr<Cluster> cluster_;
};

TEST_F(CompareTest, MethodsOverOneCalibration) {
  WriteFile(root_ + "/refined.yaml", "propagate: quantized\neffort: fast\n");
  const Json json =
      Parse(Shiftadd({"compare", root_ + "/tiny", "--methods", "rtn,optq,lat,acc,shiftadd",
                      "--recipe", root_ + "/refined.yaml", "--bits", "2,4",
                      "--calibration-sequences", "8", "--calibration-length", "32", "--json"}));
  ASSERT_EQ(json["rows"].size(), 12u);
  EXPECT_GT(json["full_precision"]["perplexity"], 1);
  for (size_t i = 0; i < 12; i += 2) {
    const Json &two = json["rows"][i], &four = json["rows"][i + 1];
    EXPECT_EQ(two["planes"], 2) << two;
    EXPECT_EQ(four["planes"], 4) << four;
    EXPECT_LT(four["kl"], two["kl"]) << two["recipe"];
    EXPECT_GT(two["seconds"], 0);
  }
  EXPECT_EQ(Parse(Shiftadd({"jobs", "--json"}))["jobs"].size(), 0u) << "all were removed";
}

TEST_F(CompareTest, APlanIsWhatIsPublished) {
  const RunResult submitted =
      Shiftadd({"submit", root_ + "/tiny", "--bits", "3", "--name", "tiny:3", "--method", "rtn",
                "--calibration-sequences", "8", "--calibration-length", "32", "--watch"});
  ASSERT_EQ(submitted.exit_code, 0) << submitted.output << cluster_->Logs();
  const Json job = Parse(Shiftadd({"jobs", "--json"}))["jobs"][0];
  const std::string id = job["job_id"];

  const Json plans = Parse(Shiftadd({"plan", id, "--bits", "2,2.5,3,4", "--json"}))["plans"];
  ASSERT_EQ(plans.size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_LE(plans[i]["planes"], plans[i]["budget"]["planes"]);
    EXPECT_EQ(plans[i]["layers"].size(), 14u);
  }
  for (size_t i = 1; i < 4; ++i) EXPECT_LT(plans[i]["importance"], plans[i - 1]["importance"]);
  EXPECT_EQ(plans[1]["uniform_bits"], 2);
  EXPECT_LE(plans[1]["importance"], plans[1]["importance_uniform"]);

  const RunResult published = Shiftadd({"plan", id, "--bits", "2.5", "--publish", "tiny:small",
                                        "--eval-sequences", "2", "--eval-length", "16", "--watch"});
  ASSERT_EQ(published.exit_code, 0) << published.output << cluster_->Logs();
  const Json child = Parse(Shiftadd({"jobs", "--json"}))["jobs"][0];
  EXPECT_EQ(child["spec"]["parent_job_id"], id);
  EXPECT_EQ(child["quality"]["windows"], 2);
  EXPECT_EQ(child["quality"]["window_length"], 16);

  const Json report = Parse(Shiftadd({"report", child["job_id"].get<std::string>(), "--json"}));
  std::map<std::string, Json> planned;
  for (const Json& layer : plans[1]["layers"]) planned[layer["layer"]] = layer["bits"];
  ASSERT_EQ(report["layers"].size(), 14u);
  if (child["quality"]["published_mixed"]) {
    for (const Json& layer : report["layers"]) {
      EXPECT_EQ(layer["chosen_bits"], planned[layer["layer"]["name"]]) << layer["layer"];
    }
  }
  const RunResult text = Shiftadd({"report", id});
  EXPECT_EQ(text.exit_code, 0);
  for (const char* part : {"method rtn", "block     q     k", "Most sensitive layers", "PROFILING"})
    EXPECT_NE(text.output.find(part), std::string::npos) << part << " in\n" << text.output;
}

}  // namespace
}  // namespace shiftadd::testing
