// The page as text; chromium_test.sh looks at it with a browser.
#include "services/cli/html/report_page.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "absl/strings/str_cat.h"

namespace shiftadd::cli::html {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// Four blocks of two kinds at 2 and 3 planes, two workers, three tasks.
ReportData Sample() {
  ReportData data;
  v1::Job* job = data.report.mutable_job();
  job->set_job_id("job-1");
  job->set_state(v1::JOB_STATE_SUCCEEDED);
  job->mutable_spec()->set_output("a<b>&\"c\":latest");
  job->mutable_spec()->set_source("file:///m.gguf");
  job->mutable_quality()->set_kl(0.25);
  job->mutable_quality()->set_planes(2.5);
  job->mutable_quality()->set_windows(8);
  for (uint32_t block = 0; block < 4; ++block) {
    for (const char* kind : {"q", "down"}) {
      v1::LayerReport* layer = data.report.add_layers();
      layer->mutable_layer()->set_name(absl::StrCat("blocks.", block, ".", kind));
      layer->mutable_layer()->set_block(block);
      layer->mutable_layer()->set_kind(kind);
      layer->set_chosen_bits(2 + block % 2);
      for (const uint32_t bits : {2u, 3u}) {
        v1::CandidateReport* candidate = layer->add_candidates();
        candidate->set_bits(bits);
        candidate->set_importance(0.1 / bits);
        candidate->set_output_error(0.03 / bits / (1 + block));
      }
    }
  }
  for (const double planes : {2.0, 2.5, 3.0}) {
    data.budgets.emplace_back();
    data.budgets.back().set_planes(planes);
    data.budgets.back().set_importance(1 / planes);
  }
  data.measured = {{"a", 2.5, 2.7, 0.25}, {"child", 3, 3.2, 0.2}};
  int64_t second = 100;
  const auto add = [&](const std::string& task, const std::string& worker,
                       const std::string& change) {
    v1::JobEvent& event = data.events.emplace_back();
    event.mutable_time()->set_seconds(second++);
    event.mutable_task()->set_task_id(task);
    event.mutable_task()->set_kind("PROFILE");
    event.mutable_task()->set_worker(worker);
    event.mutable_task()->set_change(change);
  };
  for (const char* state : {"EVALUATING", "CALIBRATING", "PROFILING", "INGESTING"}) {
    (*data.report.mutable_state_seconds())[state] = 1;
  }
  add("t1", "w1", "leased");
  add("t2", "w2", "leased");
  add("t1", "w1", "done");
  add("t2", "w2", "expired");
  add("t2", "w1", "leased");
  return data;
}

TEST(ReportPage, HoldsZeroShotFigures) {
  ReportData data = Sample();
  EXPECT_THAT(ReportPage(data), Not(HasSubstr("id=\"evaluations\"")));
  v1::PackageEvaluation& e = data.evaluations.emplace_back();
  e.set_harness("lm-eval 0.4.13");
  v1::TaskFigure* figure = e.add_tasks();
  figure->set_task("arc<easy>");
  figure->set_metric("acc_norm");
  figure->mutable_value()->set_value(0.5);
  figure->mutable_value()->set_standard_error(0.0125);
  figure->set_rows(80);
  const std::string page = ReportPage(data);
  for (const char* part : {"id=\"evaluations\"", "arc&lt;easy&gt;", "acc_norm", "0.500 +- 0.013",
                           ">80<", "lm-eval 0.4.13"}) {
    EXPECT_THAT(page, HasSubstr(part));
  }
  EXPECT_THAT(page, Not(HasSubstr("perplexity, full")));
}

TEST(ReportPage, HoldsEveryFigureAndItsNumbers) {
  const std::string page = ReportPage(Sample());
  for (const char* id :
       {"quality", "widths", "sensitivity", "depth", "budgets", "tasks", "provenance"}) {
    EXPECT_THAT(page, HasSubstr(absl::StrCat("id=\"", id, "\"")));
  }
  EXPECT_THAT(page,
              HasSubstr("<title>blocks.3.down: 3 planes, 0.00 stored bits, output error 0.0025"));
  EXPECT_THAT(page, HasSubstr("child: measured at 3.000 planes: KL 0.2"));
  // Predicted through the job's own point: 0.25 at 2.5 planes, so 0.3125 at 2.
  EXPECT_THAT(page, HasSubstr("predicted at 2.000 planes: KL 0.312"));
  EXPECT_THAT(page, HasSubstr("PROFILE t2 on w2: 2.00 s from 1.00 s, expired"));
  EXPECT_THAT(page, HasSubstr("PROFILE t2 on w1: 0.00 s from 4.00 s, running"));
  size_t place = 0;  // times in the order of a job's life
  for (const char* state : {"INGESTING", "CALIBRATING", "PROFILING", "EVALUATING"}) {
    const size_t found = page.find(absl::StrCat("time in ", state));
    ASSERT_NE(found, std::string::npos) << state;
    EXPECT_GT(found, place) << state;
    place = found;
  }
  if (const char* path = std::getenv("SHIFTADD_REPORT_PAGE")) std::ofstream(path) << page;
}

TEST(ReportPage, NeedsNothingElseAndEscapesNames) {
  const std::string page = ReportPage(Sample());
  for (const char* outside :
       {"http://", "https://", "<script", "<link", "<img", "url(", "@import"}) {
    EXPECT_THAT(page, Not(HasSubstr(outside))) << outside;
  }
  EXPECT_THAT(page, HasSubstr("a&lt;b&gt;&amp;&quot;c&quot;:latest"));
  EXPECT_THAT(page, Not(HasSubstr("a<b>")));
}

TEST(ReportPage, AJobThatHasOnlyBegunHasNoPictures) {
  ReportData data;
  data.report.mutable_job()->set_job_id("job-2");
  data.report.mutable_job()->set_state(v1::JOB_STATE_FAILED);
  data.report.mutable_job()->set_error("no such file");
  const std::string page = ReportPage(data);
  EXPECT_THAT(page, HasSubstr("no such file"));
  EXPECT_THAT(page, Not(HasSubstr("<svg role")));
}

}  // namespace
}  // namespace shiftadd::cli::html
