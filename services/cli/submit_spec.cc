#include "services/cli/submit_spec.h"

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "services/base/status_macros.h"
#include "services/cli/proto_json.h"
#include "services/cli/recipe.h"
#include "services/cli/reference.h"
#include "services/cli/table.h"
#include "services/cli/units.h"
#include "services/http/percent_encoding.h"

namespace shiftadd::cli {
namespace {

namespace fs = std::filesystem;

absl::StatusOr<v1::Recipe> MakeRecipe(const SubmitFlags& flags) {
  if (!flags.recipe_file.empty()) return LoadRecipe(flags.recipe_file);
  if (flags.method.empty()) return v1::Recipe();
  return MethodRecipe(flags.method);
}

absl::Status AddLabels(const std::vector<std::string>& labels, v1::JobSpec* spec) {
  for (const std::string& label : labels) {
    const size_t equals = label.find('=');
    if (equals == std::string::npos || equals == 0) {
      return absl::InvalidArgumentError(absl::StrCat("--label '", label, "': expected KEY=VALUE"));
    }
    (*spec->mutable_labels())[label.substr(0, equals)] = label.substr(equals + 1);
  }
  return absl::OkStatus();
}

// What all of a phase takes, and what it takes with its activations on the host.
uint64_t AllOf(const v1::DevicePhase& phase) {
  return phase.weight_bytes() + phase.state_bytes() + phase.hessian_bytes() + phase.work_bytes();
}
uint64_t LeastOf(const v1::DevicePhase& phase) { return AllOf(phase) - phase.state_bytes(); }

// The arithmetic of a GPU's memory: one block of the model at a time, phase by phase.
std::string FormatDevicePhases(const v1::Plan& plan) {
  if (plan.device_phases().empty()) return "";
  Table table({"ON A GPU, ONE BLOCK AT A TIME", ">WEIGHTS", ">ACTIVATIONS", ">HESSIANS", ">WORK",
               ">ALL", ">HOST"});
  uint64_t least = 0, all = 0, host = 0, host_least = 0;
  for (const v1::DevicePhase& phase : plan.device_phases()) {
    table.Add({phase.name(), FormatBytes(phase.weight_bytes()), FormatBytes(phase.state_bytes()),
               FormatBytes(phase.hessian_bytes()), FormatBytes(phase.work_bytes()),
               FormatBytes(AllOf(phase)), FormatBytes(phase.host_bytes())});
    least = std::max(least, LeastOf(phase));
    all = std::max(all, AllOf(phase));
    host = std::max(host, phase.host_bytes() + phase.state_bytes());
    host_least = std::max(host_least, phase.host_bytes());
  }
  return absl::StrCat("\n", table.ToString(), "a GPU needs ", FormatBytes(least),
                      " at least; with ", FormatBytes(all),
                      " all activations stay on it and the host holds up to ",
                      FormatBytes(host_least), ", otherwise ", FormatBytes(host), "\n");
}

// A folder of GGUF files is no model, but each of them may be one.
absl::Status CheckFolder(const fs::path& folder) {
  std::error_code error;
  if (!fs::is_directory(folder, error) || fs::exists(folder / "config.json", error)) {
    return absl::OkStatus();
  }
  std::vector<std::string> found;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    if (entry->path().extension() == ".gguf") found.push_back(entry->path().string());
  }
  if (found.empty()) return absl::OkStatus();
  std::sort(found.begin(), found.end());
  return absl::InvalidArgumentError(
      absl::StrCat("source ", folder.string(),
                   ": has no config.json, which makes it a Hugging Face folder, but ", found.size(),
                   " GGUF files, each of which is a source: submit ", found[0]));
}

// Of a file:// URI, which may name what only the workers have.
absl::Status CheckUriPath(const std::string& path) {
  std::error_code error;
  const std::string decoded = http::PercentDecoded(path);
  // Where neither is here the path may be one of the workers'.
  if (decoded != path && !fs::exists(path, error) && fs::exists(decoded, error)) {
    return absl::InvalidArgumentError(
        absl::StrCat("source file://", path,
                     ": a path is taken as it is written, '%' as well: expected file://", decoded));
  }
  return CheckFolder(path);
}

}  // namespace

