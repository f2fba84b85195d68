#include "services/cli/html/report_page.h"

#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "services/cli/evaluation_format.h"
#include "services/cli/html/markup.h"
#include "services/cli/progress_view.h"
#include "services/cli/proto_json.h"
#include "services/cli/units.h"

namespace shiftadd::cli::html {
namespace {

std::string Tile(const std::string& name, const std::string& value, const std::string& more) {
  return absl::StrCat("<div class=\"tile\"><span>", Escape(name), "</span><b>", Escape(value),
                      "</b><span>", Escape(more), "</span></div>");
}

std::string QualitySummary(const v1::Job& job) {
  if (!job.has_quality()) return "";
  const v1::Quality& q = job.quality();
  std::string tiles = "<div class=\"tiles\">";
  absl::StrAppend(&tiles,
                  Tile("KL to full precision", FormatFixed(q.kl(), 4),
                       absl::StrCat("± ", FormatFixed(q.kl_standard_error(), 4), " nats")),
                  Tile("perplexity", FormatFixed(q.perplexity_quantized(), 2),
                       absl::StrCat("full precision: ", FormatFixed(q.perplexity_full(), 2))),
                  Tile("planes", FormatFixed(q.planes(), 3),
                       absl::StrCat(FormatFixed(q.stored_bits(), 3), " stored bits")),
                  Tile("package", FormatBytes(q.package_bytes()),
                       q.published_mixed() ? "mixed widths" : "one width"));
  std::vector<std::vector<std::string>> rows = {
      {"full precision", "0", FormatFixed(q.perplexity_full(), 3)},
      {"published", FormatFixed(q.kl(), 4), FormatFixed(q.perplexity_quantized(), 3)}};
  if (q.perplexity_unrefined() > 0) {
    rows.push_back({"before refining", FormatFixed(q.kl_unrefined(), 4),
                    FormatFixed(q.perplexity_unrefined(), 3)});
  }
  if (q.uniform_bits() > 0) {
    rows.push_back({absl::StrCat("uniform ", q.uniform_bits(), " planes"),
                    FormatFixed(q.kl_uniform(), 4), FormatFixed(q.perplexity_uniform(), 3)});
  }
  return absl::StrCat(
      tiles, "</div><section id=\"quality\"><h2>Quality</h2><p>",
      Escape(absl::StrCat("Measured on ", q.windows(), " held-out windows of ", q.window_length(),
                          " tokens. The server's logits differ from the reference's by at most ",
                          FormatShort(q.server_max_logit_error()), " of their range.")),
      "</p><div class=\"scroll\">", Table({"", ">KL (nats)", ">perplexity"}, rows),
      "</div></section>\n");
}

std::string Evaluations(const std::vector<v1::PackageEvaluation>& evaluations) {
  std::vector<std::vector<std::string>> rows, tasks;
  for (const v1::PackageEvaluation& e : evaluations) {
    for (const v1::TaskFigure& figure : e.tasks()) {
      tasks.push_back({figure.task(), figure.metric(), FormatEstimate(figure.value()),
                       figure.rows() > 0 ? FormatCount(figure.rows()) : "-",
                       std::to_string(figure.shots()), e.harness()});
    }
    if (e.tasks_size() > 0) continue;
    rows.push_back({absl::StrCat(e.text_digest().substr(0, 19), "…"),
                    absl::StrCat(e.windows(), " x ", e.window_length()),
                    FormatEstimate(e.perplexity_full()), FormatEstimate(e.perplexity()),
                    FormatEstimate(e.kl()), FormatEstimate(e.kl_p99()), FormatEstimate(e.kl_max()),
                    FormatEstimate(e.top1_agreement())});
  }
  std::string tables;
  const auto add = [&tables](const std::string& table) {
    absl::StrAppend(&tables, "<div class=\"scroll\">", table, "</div>");
  };
  if (!rows.empty()) {
    add(Table({"text", ">windows", ">perplexity, full", ">perplexity", ">KL (nats)", ">KL p99",
               ">KL max", ">same top token"},
              rows));
  }
  if (!tasks.empty()) {
    add(Table({"task", "metric", ">value", ">rows", ">shots", "by"}, tasks));
  }
  if (tables.empty()) return "";
  return absl::StrCat("<section id=\"evaluations\"><h2>Evaluations</h2>", tables, "</section>\n");
}

std::string Provenance(const v1::JobReport& report) {
  const v1::Job& job = report.job();
  std::vector<std::vector<std::string>> rows = {
      {"job", job.job_id()},
      {"package", absl::StrCat(job.spec().output(), " ", job.package_digest())},
      {"source", job.spec().source()},
      {"architecture", job.plan().architecture()},
      {"device class", job.device_class()},
      {"submitted", FormatUnixTime(job.create_time().seconds()) + " UTC"}};
  if (job.has_end_time()) {
    rows.push_back({"ended", FormatUnixTime(job.end_time().seconds()) + " UTC"});
  }
  for (const v1::SourceFile& file : job.plan().source_files()) {
    rows.push_back(
        {"file " + file.path(), absl::StrCat(file.digest(), " ", FormatBytes(file.bytes()))});
  }
  for (int state = v1::JobState_MIN; state <= v1::JobState_MAX; ++state) {  // in a job's order
    if (!v1::JobState_IsValid(state)) continue;
    const std::string name =
        v1::JobState_Name(static_cast<v1::JobState>(state)).substr(sizeof("JOB_STATE_") - 1);
    const auto found = report.state_seconds().find(name);
    if (found == report.state_seconds().end()) continue;
    rows.push_back({"time in " + name, FormatSeconds(found->second)});
  }
  const std::map<std::string, double> workers(report.worker_seconds().begin(),
                                              report.worker_seconds().end());
  for (const auto& [worker, seconds] : workers) {
    rows.push_back({"time of " + worker, FormatSeconds(seconds)});
  }
  return absl::StrCat("<section id=\"provenance\"><h2>Provenance</h2><div class=\"wrap\">",
                      Table({"", ""}, rows),
                      "</div><details><summary>The job as submitted</summary>", "<pre>",
                      Escape(ToJson(job.spec()).dump(2)), "</pre></details></section>\n");
}

}  // namespace

std::string ReportPage(const ReportData& data) {
  const v1::Job& job = data.report.job();
  std::string body = absl::StrCat(
      "<h1>", Escape(job.spec().output()), "</h1><p>",
      Escape(absl::StrCat(job.job_id(), ", ", StateName(job.state()), ": ", job.spec().source())),
      "</p>\n");
  if (!job.error().empty())
    absl::StrAppend(&body, "<section><b>", Escape(job.error()), "</b></section>");
  absl::StrAppend(&body, QualitySummary(job), Evaluations(data.evaluations), WidthMap(data.report),
                  SensitivityBars(data.report), ErrorByDepth(data.report), BudgetCurve(data),
                  TaskTimeline(data.events), Provenance(data.report));
  return Page(absl::StrCat(job.spec().output(), " – shiftadd report"), body);
}

}  // namespace shiftadd::cli::html
