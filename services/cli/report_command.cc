#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "services/cli/clients.h"
#include "services/cli/commands.h"
#include "services/cli/evaluation_format.h"
#include "services/cli/files.h"
#include "services/cli/html/report_page.h"
#include "services/cli/proto_json.h"
#include "services/cli/report_format.h"

namespace shiftadd::cli {
namespace {

constexpr int kCurvePoints = 17;

struct ReportFlags {
  std::string job_id, html;
  bool with_layers = false;
};

absl::StatusOr<v1::JobReport> GetReport(const JobClient& jobs, const std::string& job_id) {
  v1::GetJobReportRequest request;
  request.set_job_id(job_id);
  return jobs.Call(&JobClient::Stub::GetJobReport, request);
}

// Every event so far; a job that runs on is not waited for.
absl::StatusOr<std::vector<v1::JobEvent>> GetEvents(const JobClient& jobs, const v1::Job& job) {
  std::vector<v1::JobEvent> events;
  if (job.last_sequence() == 0) return events;
  grpc::ClientContext call;
  rpc::SetDeadline(&call, absl::Seconds(60));
  v1::WatchJobRequest request;
  request.set_job_id(job.job_id());
  const auto reader = jobs.target().stub->WatchJob(&call, request);
  for (v1::JobEvent event; reader->Read(&event);) {
    events.push_back(event);
    if (event.sequence() < job.last_sequence()) continue;
    call.TryCancel();
    reader->Finish();
    return events;
  }
  SA_RETURN_IF_ERROR(jobs.Explain(rpc::FromGrpc(reader->Finish())));
  return events;
}

// Budgets from the narrowest candidates to the widest; none where the coordinator plans none (the
// job is not that far, or its candidates are gone).
std::vector<v1::PlanBudgetResponse> GetCurve(const JobClient& jobs, const v1::JobReport& report) {
  uint32_t least = 0, most = 0;
  for (const v1::LayerReport& layer : report.layers()) {
    for (const v1::CandidateReport& candidate : layer.candidates()) {
      least = least == 0 ? candidate.bits() : std::min(least, candidate.bits());
      most = std::max(most, candidate.bits());
    }
  }
  std::vector<v1::PlanBudgetResponse> curve;
  for (int i = 0; i < kCurvePoints && most > least; ++i) {
    v1::PlanBudgetRequest request;
    request.set_job_id(report.job().job_id());
    request.mutable_budget()->set_planes(least + (most - least) * static_cast<double>(i) /
                                                     (kCurvePoints - 1));
    auto plan = jobs.Call(&JobClient::Stub::PlanBudget, request);
    if (plan.ok()) curve.push_back(*std::move(plan));
  }
  return curve;
}

html::MeasuredBudget Measured(const v1::Job& job) {
  const v1::Quality& q = job.quality();
  return {job.spec().output(), q.planes(), q.stored_bits(), q.kl()};
}

// The job's own, and those of the jobs that were made from its candidates.
absl::StatusOr<std::vector<html::MeasuredBudget>> GetMeasured(const JobClient& jobs,
                                                              const v1::Job& job) {
  std::vector<html::MeasuredBudget> measured;
  if (!job.has_quality()) return measured;
  measured.push_back(Measured(job));
  v1::ListJobsRequest request;
  request.set_page_size(500);
  SA_ASSIGN_OR_RETURN(const v1::ListJobsResponse all,
                      jobs.Call(&JobClient::Stub::ListJobs, request));
  for (const v1::Job& other : all.jobs()) {
    if (other.spec().parent_job_id() == job.job_id() && other.has_quality()) {
      measured.push_back(Measured(other));
    }
  }
  return measured;
}

// What was measured: by the job itself, or since then of its package. A packager that is away, or a
// package that is gone, keeps nobody from reading the rest.
std::vector<v1::PackageEvaluation> GetEvaluations(Context& context, const v1::Job& job) {
  if (job.has_package_evaluation()) return {job.package_evaluation()};
  if (job.package_digest().empty()) return {};
  const auto packages = ConnectPackages(context);
  if (!packages.ok()) return {};
  const std::string& output = job.spec().output();
  const absl::StatusOr<v1::Package> package =
      (*packages)->Get(absl::StrCat(output.substr(0, output.find(':')), "@", job.package_digest()));
  if (!package.ok()) {
    if (!absl::IsNotFound(package.status())) {
      context.err << "shiftadd: evaluations of the package are not shown: "
                  << package.status().message() << "\n";
    }
    return {};
  }
  return ParseEvaluations(package->evaluation_json());
}

std::string JsonReport(const v1::JobReport& report,
                       const std::vector<v1::PackageEvaluation>& evaluations) {
  nlohmann::ordered_json json = ToJson(report);
  json["evaluations"] = nlohmann::ordered_json::array();
  for (const v1::PackageEvaluation& e : evaluations) json["evaluations"].push_back(ToJson(e));
  return json.dump(2) + "\n";
}

absl::Status WriteHtml(Context& context, const JobClient& jobs, v1::JobReport report,
                       const std::string& path) {
  html::ReportData data;
  SA_ASSIGN_OR_RETURN(data.events, GetEvents(jobs, report.job()));
  SA_ASSIGN_OR_RETURN(data.measured, GetMeasured(jobs, report.job()));
  data.budgets = GetCurve(jobs, report);
  data.evaluations = GetEvaluations(context, report.job());
  data.report = std::move(report);
  SA_RETURN_IF_ERROR(WriteFileAtomically(path, html::ReportPage(data)));
  context.out << "the report is in " << path << "\n";
  return absl::OkStatus();
}

absl::Status ShowReport(Context& context, const ReportFlags& flags) {
  SA_ASSIGN_OR_RETURN(const JobClient jobs, ConnectJobs(context));
  SA_ASSIGN_OR_RETURN(v1::JobReport report, GetReport(jobs, flags.job_id));
  if (!flags.html.empty()) return WriteHtml(context, jobs, std::move(report), flags.html);
  const auto evaluations = GetEvaluations(context, report.job());
  context.out << (context.json ? JsonReport(report, evaluations)
                               : FormatReport(report, flags.with_layers, evaluations));
  return absl::OkStatus();
}

}  // namespace

void AddReportCommand(CLI::App& app, Context& context) {
  auto flags = std::make_shared<ReportFlags>();
  CLI::App* report =
      app.add_subcommand("report", "Recipe, allocation, sensitivity, quality and times of a job");
  report->add_option("job", flags->job_id, "The job's id")->required();
  report->add_flag("--layers", flags->with_layers, "Also a row for every layer");
  report->add_option("--html", flags->html,
                     "Write it as a page with pictures, which needs nothing else, to this file");
  AddCoordinatorFlag(report, context);
  AddPackagerFlag(report, context);
  AddJsonFlag(report, context);
  report->get_option("--html")->excludes(report->get_option("--json"));
  report->callback([&context, flags] {
    context.action = [&context, flags] { return Report(context, ShowReport(context, *flags)); };
  });
}

}  // namespace shiftadd::cli
