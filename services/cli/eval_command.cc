#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "services/base/ids.h"
#include "services/base/status_macros.h"
#include "services/cli/clients.h"
#include "services/cli/commands.h"
#include "services/cli/evaluation_format.h"
#include "services/cli/files.h"
#include "services/cli/proto_json.h"
#include "services/cli/reference.h"
#include "services/cli/submit_spec.h"
#include "services/cli/task_results.h"
#include "services/cli/text_flags.h"
#include "services/cli/watch.h"
#include "services/packaging/package_format.h"

namespace shiftadd::cli {
namespace {

constexpr size_t kMaxResults = size_t{64} << 20;

struct EvalFlags {
  std::string package, text, source, results;
  uint32_t windows = 0, length = 0, skip = 0;
  int32_t priority = 0;
  bool any_device = false, detach = false;
};

absl::StatusOr<v1::EvaluatePackageRequest> MakeRequest(const EvalFlags& flags) {
  v1::EvaluatePackageRequest request;
  SA_ASSIGN_OR_RETURN(*request.mutable_package(), NormalizeReference(flags.package));
  if (!flags.source.empty()) {
    SA_ASSIGN_OR_RETURN(*request.mutable_source(), SourceUri(flags.source));
  }
  request.mutable_evaluation()->set_sequences(flags.windows);
  request.mutable_evaluation()->set_length(flags.length);
  request.mutable_evaluation()->set_skip(flags.skip);
  request.set_priority(flags.priority);
  request.set_any_device(flags.any_device);
  request.set_request_id(NewId("cli"));
  return request;
}

// Follows the job; --json says nothing before the end.
absl::StatusOr<v1::Job> Await(Context& context, const JobClient& jobs, const std::string& job_id,
                              int* exit_code) {
  if (context.json) return AwaitJob(jobs, job_id);
  *exit_code = WatchJob(context, jobs, job_id);
  v1::GetJobRequest request;
  request.set_job_id(job_id);
  return jobs.Call(&JobClient::Stub::GetJob, request);
}

int Evaluate(Context& context, const EvalFlags& flags) {
  absl::StatusOr<v1::EvaluatePackageRequest> request = MakeRequest(flags);
  if (!request.ok()) return Report(context, request.status());
  const absl::StatusOr<JobClient> jobs = ConnectJobs(context);
  if (!jobs.ok()) return Report(context, jobs.status());
  const absl::StatusOr<std::string> text = UploadText(context, flags.text);
  if (!text.ok()) return Report(context, text.status());
  request->mutable_evaluation()->set_text_digest(*text);
  const absl::StatusOr<v1::Job> created = jobs->Call(&JobClient::Stub::EvaluatePackage, *request);
  if (!created.ok()) return Report(context, created.status());
  if (flags.detach) {
    context.out << (context.json ? ToJson(*created).dump(2) : created->job_id()) << "\n";
    return kExitOk;
  }
  int exit_code = kExitOk;
  const absl::StatusOr<v1::Job> job = Await(context, *jobs, created->job_id(), &exit_code);
  if (!job.ok()) return Report(context, job.status());
  if (job->state() != v1::JOB_STATE_SUCCEEDED) {
    if (!context.json) return exit_code;
    return Report(context, absl::FailedPreconditionError(absl::StrCat(
                               "job ", job->job_id(), " ended without a result: ", job->error())));
  }
  if (context.json) {
    context.out << ToJson(*job).dump(2) << "\n";
  } else {
    context.out << "\n" << FormatEvaluation(job->package_evaluation());
  }
  return kExitOk;
}

// Results that were measured elsewhere become the package's.
absl::Status AttachResults(Context& context, const EvalFlags& flags) {
  SA_ASSIGN_OR_RETURN(const std::string reference, NormalizeReference(flags.package));
  SA_ASSIGN_OR_RETURN(const std::string text, ReadFile(flags.results, kMaxResults));
  SA_ASSIGN_OR_RETURN(const v1::PackageEvaluation evaluation,
                      ParseTaskResults(text, flags.results, reference));
  SA_ASSIGN_OR_RETURN(const auto client, ConnectPackages(context));
  SA_ASSIGN_OR_RETURN(const std::string digest, client->Resolve(reference));
  // By its digest: a tag may move meanwhile.
  const std::string name = reference.substr(0, reference.find_first_of("@:"));
  SA_RETURN_IF_ERROR(client
                         ->Attach(absl::StrCat(name, "@", digest), kEvaluationArtifactType,
                                  TaskResultsJson(evaluation))
                         .status());
  if (context.json) {
    context.out << ToJson(evaluation).dump(2) << "\n";
  } else {
    context.out << FormatEvaluation(evaluation) << "kept with " << reference << " (" << digest
                << ")\n";
  }
  return absl::OkStatus();
}

}  // namespace

void AddEvalCommand(CLI::App& app, Context& context) {
  auto flags = std::make_shared<EvalFlags>();
  CLI::App* command = app.add_subcommand(
      "eval", "Measure a package against its full-precision source and store the result with it");
  command->add_option("package", flags->package, "NAME[:TAG] or NAME@DIGEST")->required();
  auto* what = command->add_option_group("What to measure")->require_option(1);
  CLI::Option* text =
      what->add_option("--text", flags->text, "A text (plain, or JSONL with \"text\")");
  what->add_option(
      "--attach-results", flags->results,
      "Nothing: keep lm-eval's results file of this package with it (deploy/lm-eval.sh --attach)");
  command->add_option("--windows", flags->windows,
                      "Windows (default all of the text, 4096 at most)");
  command->add_option("--length", flags->length,
                      "Tokens a window (default 2048, or the model's context if that is shorter)");
  command->add_option("--skip", flags->skip, "Windows to leave out before the first (default 0)");
  command->add_option("--source", flags->source,
                      "The full-precision model, if it is not where the package's provenance says");
  command->add_option("--priority", flags->priority, "-100..100, higher first")
      ->check(CLI::Range(-100, 100));
  command->add_flag("--any-device", flags->any_device,
                    "Let unlike workers share the job; the last digits may then differ");
  command->add_flag("--detach", flags->detach, "Print the job's id and leave");
  for (const char* name :
       {"--windows", "--length", "--skip", "--source", "--priority", "--any-device", "--detach"}) {
    command->get_option(name)->needs(text);
  }
  AddCoordinatorFlag(command, context);
  AddPackagerFlag(command, context);
  AddJsonFlag(command, context);
  command->footer(
      "Perplexity: consecutive windows without overlap from the text's start, exp of the mean "
      "cross "
      "entropy of all their tokens but the first. KL and agreement: of the package's next-token "
      "distribution with full precision's. `shiftadd inspect` and `report` show what was "
      "measured.");
  command->callback([&context, flags] {
    context.action = [&context, flags] {
      if (flags->results.empty()) return Evaluate(context, *flags);
      return Report(context, AttachResults(context, *flags));
    };
  });
}

}  // namespace shiftadd::cli
