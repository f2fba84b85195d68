#include "services/cli/compare_jobs.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/base/ids.h"
#include "services/base/status_macros.h"
#include "services/cli/progress_view.h"

namespace shiftadd::cli {

ComparisonRun::ComparisonRun(Context& context, const JobClient& jobs, ComparisonPlan plan)
    : context_(context), jobs_(jobs), plan_(std::move(plan)), guard_([] {}, {SIGINT, SIGTERM}) {}

std::vector<ComparisonRow> ComparisonRun::Run() {
  std::vector<ComparisonRow> rows;
  for (const NamedRecipe& recipe : plan_.recipes) {
    for (const uint32_t bits : plan_.bits) {
      ComparisonRow& row = rows.emplace_back();
      row.recipe = recipe.name;
      row.simulated = recipe.recipe.method() == v1::METHOD_ACC;
      row.bits = bits;
      row.package = Package(row);
    }
  }
  for (size_t i = 0; i < plan_.recipes.size(); ++i) {
    std::vector<ComparisonRow*> own;
    for (size_t j = 0; j < plan_.bits.size(); ++j) own.push_back(&rows[i * plan_.bits.size() + j]);
    if (interrupted()) {
      for (ComparisonRow* row : own) row->error = "not started";
    } else if (plan_.recipes[i].recipe.propagate() == v1::PROPAGATE_QUANTIZED) {
      RunApart(plan_.recipes[i], own);
    } else {
      RunShared(plan_.recipes[i], own);
    }
  }
  CancelRunning();
  return rows;
}

void ComparisonRun::RunShared(const NamedRecipe& recipe, std::vector<ComparisonRow*> rows) {
  ComparisonRow* first = rows.front();
  rows.erase(rows.begin());
  if (const absl::Status status = Submit(recipe, plan_.bits, first).status(); !status.ok()) {
    first->error = std::string(status.message());
  } else {
    Finish(first, 0);
  }
  if (!first->error.empty()) {
    for (ComparisonRow* row : rows) row->error = first->error;
    return;
  }
  first->seconds = QuantizingSeconds(first->job_id);
  // All at once, so that workers need not wait between them.
  for (ComparisonRow* row : rows) {
    const absl::Status status = Publish(first->job_id, row).status();
    if (!status.ok()) row->error = std::string(status.message());
  }
  for (ComparisonRow* row : rows) {
    if (row->error.empty()) Finish(row, first->seconds);
  }
}

void ComparisonRun::RunApart(const NamedRecipe& recipe, const std::vector<ComparisonRow*>& rows) {
  for (ComparisonRow* row : rows) {
    if (interrupted()) {
      row->error = "not started";
    } else if (const absl::Status status = Submit(recipe, {row->bits}, row).status();
               !status.ok()) {
      row->error = std::string(status.message());
    } else {
      Finish(row, 0);
      if (row->error.empty()) row->seconds = QuantizingSeconds(row->job_id);
    }
  }
}

absl::StatusOr<v1::Job> ComparisonRun::Submit(const NamedRecipe& recipe,
                                              const std::vector<uint32_t>& widths,
                                              ComparisonRow* row) {
  v1::SubmitJobRequest request;
  *request.mutable_spec() = plan_.spec;
  v1::JobSpec* spec = request.mutable_spec();
  *spec->mutable_recipe() = recipe.recipe;
  spec->mutable_recipe()->mutable_candidate_bits()->Assign(widths.begin(), widths.end());
  spec->mutable_budget()->set_planes(row->bits);
  spec->set_uniform(true);
  spec->set_output(row->package);
  request.set_request_id(NewId("cli"));
  SA_ASSIGN_OR_RETURN(v1::Job job,
                      Patiently([&] { return jobs_.Call(&JobClient::Stub::SubmitJob, request); }));
  row->job_id = job.job_id();
  running_.insert(row->job_id);
  return job;
}

absl::StatusOr<v1::Job> ComparisonRun::Publish(const std::string& parent, ComparisonRow* row) {
  v1::PublishBudgetRequest request;
  request.set_job_id(parent);
  request.mutable_budget()->set_planes(row->bits);
  request.set_uniform(true);
  request.set_output(row->package);
  request.set_request_id(NewId("cli"));
  SA_ASSIGN_OR_RETURN(
      v1::Job job, Patiently([&] { return jobs_.Call(&JobClient::Stub::PublishBudget, request); }));
  row->job_id = job.job_id();
  running_.insert(row->job_id);
  return job;
}

absl::StatusOr<v1::Job> ComparisonRun::Patiently(
    const std::function<absl::StatusOr<v1::Job>()>& call) const {
  const absl::Time deadline = absl::Now() + plan_.patience;
  absl::StatusOr<v1::Job> job = call();
  while (absl::IsUnavailable(job.status()) && !interrupted() && absl::Now() < deadline) {
    guard_.Sleep(plan_.poll);
    job = call();
  }
  return job;
}

absl::StatusOr<v1::Job> ComparisonRun::Await(const ComparisonRow& row) {
  v1::GetJobRequest request;
  request.set_job_id(row.job_id);
  v1::JobState told = v1::JOB_STATE_UNSPECIFIED;
  absl::Time deadline = absl::Now() + plan_.patience;
  while (!interrupted()) {
    absl::StatusOr<v1::Job> job = jobs_.Call(&JobClient::Stub::GetJob, request);
    if (job.ok()) {
      deadline = absl::Now() + plan_.patience;
      if (job->state() != told) {
        context_.err << row.recipe << ", " << row.bits << " planes (" << row.job_id
                     << "): " << StateName(job->state()) << "\n"
                     << std::flush;
      }
      told = job->state();
      if (IsTerminal(told)) return job;
    } else if (!absl::IsUnavailable(job.status()) || absl::Now() >= deadline) {
      return job.status();
    }
    guard_.Sleep(plan_.poll);
  }
  return absl::CancelledError("interrupted");
}

void ComparisonRun::Finish(ComparisonRow* row, double seconds) {
  const absl::StatusOr<v1::Job> job = Await(*row);
  if (!job.ok()) {
    row->error = std::string(job.status().message());
    return;
  }
  running_.erase(row->job_id);
  if (job->state() != v1::JOB_STATE_SUCCEEDED) {
    row->error = FormatOutcome(*job);
    row->error.erase(row->error.find_last_not_of('\n') + 1);
    return;
  }
  row->quality = job->quality();
  row->seconds = seconds;
}

double ComparisonRun::QuantizingSeconds(const std::string& job_id) const {
  v1::GetJobReportRequest request;
  request.set_job_id(job_id);
  const auto report = jobs_.Call(&JobClient::Stub::GetJobReport, request);
  if (!report.ok()) return 0;
  double seconds = 0;
  for (const auto& [state, time] : report->state_seconds()) {
    if (state != "QUEUED" && state != "EVALUATING" && state != "PACKAGING") seconds += time;
  }
  return seconds;
}

void ComparisonRun::CancelRunning() {
  for (const std::string& job_id : running_) {
    v1::CancelJobRequest request;
    request.set_job_id(job_id);
    const auto job = jobs_.Call(&JobClient::Stub::CancelJob, request);
    context_.err << job_id << (job.ok() ? " is cancelled" : " cannot be cancelled: ")
                 << job.status().message() << "\n";
  }
  running_.clear();
}

std::string ComparisonRun::Package(const ComparisonRow& row) const {
  return absl::StrCat(plan_.package, ":", row.recipe, "-", row.bits);
}

absl::Status ComparisonRun::Remove(PackageClient& packages,
                                   const std::vector<ComparisonRow>& rows) {
  absl::Status first;
  // Children stand after the job whose candidates they use, and go first.
  for (auto row = rows.rbegin(); row != rows.rend(); ++row) {
    if (!row->error.empty()) continue;  // stays, to be looked at
    first.Update(packages.Delete(row->package));
    v1::DeleteJobRequest request;
    request.set_job_id(row->job_id);
    first.Update(jobs_.Call(&JobClient::Stub::DeleteJob, request).status());
  }
  return first;
}

}  // namespace shiftadd::cli