absl::StatusOr<std::string> SourceUri(const std::string& source) {
  for (const char* scheme : {"oci:", "hf:"}) {
    if (absl::StartsWith(source, scheme)) return source;
  }
  if (absl::string_view path = source; absl::ConsumePrefix(&path, "file://")) {
    SA_RETURN_IF_ERROR(CheckUriPath(std::string(path)));
    return source;
  }
  std::error_code error;
  const fs::path path = fs::canonical(source, error);
  if (error) return absl::NotFoundError(absl::StrCat("source ", source, ": ", error.message()));
  SA_RETURN_IF_ERROR(CheckFolder(path));
  return absl::StrCat("file://", path.string());
}

absl::StatusOr<v1::Recipe> MethodRecipe(const std::string& method) {
  v1::Recipe recipe;
  std::vector<std::string> faults;
  FromJson({{"method", method}}, "recipe", &recipe, &faults);
  if (!faults.empty()) return absl::InvalidArgumentError(faults[0]);
  return recipe;
}

absl::StatusOr<std::string> OutputName(const std::string& text, const std::string& flag) {
  absl::StatusOr<std::string> output = NormalizeReference(text);
  if (!output.ok()) return Annotate(output.status(), flag);
  if (absl::StrContains(*output, '@'))
    return absl::InvalidArgumentError(absl::StrCat(flag, ": expected NAME[:TAG], not a digest"));
  return output;
}

absl::StatusOr<v1::JobSpec> MakeSpec(const SubmitFlags& flags) {
  v1::JobSpec spec;
  SA_ASSIGN_OR_RETURN(*spec.mutable_budget(), MakeBudget(flags.allocation));
  SA_ASSIGN_OR_RETURN(const v1::Criterion criterion, MakeCriterion(flags.allocation));
  spec.set_criterion(criterion);
  spec.set_uniform(flags.allocation.uniform);
  SA_ASSIGN_OR_RETURN(*spec.mutable_output(), OutputName(flags.name, "--name"));
  SA_ASSIGN_OR_RETURN(*spec.mutable_recipe(), MakeRecipe(flags));
  SA_RETURN_IF_ERROR(AddLabels(flags.labels, &spec));
  SA_ASSIGN_OR_RETURN(*spec.mutable_source(), SourceUri(flags.source));
  *spec.mutable_calibration() = MakeCalibration(flags.calibration);
  SA_ASSIGN_OR_RETURN(*spec.mutable_evaluation(), MakeEvaluation(flags.evaluation));
  spec.set_priority(flags.priority);
  spec.set_any_device(flags.any_device);
  return spec;
}

std::string FormatPlan(const v1::Job& job) {
  const v1::Plan& plan = job.plan();
  Table table({"", ""});
  table.Add({"source", job.spec().source()});
  table.Add({"architecture", absl::StrCat(plan.architecture(), ", ", plan.blocks(), " blocks, ",
                                          FormatCount(plan.parameters()), " parameters")});
  table.Add({"layers to quantize",
             absl::StrCat(plan.layers_size(), " with ", FormatCount(plan.quantized_parameters()),
                          " parameters")});
  table.Add({"source on disk", FormatBytes(plan.source_bytes())});
  table.Add({"candidates and scratch on disk", FormatBytes(plan.store_bytes())});
  table.Add({"memory a worker on the CPU needs", FormatBytes(plan.worker_memory_bytes())});
  table.Add({"estimated time",
             absl::StrCat(FormatSeconds(plan.estimated_seconds()), " with one worker")});
  table.Add(
      {"package", absl::StrCat(FormatBytes(plan.minimum_package_bytes()), " to ",
                               FormatBytes(plan.maximum_package_bytes()),
                               ", of it besides the layers ", FormatBytes(plan.fixed_bytes()))});
  table.Add(
      {"budget", absl::StrCat(plan.budget_feasible() ? "can be met" : "CANNOT be met",
                              plan.budget_message().empty() ? "" : ": ", plan.budget_message())});
  const std::string text = table.ToString();
  return text.substr(text.find('\n') + 1) + FormatDevicePhases(plan);  // the first without headers
}

}  // namespace shiftadd::cli
