// Numbers, tables, references, and the golden texts of reports and plans.
#include <gtest/gtest.h>

#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "services/cli/bit_grid.h"
#include "services/cli/budget_plan.h"
#include "services/cli/progress_view.h"
#include "services/cli/proto_json.h"
#include "services/cli/reference.h"
#include "services/cli/report_format.h"
#include "services/cli/submit_spec.h"
#include "services/cli/table.h"
#include "services/cli/units.h"

namespace shiftadd::cli {
namespace {

TEST(Units, ParsesSizes) {
  EXPECT_EQ(*ParseBytes("4GiB"), 4ull << 30);
  EXPECT_EQ(*ParseBytes("1.5 mib"), 1572864u);
  EXPECT_EQ(*ParseBytes("500MB"), 500'000'000u);
  EXPECT_EQ(*ParseBytes("9007199254740993"), 9007199254740993u);
  for (const char* bad :
       {"", "GiB", "-1GiB", "0", "4GB2", "4XB", "1e30", "nan", "9999999999999TiB", "1.2.3MB"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ParseBytes(bad).status())) << bad;
  }
}

TEST(Units, Formats) {
  EXPECT_EQ(FormatBytes(17), "17 B");
  EXPECT_EQ(FormatBytes(102932864), "98.2 MiB");
  EXPECT_EQ(FormatBytes((1ull << 30) - 1), "1.0 GiB");
  EXPECT_EQ(FormatCount(0), "0");
  EXPECT_EQ(FormatCount(12345678), "12,345,678");
  EXPECT_EQ(FormatCount(123456), "123,456");
  EXPECT_EQ(FormatSeconds(0.84), "0.8 s");
  EXPECT_EQ(FormatSeconds(185.2), "3 min 05 s");
  EXPECT_EQ(FormatSeconds(7620), "2 h 07 min");
  EXPECT_EQ(FormatSeconds(std::nan("")), "-");
  EXPECT_EQ(FormatShort(0.031249), "0.0312");
  EXPECT_EQ(FormatUnixTime(1'700'000'000), "2023-11-14 22:13:20");
}

TEST(TableText, AlignsByCharacters) {
  Table table({"name", ">n"});
  table.Add({"é", "1"});
  table.Add({"long name", "22"});
  EXPECT_EQ(table.ToString(), "name        n\né           1\nlong name  22\n");
}

TEST(Reference, AddsLatestAndRefuses) {
  EXPECT_EQ(*NormalizeReference("smollm2"), "smollm2:latest");
  EXPECT_EQ(*NormalizeReference("org/a-b.c:v1.0"), "org/a-b.c:v1.0");
  EXPECT_EQ(*NormalizeReference("a__b--c"), "a__b--c:latest");
  const std::string digest = "a@sha256:" + std::string(64, 'a');
  EXPECT_EQ(*NormalizeReference(digest), digest);
  for (const char* bad :
       {"", "A", "a:", ":x", "a//b", "-a", "a-", "a:b:c", "a:-x", "a b", "a@sha256:12"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(NormalizeReference(bad).status())) << bad;
  }
}

TEST(ProtoJson, ShortNamesAndNumbers) {
  v1::Job job;
  job.set_job_id("j");
  job.set_state(v1::JOB_STATE_SUCCEEDED);
  job.mutable_plan()->set_source_bytes(5'000'000'000);
  job.mutable_create_time()->set_seconds(0);
  job.mutable_progress()->mutable_eta()->set_nanos(500'000'000);
  (*job.mutable_spec()->mutable_labels())["k"] = "v";
  const auto json = ToJson(job);
  EXPECT_EQ(json["state"], "succeeded");
  EXPECT_EQ(json["plan"]["source_bytes"], 5'000'000'000u);
  EXPECT_EQ(json["create_time"], "1970-01-01T00:00:00+00:00");
  EXPECT_EQ(json["progress"]["eta"], 0.5);
  EXPECT_EQ(json["spec"]["labels"]["k"], "v");
  EXPECT_FALSE(json.contains("quality"));
}

v1::LayerReport Layer(uint32_t block, const char* kind, uint64_t rows, uint32_t chosen) {
  v1::LayerReport layer;
  layer.mutable_layer()->set_block(block);
  layer.mutable_layer()->set_kind(kind);
  layer.mutable_layer()->set_name(absl::StrCat("blocks.", block, ".", kind));
  layer.mutable_layer()->set_rows(rows);
  layer.mutable_layer()->set_cols(128);
  layer.set_chosen_bits(chosen);
  layer.set_worker("w1");
  for (const uint32_t bits : {2u, 3u}) {
    v1::CandidateReport* candidate = layer.add_candidates();
    candidate->set_bits(bits);
    candidate->set_stored_bits(bits + 0.25);
    candidate->set_stored_bytes(rows * 128 * bits / 8 + rows * 4);
    candidate->set_output_error(0.5 / (1 << bits));
    candidate->set_guided_error(static_cast<double>(rows) / (1 << bits));
    candidate->set_importance(candidate->guided_error());
  }
  return layer;
}

v1::JobReport SampleReport() {
  v1::JobReport report;
  v1::Job* job = report.mutable_job();
  job->set_job_id("job-1");
  job->set_state(v1::JOB_STATE_SUCCEEDED);
  job->mutable_spec()->set_source("file:///m.gguf");
  job->mutable_spec()->set_output("m:latest");
  v1::Recipe* recipe = job->mutable_spec()->mutable_recipe();
  recipe->set_method(v1::METHOD_SHIFTADD);
  recipe->set_scales(v1::SCALE_KIND_SHIFT);
  recipe->set_rotation(v1::ROTATION_WHT128);
  recipe->set_hessian(v1::HESSIAN_GUIDED);
  recipe->set_group_size(128);
  recipe->add_candidate_bits(2);
  recipe->add_candidate_bits(3);
  recipe->set_damping(0.01);
  recipe->set_sweeps(0);
  recipe->set_offset(false);
  v1::RecipeOverride* skipped = recipe->add_overrides();
  skipped->set_glob("blocks.1.*");
  skipped->set_skip(true);
  job->mutable_spec()->mutable_budget()->set_planes(2.5);
  job->mutable_spec()->set_criterion(v1::CRITERION_GUIDED);
  job->mutable_spec()->mutable_calibration()->set_sequences(32);
  job->mutable_spec()->mutable_calibration()->set_length(512);
  v1::Evaluation* evaluation = job->mutable_spec()->mutable_evaluation();
  evaluation->set_sequences(8);
  evaluation->set_length(512);
  evaluation->set_skip(110);
  evaluation->set_text_digest("sha256:" + std::string(64, '5'));
  job->set_package_digest("sha256:ab");
  v1::Quality* quality = job->mutable_quality();
  quality->set_kl(0.1234);
  quality->set_kl_standard_error(0.0101);
  quality->set_perplexity_full(10);
  quality->set_perplexity_full_standard_error(0.5);
  quality->set_perplexity_quantized(11);
  quality->set_perplexity_quantized_standard_error(0.625);
  quality->set_windows(8);
  quality->set_window_length(512);
  quality->set_kl_uniform(0.2);
  quality->set_perplexity_uniform(12);
  quality->set_uniform_bits(2);
  quality->set_published_mixed(true);
  quality->set_server_max_logit_error(1e-4);
  quality->set_planes(2.333);
  quality->set_stored_bits(2.583);
  quality->set_package_bytes(1 << 20);
  *report.add_layers() = Layer(0, "q", 64, 3);
  *report.add_layers() = Layer(0, "gate", 128, 2);
  report.mutable_layers(1)->set_note("gradients not finite: unit-RMS tokens");
  (*report.mutable_state_seconds())["JOB_STATE_PROFILING"] = 100;
  (*report.mutable_state_seconds())["JOB_STATE_INGESTING"] = 1;
  (*report.mutable_kind_seconds())["PROFILE"] = 80;
  (*report.mutable_kind_seconds())["FORWARD"] = 20;
  (*report.mutable_stage_seconds())["fit"] = 60;
  (*report.mutable_stage_seconds())["backward"] = 60;
  (*report.mutable_worker_seconds())["w1"] = 90;
  return report;
}

TEST(ReportText, Golden) {
  EXPECT_EQ(FormatReport(SampleReport(), true),
            R"(Job job-1 SUCCEEDED: file:///m.gguf -> m:latest
Package sha256:ab

Recipe
method shiftadd, scales shift, rotation wht128, hessian guided, group_size 128,
candidate_bits 2 3, damping 0.01, offset false, sweeps 0
override     blocks.1.*: as in the source
budget       2.5 planes, mixed widths, criterion guided
calibration  32 x 512 tokens, written by the model
evaluation   8 x 512 tokens, of text sha256:555555555555... after the first 110

Notes
gradients not finite: unit-RMS tokens: blocks.0.gate

Layers (error: relative output error at each width)
block  kind    shape  bits  error@2  error@3  stored bits  worker
    0  q      64x128     3    0.125   0.0625        3.250  w1
    0  gate  128x128     2    0.125   0.0625        2.250  w1

Allocation
bits  layers  weights    share  planes  stored bits     size
2          1   16,384   66.7 %   2.000        2.250  4.5 KiB
3          1    8,192   33.3 %   3.000        3.250  3.2 KiB
all        2   24,576  100.0 %   2.333        2.583  7.8 KiB

block     q  gate  mean
    0     3     2  2.33
 mean  3.00  2.00  2.33
the whole package, with head, embedding and tokenizer: 1.0 MiB

Sensitivity by kind (sum of criterion guided at each width)
kind  layers  at 2  at 3  as chosen   share
q          1    16     8          8  20.0 %
gate       1    32    16         32  80.0 %

Most sensitive layers (figures at the width that was chosen)
layer          bits  criterion   share  output  guided
blocks.0.gate     2         32  80.0 %   0.125      32
blocks.0.q        3          8  20.0 %  0.0625       8

Quality
                KL to full (nats)       perplexity   change
full precision                  0  10.000 +- 0.500
published        0.1234 +- 0.0101  11.000 +- 0.625  +10.0 %
uniform 2 bits             0.2000           12.000  +20.0 %
measured on 8 held-out windows of 512 tokens; published: the mixed allocation
the server's logits differ from the reference's by at most 0.0001 of their range

Time (phase: on the wall; task, stage, worker: sum over workers)
phase   INGESTING       1.0 s    1.0 %
        PROFILING  1 min 40 s   99.0 %
task    PROFILE    1 min 20 s   80.0 %
        FORWARD          20 s   20.0 %
stage   backward   1 min 00 s   50.0 %
        fit        1 min 00 s   50.0 %
worker  w1         1 min 30 s  100.0 %
)");
}

TEST(ReportText, FitsAHundredColumns) {
  v1::JobReport report = SampleReport();
  report.clear_layers();
  for (uint32_t i = 0; i < 14; ++i) {
    v1::LayerReport layer = Layer(i / 7 + 90, "gate", 12345, 3);
    layer.mutable_layer()->set_name("blocks.99.mlp.gate");
    layer.mutable_layer()->set_kind(
        std::vector<const char*>{"q", "k", "v", "o", "gate", "up", "down"}[i % 7]);
    for (v1::CandidateReport& candidate : *layer.mutable_candidates()) {
      for (const auto set :
           {&v1::CandidateReport::set_importance, &v1::CandidateReport::set_weight_error,
            &v1::CandidateReport::set_output_error, &v1::CandidateReport::set_guided_error,
            &v1::CandidateReport::set_paper_criterion, &v1::CandidateReport::set_measured_kl}) {
        (candidate.*set)(1.2345e-05);
      }
    }
    *report.add_layers() = layer;
  }
  for (const absl::string_view line : absl::StrSplit(FormatReport(report, false), '\n')) {
    EXPECT_LE(line.size(), 100u) << line;
  }
}

TEST(ReportText, WhatCannotBePackedIsCalledSimulated) {
  v1::JobReport report = SampleReport();
  EXPECT_EQ(FormatReport(report, false).find("simulated, not packed"), std::string::npos);
  report.mutable_job()->mutable_spec()->mutable_recipe()->set_method(v1::METHOD_ACC);
  EXPECT_NE(FormatReport(report, false).find("\nsimulated, not packed: "), std::string::npos)
      << FormatReport(report, false);
}

TEST(ReportText, RefinedLayersAreTold) {
  v1::JobReport report = SampleReport();
  for (v1::LayerReport& layer : *report.mutable_layers()) {
    layer.mutable_refined()->set_output_error(0.05);
  }
  report.mutable_job()->mutable_quality()->set_kl_unrefined(0.15);
  report.mutable_job()->mutable_quality()->set_kl_unrefined_standard_error(0.02);
  report.mutable_job()->mutable_quality()->set_perplexity_unrefined(11.5);
  EXPECT_NE(FormatReport(report, false)
                .find("\nbefore refining   0.1500 +- 0.0200           11.500  +15.0 %\n"),
            std::string::npos)
      << FormatReport(report, false);
  EXPECT_NE(FormatReport(report, false)
                .find("2 layers were made again with the quantized model's inputs; mean relative "
                      "output error 0.0938 (full model's inputs) -> 0.05\n"),
            std::string::npos);
}

TEST(ReportText, BeforeAllocation) {
  v1::JobReport report;
  *report.add_layers() = Layer(0, "q", 64, 0);
  EXPECT_EQ(FormatAllocation(report), "");
  EXPECT_NE(FormatLayerTable(report).find("64x128     -    0.125"), std::string::npos)
      << FormatLayerTable(report);
}

TEST(BitGridText, MeansCountWeights) {
  BitGrid grid;
  const auto layer = [](uint32_t block, const char* kind, uint64_t rows) {
    v1::LayerPlan plan;
    plan.set_block(block);
    plan.set_kind(kind);
    plan.set_rows(rows);
    plan.set_cols(10);
    return plan;
  };
  grid.Add(layer(1, "q", 10), 4);
  grid.Add(layer(0, "q", 10), 2);
  grid.Add(layer(0, "down", 30), 3);
  grid.Add(layer(2, "down", 30), 0);  // skipped
  EXPECT_EQ(grid.ToString(),
            "block     q  down  mean\n"
            "    0     2     3  2.75\n"
            "    1     4     -  4.00\n"
            "    2     -     -     -\n"
            " mean  3.00  3.00  3.00\n");
}

TEST(BudgetPlanText, ARowABudget) {
  BudgetPlan plan;
  plan.budget.set_bytes(3 << 20);
  plan.plan.set_planes(2.25);
  plan.plan.set_stored_bits(2.42);
  plan.plan.set_package_bytes(3'000'000);
  plan.plan.set_output_error(0.0123);
  plan.plan.set_importance(1.5);
  plan.plan.set_criterion(v1::CRITERION_MEASURED);
  EXPECT_EQ(FormatBudgetPlans({plan}),
            "budget   planes  stored bits     size  output error  criterion  uniform  its "
            "criterion\n"
            "3.0 MiB   2.250        2.420  2.9 MiB        0.0123        1.5        -              -"
            "\n"
            "criterion: sum of measured over the layers, lower is better; uniform: the widest "
            "single width that fits\n");
}

TEST(PlanText, SaysWhetherTheBudgetCanBeMet) {
  v1::Job job;
  job.mutable_plan()->set_architecture("llama");
  job.mutable_plan()->add_layers();
  job.mutable_plan()->set_estimated_seconds(240);
  job.mutable_plan()->set_budget_message("at least 60 MiB are needed");
  const std::string text = FormatPlan(job);
  EXPECT_NE(text.find("CANNOT be met: at least 60 MiB are needed"), std::string::npos) << text;
  EXPECT_NE(text.find("4 min 00 s with one worker"), std::string::npos) << text;
}

v1::JobEvent Event(uint64_t sequence) {
  v1::JobEvent event;
  event.set_sequence(sequence);
  event.mutable_time()->set_seconds(60 * 60 + sequence);
  return event;
}

TEST(JobViewText, PlainLinesOnceEach) {
  JobView view;
  v1::JobEvent event = Event(1);
  event.set_state(v1::JOB_STATE_PROFILING);
  EXPECT_EQ(view.Apply(event), "01:00:01  PROFILING");
  EXPECT_EQ(view.Apply(event), "") << "a repeated event";
  event = Event(2);
  event.mutable_progress()->set_ratio(0.5);
  event.mutable_progress()->set_layers_done(7);
  event.mutable_progress()->set_layers_total(14);
  event.mutable_progress()->set_workers(2);
  event.mutable_progress()->set_output_error(0.03125);
  event.mutable_progress()->mutable_eta()->set_seconds(75);
  EXPECT_EQ(view.Apply(event),
            "01:00:02   50 %  layers 7/14, 2 workers, relative error 0.0312, 1 min 15 s left");
  event.set_sequence(3);
  event.mutable_progress()->set_ratio(0.52);
  EXPECT_EQ(view.Apply(event), "") << "less than 5 % more";
  event = Event(4);
  event.mutable_task()->set_task_id("t");
  event.mutable_task()->set_kind("PROFILE");
  event.mutable_task()->set_worker("w");
  event.mutable_task()->set_change("expired");
  EXPECT_EQ(view.Apply(event), "01:00:04  task t (PROFILE) expired on w");
  EXPECT_EQ(view.last_sequence(), 4u);
  const auto lines = view.Render(60, false);
  EXPECT_EQ(lines[0], "PROFILING    [##########..........]  52.0 %  1 min 15 s left");
  for (const std::string& line : view.Render(30, false)) EXPECT_LE(Utf8Length(line), 30u) << line;
}

TEST(JobViewText, OutcomeOfAFailure) {
  v1::Job job;
  job.set_job_id("job-9");
  job.set_state(v1::JOB_STATE_FAILED);
  job.set_resume_state(v1::JOB_STATE_INGESTING);
  job.set_error("m.gguf: wrong magic");
  EXPECT_EQ(FormatOutcome(job), "job-9 FAILED in INGESTING: m.gguf: wrong magic\n");
}

}  // namespace
}  // namespace shiftadd::cli
