#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/base/ids.h"
#include "services/base/status_macros.h"
#include "services/cli/allocation_flags.h"
#include "services/cli/budget_plan.h"
#include "services/cli/clients.h"
#include "services/cli/commands.h"
#include "services/cli/proto_json.h"
#include "services/cli/submit_spec.h"
#include "services/cli/text_flags.h"
#include "services/cli/watch.h"

namespace shiftadd::cli {
namespace {

struct PlanFlags {
  std::string job_id;
  AllocationFlags allocation;
  EvaluationFlags evaluation;
  std::string publish;  // NAME[:TAG]; empty = only plan
  bool watch = false;
};

// Everything that can be judged without a coordinator.
absl::Status CheckFlags(const PlanFlags& flags) {
  SA_RETURN_IF_ERROR(MakeBudgets(flags.allocation).status());
  SA_RETURN_IF_ERROR(MakeCriterion(flags.allocation).status());
  SA_RETURN_IF_ERROR(MakeEvaluation(flags.evaluation).status());
  if (flags.publish.empty()) {
    if (!flags.allocation.uniform && !IsGiven(flags.evaluation) && !flags.watch) {
      return absl::OkStatus();
    }
    return absl::InvalidArgumentError(
        "--uniform, --watch and the --eval flags are for what is published: give --publish "
        "NAME[:TAG]");
  }
  const absl::Status one = MakeBudget(flags.allocation).status();
  if (!one.ok()) return Annotate(one, "--publish");
  return OutputName(flags.publish, "--publish").status();
}

absl::StatusOr<std::vector<BudgetPlan>> PlanBudgets(const JobClient& jobs, const PlanFlags& flags) {
  v1::PlanBudgetRequest request;
  request.set_job_id(flags.job_id);
  SA_ASSIGN_OR_RETURN(const v1::Criterion criterion, MakeCriterion(flags.allocation));
  request.set_criterion(criterion);
  SA_ASSIGN_OR_RETURN(const std::vector<v1::Budget> budgets, MakeBudgets(flags.allocation));
  std::vector<BudgetPlan> plans;
  for (const v1::Budget& budget : budgets) {
    *request.mutable_budget() = budget;
    absl::StatusOr<v1::PlanBudgetResponse> plan = jobs.Call(&JobClient::Stub::PlanBudget, request);
    if (!plan.ok()) return Annotate(plan.status(), FormatBudget(budget));
    plans.push_back({budget, *std::move(plan)});
  }
  return plans;
}

int ShowPlans(Context& context, const JobClient& jobs, const PlanFlags& flags) {
  const absl::StatusOr<std::vector<BudgetPlan>> plans = PlanBudgets(jobs, flags);
  if (!plans.ok()) return Report(context, plans.status());
  if (context.json) {
    context.out << BudgetPlansJson(*plans).dump(2) << "\n";
    return kExitOk;
  }
  context.out << FormatBudgetPlans(*plans);
  if (plans->size() > 1) return kExitOk;
  v1::GetJobRequest request;
  request.set_job_id(flags.job_id);
  const absl::StatusOr<v1::Job> job = jobs.Call(&JobClient::Stub::GetJob, request);
  if (!job.ok()) return Report(context, job.status());
  context.out << "\n" << FormatWidths((*plans)[0].plan, job->plan().layers());
  if (job->state() == v1::JOB_STATE_SUCCEEDED &&
      job->spec().recipe().propagate() != v1::PROPAGATE_QUANTIZED) {
    context.out << "measure and publish it: the same command with --publish NAME[:TAG]\n";
  }
  return kExitOk;
}

absl::StatusOr<v1::Job> PublishBudget(const Context& context, const JobClient& jobs,
                                      const PlanFlags& flags) {
  v1::PublishBudgetRequest request;
  request.set_job_id(flags.job_id);
  request.set_request_id(NewId("cli"));
  request.set_uniform(flags.allocation.uniform);
  SA_ASSIGN_OR_RETURN(*request.mutable_budget(), MakeBudget(flags.allocation));
  SA_ASSIGN_OR_RETURN(const v1::Criterion criterion, MakeCriterion(flags.allocation));
  request.set_criterion(criterion);
  SA_ASSIGN_OR_RETURN(*request.mutable_output(), OutputName(flags.publish, "--publish"));
  if (IsGiven(flags.evaluation)) {
    SA_ASSIGN_OR_RETURN(*request.mutable_evaluation(), MakeEvaluation(flags.evaluation));
    SA_ASSIGN_OR_RETURN(*request.mutable_evaluation()->mutable_text_digest(),
                        UploadText(context, flags.evaluation.file));
  }
  return jobs.Call(&JobClient::Stub::PublishBudget, request);
}

int Publish(Context& context, const JobClient& jobs, const PlanFlags& flags) {
  const absl::StatusOr<v1::Job> job = PublishBudget(context, jobs, flags);
  if (!job.ok()) return Report(context, job.status());
  if (context.json) {
    context.out << ToJson(*job).dump(2) << "\n";
  } else {
    context.out << job->job_id() << "\n" << std::flush;
  }
  if (flags.watch) return WatchJob(context, jobs, job->job_id());
  if (!context.json) context.err << "follow it with: shiftadd watch " << job->job_id() << "\n";
  return kExitOk;
}

int Plan(Context& context, const PlanFlags& flags) {
  if (const absl::Status status = CheckFlags(flags); !status.ok()) return Report(context, status);
  const absl::StatusOr<JobClient> jobs = ConnectJobs(context);
  if (!jobs.ok()) return Report(context, jobs.status());
  return flags.publish.empty() ? ShowPlans(context, *jobs, flags) : Publish(context, *jobs, flags);
}

}  // namespace

void AddPlanCommand(CLI::App& app, Context& context) {
  auto flags = std::make_shared<PlanFlags>();
  CLI::App* command = app.add_subcommand(
      "plan", "What another budget would give from a job's candidates; publish it");
  command->add_option("job", flags->job_id, "The job's id")->required();
  AddAllocationFlags(command, &flags->allocation, "the job's");
  command->add_option("--publish", flags->publish,
                      "Measure this budget and publish it as NAME[:TAG]");
  AddEvaluationFlags(command, &flags->evaluation);
  command->add_flag("--watch", flags->watch, "Follow the job that publishes");
  AddCoordinatorFlag(command, context);
  AddPackagerFlag(command, context);
  AddJsonFlag(command, context);
  command->footer(
      "Several budgets (--bits 2,2.25,2.5) print a table of all. --uniform, --watch and the --eval "
      "flags (default: the job's evaluation) go with --publish.");
  command->callback(
      [&context, flags] { context.action = [&context, flags] { return Plan(context, *flags); }; });
}

}  // namespace shiftadd::cli
