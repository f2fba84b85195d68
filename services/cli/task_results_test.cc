#include "services/cli/task_results.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "services/cli/evaluation_format.h"
#include "shiftadd/v1/package.pb.h"

namespace shiftadd::cli {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr char kResults[] = R"({
  "results": {
    "arc_easy": {"alias": "arc_easy", "acc,none": 0.5, "acc_stderr,none": 0.0125,
                 "acc_norm,none": 0.25, "acc_norm_stderr,none": "N/A", "sample_len": 80},
    "gsm8k": {"exact_match,flexible-extract": 0.125, "exact_match_stderr,flexible-extract": 0},
    "mmlu": {"acc,none": 0.75, "acc_stderr,none": 0.0025},
    "strange": 7
  },
  "groups": {"mmlu": {"acc,none": 0.75}},
  "group_subtasks": {"mmlu": ["mmlu_law", "mmlu_other"], "mmlu_other": ["mmlu_virology"], "arc_easy": []},
  "n-shot": {"arc_easy": 0, "gsm8k": 5},
  "n-samples": {"arc_easy": {"original": 90, "effective": 80}, "mmlu_law": {"effective": 20},
                "mmlu_virology": {"effective": 30}},
  "config": {"model": "shiftadd-completions", "model_args": {"model": "m:v1"}},
  "lm_eval_version": "0.4.13", "a field of tomorrow": [1]
})";

std::string Message(const std::string& text, const std::string& reference = "m:v1") {
  const auto found = ParseTaskResults(text, "r.json", reference);
  EXPECT_TRUE(found.ok() || absl::IsInvalidArgument(found.status())) << found.status();
  return std::string(found.status().message());
}

TEST(TaskResults, EveryFigureWithItsErrorRowsAndShots) {
  const auto found = ParseTaskResults(kResults, "r.json", "m:v1");
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(found->harness(), "lm-eval 0.4.13");
  ASSERT_EQ(found->tasks_size(), 4);
  const v1::TaskFigure& acc = found->tasks(0);
  EXPECT_EQ(acc.task(), "arc_easy");
  EXPECT_EQ(acc.metric(), "acc");
  EXPECT_EQ(acc.value().value(), 0.5);
  EXPECT_EQ(acc.value().standard_error(), 0.0125);
  EXPECT_EQ(acc.rows(), 80u);
  EXPECT_EQ(found->tasks(1).metric(), "acc_norm");
  EXPECT_FALSE(found->tasks(1).value().has_standard_error());
  EXPECT_EQ(found->tasks(2).metric(), "exact_match,flexible-extract");
  EXPECT_EQ(found->tasks(2).shots(), 5u);
  EXPECT_EQ(found->tasks(2).rows(), 0u);
  EXPECT_EQ(found->tasks(3).task(), "mmlu");
  EXPECT_EQ(found->tasks(3).rows(), 50u) << "of all tasks in the group";
}

TEST(TaskResults, DocumentComesBackAndIsShown) {
  const auto found = ParseTaskResults(kResults, "r.json", "m:v1");
  ASSERT_TRUE(found.ok()) << found.status();
  v1::Package package;
  package.add_evaluation_json(TaskResultsJson(*found));
  package.add_evaluation_json(R"({"a kind of tomorrow": 1})");
  const auto read = ParseEvaluations(package.evaluation_json());
  ASSERT_EQ(read.size(), 1u);
  EXPECT_EQ(read[0].SerializeAsString(), found->SerializeAsString());
  EXPECT_EQ(FormatEvaluation(read[0]),
            "task      metric                                +- standard error  rows  shots\n"
            "arc_easy  acc                            0.500              0.013    80      0\n"
            "arc_easy  acc_norm                      0.2500          not known    80      0\n"
            "gsm8k     exact_match,flexible-extract  0.1250             0.0000     -      5\n"
            "mmlu      acc                           0.7500             0.0025    50      0\n"
            "by lm-eval 0.4.13\n");
}

TEST(TaskResults, FaultsNameTheFile) {
  for (const char* text : {"", "{", R"({"results": {"a": {"acc,none": NaN}}})",
                           R"({"results": {"a": {"acc,none": Infinity}}})",
                           R"({"results": {"a": {"acc,none": 1e999}}})"}) {
    EXPECT_THAT(Message(text), HasSubstr("r.json: is not JSON")) << text;
  }
  EXPECT_THAT(Message("[1]"), HasSubstr("r.json: expected a JSON object"));
  for (const char* text : {"{}", R"({"results": 3})", R"({"results": {"a": {"acc": 1}}})",
                           R"({"results": {"a": {"acc,none": "x", "acc_stderr,none": 0.1}}})"}) {
    EXPECT_THAT(Message(text), HasSubstr("r.json: no figure")) << text;
  }
  EXPECT_THAT(Message(R"({"results": {"a": {"acc,none": 1, "acc_stderr,none": -0.5}}})"),
              AllOf(HasSubstr("r.json: results.a.acc_stderr,none"), HasSubstr("-0.5")));
}

TEST(TaskResults, ModelMustBeTheOneThatTheFileNames) {
  EXPECT_THAT(Message(kResults, "m:v2"), HasSubstr("the model is m:v1, expected m:v2"));
  EXPECT_EQ(Message(kResults, "m@sha256:" + std::string(64, 'a')), "");
  const auto named = [](const std::string& arguments) {
    return R"({"results": {"a": {"acc,none": 1}}, "config": {"model_args": )" + arguments + "}}";
  };
  EXPECT_EQ(Message(named(R"("base_url=http://h:1,model=m,num_concurrent=4")"), "m:latest"), "");
  EXPECT_THAT(Message(named(R"("model=n:v1")")), HasSubstr("the model is n:v1"));
  EXPECT_EQ(Message(named("null")), "");
}

}  // namespace
}  // namespace shiftadd::cli
