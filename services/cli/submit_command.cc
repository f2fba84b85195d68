#include <memory>

#include "absl/strings/str_cat.h"
#include "services/base/ids.h"
#include "services/base/status_macros.h"
#include "services/cli/clients.h"
#include "services/cli/commands.h"
#include "services/cli/proto_json.h"
#include "services/cli/submit_spec.h"
#include "services/cli/text_flags.h"
#include "services/cli/watch.h"

namespace shiftadd::cli {
namespace {

int DryRun(Context& context, const JobClient& jobs, const v1::Job& submitted) {
  const absl::StatusOr<v1::Job> job = AwaitJob(jobs, submitted.job_id());
  if (absl::IsCancelled(job.status())) {
    context.err << "shiftadd: interrupted; the dry run goes on as " << submitted.job_id()
                << ", end it with: shiftadd cancel " << submitted.job_id() << "\n";
    return kExitFailed;
  }
  if (!job.ok()) return Report(context, job.status());
  if (job->state() == v1::JOB_STATE_FAILED) {
    return Report(context, absl::FailedPreconditionError(job->error()));
  }
  if (context.json) {
    context.out << ToJson(*job).dump(2) << "\n";
  } else {
    context.out << FormatPlan(*job);
  }
  return job->plan().budget_feasible() ? kExitOk : kExitFailed;
}

absl::StatusOr<v1::Job> SubmitJob(const Context& context, const JobClient& jobs,
                                  const SubmitFlags& flags) {
  v1::SubmitJobRequest request;
  SA_ASSIGN_OR_RETURN(*request.mutable_spec(), MakeSpec(flags));
  v1::JobSpec* spec = request.mutable_spec();
  SA_ASSIGN_OR_RETURN(*spec->mutable_calibration()->mutable_text_digest(),
                      UploadText(context, flags.calibration.file));
  SA_ASSIGN_OR_RETURN(*spec->mutable_evaluation()->mutable_text_digest(),
                      UploadText(context, flags.evaluation.file));
  request.set_request_id(NewId("cli"));
  request.set_validate_only(flags.dry_run);
  return jobs.Call(&JobClient::Stub::SubmitJob, request);
}

int Submit(Context& context, const SubmitFlags& flags) {
  // Faults of the flags come before an unreachable coordinator.
  if (const absl::Status status = MakeSpec(flags).status(); !status.ok())
    return Report(context, status);
  const absl::StatusOr<JobClient> jobs = ConnectJobs(context);
  if (!jobs.ok()) return Report(context, jobs.status());
  const absl::StatusOr<v1::Job> job = SubmitJob(context, *jobs, flags);
  if (!job.ok()) return Report(context, job.status());
  if (flags.dry_run) return DryRun(context, *jobs, *job);
  if (context.json) {
    context.out << ToJson(*job).dump(2) << "\n";
  } else {
    context.out << job->job_id() << "\n" << std::flush;
  }
  if (flags.watch) return WatchJob(context, *jobs, job->job_id());
  if (!context.json) context.err << "follow it with: shiftadd watch " << job->job_id() << "\n";
  return kExitOk;
}

}  // namespace

void AddSubmitCommand(CLI::App& app, Context& context) {
  auto flags = std::make_shared<SubmitFlags>();
  CLI::App* command = app.add_subcommand("submit", "Quantize a model");
  command
      ->add_option("source", flags->source,
                   "GGUF file or Hugging Face folder (path or file:// URI)")
      ->required();
  AddAllocationFlags(command, &flags->allocation, "guided with guided Hessians, else output");
  command->add_option("--name", flags->name, "NAME[:TAG] of the package")->required();
  auto* recipe =
      command->add_option("--recipe", flags->recipe_file, "How to quantize: a YAML or JSON file");
  command
      ->add_option("--method", flags->method,
                   "Short for a recipe with only this: shiftadd, lat, rtn, acc, optq")
      ->excludes(recipe);
  AddCalibrationFlags(command, &flags->calibration);
  AddEvaluationFlags(command, &flags->evaluation);
  command->add_option("--label", flags->labels, "KEY=VALUE, repeatable")->allow_extra_args(false);
  command->add_option("--priority", flags->priority, "-100..100, higher first")
      ->check(CLI::Range(-100, 100));
  command->add_flag("--any-device", flags->any_device,
                    "Let unlike workers share the job; the bytes may then differ from run to run");
  auto* dry_run =
      command->add_flag("--dry-run", flags->dry_run,
                        "Only say what it would take; exit code 1 if the budget cannot be met");
  command->add_flag("--watch", flags->watch, "Follow the job")->excludes(dry_run);
  AddCoordinatorFlag(command, context);
  AddPackagerFlag(command, context);
  AddJsonFlag(command, context);
  command->callback([&context, flags] {
    context.action = [&context, flags] { return Submit(context, *flags); };
  });
}

}  // namespace shiftadd::cli
