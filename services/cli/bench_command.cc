// `shiftadd bench`: the control plane links no kernels and no LibTorch, so shiftadd-server measures
// the package and shiftadd-worker its source (--bench, worker/machine/bench.h), one after the
// other.
#include <memory>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "services/base/status_macros.h"
#include "services/cli/bench_report.h"
#include "services/cli/child_process.h"
#include "services/cli/clients.h"
#include "services/cli/commands.h"
#include "services/cli/endpoints.h"
#include "services/cli/files.h"
#include "services/cli/reference.h"
#include "services/cli/servers.h"

namespace shiftadd::cli {
namespace {

using nlohmann::json;

constexpr absl::Duration kTimeout = absl::Hours(1);

struct BenchFlags {
  std::string package, source, blobs;
  bool no_source = false;
  std::string device = "auto";
  bool batch_invariant = false;
  int threads = 0;
  std::optional<int64_t> context;  // settled by BenchContext
  double seconds = 3;
};

void AddCommon(const BenchFlags& flags, const std::string& device,
               std::vector<std::string>* command) {
  command->insert(command->end(),
                  {"--device", device, "--bench-context", absl::StrCat(flags.context.value_or(0)),
                   "--bench-seconds", absl::StrCat(flags.seconds)});
  if (flags.threads > 0)
    command->insert(command->end(), {"--threads", absl::StrCat(flags.threads)});
}

absl::StatusOr<json> RunForJson(const std::vector<std::string>& command) {
  SA_ASSIGN_OR_RETURN(const ChildOutput output, RunChild(command, kTimeout));
  json figures = json::parse(output.out, nullptr, /*allow_exceptions=*/false);
  if (!figures.is_object())
    return absl::InternalError(absl::StrCat(command[0], " --bench gave no JSON: ", output.out));
  return figures;
}

absl::StatusOr<json> BenchPackage(const Context& context, const BenchFlags& flags,
                                  const std::string& reference, const std::string& packager) {
  std::string blobs = flags.blobs;
  if (blobs.empty()) {
    const std::string data_dir = DataDir(context);
    const absl::StatusOr<ClusterInfo> cluster = ReadCluster(data_dir);
    blobs = cluster.ok() ? cluster->blobs : data_dir + "/store";
  }
  if (!absl::StrContains(blobs, "://")) blobs = AbsolutePath(blobs);  // no registry
  SA_ASSIGN_OR_RETURN(const std::string server, FindBinary(kServerBinary));
  std::vector<std::string> command = {server,   "--package", reference, "--packager",
                                      packager, "--bench",   "--blobs", blobs};
  AddCommon(flags, flags.device, &command);
  if (flags.batch_invariant) command.push_back("--batch-invariant");
  return RunForJson(command);
}

// The source of the job that made the package.
absl::StatusOr<std::string> SourceOfJob(const Context& context, const std::string& digest) {
  SA_ASSIGN_OR_RETURN(const JobClient jobs, ConnectJobs(context));
  v1::ListJobsRequest request;
  request.set_page_size(500);
  do {
    SA_ASSIGN_OR_RETURN(const v1::ListJobsResponse response,
                        jobs.Call(&JobClient::Stub::ListJobs, request));
    for (const v1::Job& job : response.jobs()) {
      absl::string_view path = job.spec().source();
      if (job.package_digest() == digest && absl::ConsumePrefix(&path, "file://"))
        return std::string(path);
    }
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  return absl::NotFoundError(
      "the coordinator knows no job that made this package: name its source with --source");
}

absl::StatusOr<json> BenchSource(const BenchFlags& flags, const std::string& path,
                                 const std::string& device) {
  SA_ASSIGN_OR_RETURN(const std::string worker, FindBinary("shiftadd-worker"));
  std::vector<std::string> command = {worker, "--bench", path};
  AddCommon(flags, device, &command);
  return RunForJson(command);
}

absl::StatusOr<BenchReport> Bench(Context& context, BenchFlags flags) {
  BenchReport report;
  SA_ASSIGN_OR_RETURN(report.reference, NormalizeReference(flags.package));
  SA_ASSIGN_OR_RETURN(const std::string packager, PackagerAddress(context));
  SA_ASSIGN_OR_RETURN(const v1::Package package,
                      PackageClient::Connect(packager)->Get(report.reference));
  FillSizes(package, &report);
  SA_ASSIGN_OR_RETURN(flags.context, BenchContext(package, flags.context));
  context.err << "measuring " << report.reference << "\n" << std::flush;
  SA_ASSIGN_OR_RETURN(report.package, BenchPackage(context, flags, report.reference, packager));
  report.source_path = flags.source;
  if (flags.no_source) {
    report.source_fault = "--no-source";
    return report;
  }
  if (report.source_path.empty()) {
    absl::StatusOr<std::string> path = SourceOfJob(context, report.digest);
    if (!path.ok()) {
      report.source_fault = std::string(path.status().message());
      return report;
    }
    report.source_path = *std::move(path);
  }
  // On the same device, whatever auto would choose there.
  const bool cpu = report.package.value("device", "") == "cpu";
  context.err << "measuring " << report.source_path << " in full precision\n" << std::flush;
  absl::StatusOr<json> source = BenchSource(flags, report.source_path, cpu ? "cpu" : "cuda");
  if (source.ok()) {
    report.source = *std::move(source);
  } else {
    report.source_fault = std::string(source.status().message());
  }
  return report;
}

}  // namespace

void AddBenchCommand(CLI::App& app, Context& context) {
  auto flags = std::make_shared<BenchFlags>();
  CLI::App* bench = app.add_subcommand(
      "bench", "Measure a package's speed, memory and energy, beside its full-precision source");
  bench->add_option("package", flags->package, "NAME[:TAG]")->required();
  auto* source =
      bench
          ->add_option("--source", flags->source,
                       "GGUF file or Hugging Face folder to compare with (else that of the "
                       "package's job)")
          ->check(CLI::ExistingPath);  // before the package is measured, which takes a while
  bench->add_flag("--no-source", flags->no_source, "Only the package")->excludes(source);
  bench->add_option("--device", flags->device, "What computes, in both: cpu, cuda or auto")
      ->check(CLI::IsMember({"cpu", "cuda", "auto"}))
      ->capture_default_str();
  bench->add_flag("--batch-invariant", flags->batch_invariant, "As `serve` takes it");
  bench->add_option("--threads", flags->threads, "Threads on the CPU (default: one a core)")
      ->check(CLI::Range(1, 1024));
  bench
      ->add_option("--context", flags->context,
                   "Tokens of the prompt, and before the tokens that are timed")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
      ->default_str("512, or what the model has room for");
  bench->add_option("--seconds", flags->seconds, "Length of each of the four measurements")
      ->check(CLI::Range(0.01, 600.0))
      ->capture_default_str();
  bench->add_option("--blobs", flags->blobs,
                    "The blob store: a folder or a registry (else the local cluster's)");
  AddCoordinatorFlag(bench, context);
  AddPackagerFlag(bench, context);
  AddJsonFlag(bench, context);
  bench->callback([&context, flags] {
    context.action = [&context, flags] {
      const absl::StatusOr<BenchReport> report = Bench(context, *flags);
      if (!report.ok()) return Report(context, report.status());
      if (context.json) {
        context.out << BenchJson(*report).dump(2) << "\n";
      } else {
        context.out << FormatBench(*report);
      }
      return kExitOk;
    };
  });
}

}  // namespace shiftadd::cli
