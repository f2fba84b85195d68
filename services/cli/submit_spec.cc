#include "services/cli/submit_spec.h"

#include <filesystem>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "services/cli/proto_json.h"
#include "services/cli/recipe.h"
#include "services/cli/reference.h"
#include "services/cli/table.h"
#include "services/cli/units.h"

namespace shiftadd::cli {
namespace {

namespace fs = std::filesystem;

absl::StatusOr<v1::Budget> MakeBudget(const SubmitFlags& flags) {
  const int given = flags.bits.has_value() + flags.stored_bits.has_value() + !flags.bytes.empty();
  if (given != 1) {
    return absl::InvalidArgumentError(
        "say how small the package is to be: exactly one of --bits, --stored-bits and --bytes");
  }
  v1::Budget budget;
  if (flags.bits.has_value()) {
    if (!(*flags.bits > 0) || *flags.bits > 8)
      return absl::InvalidArgumentError("--bits: expected more than 0, at most 8");
    budget.set_planes(*flags.bits);
  } else if (flags.stored_bits.has_value()) {
    if (!(*flags.stored_bits > 0) || *flags.stored_bits > 16) {
      return absl::InvalidArgumentError("--stored-bits: expected more than 0, at most 16");
    }
    budget.set_stored_bits(*flags.stored_bits);
  } else {
    const absl::StatusOr<uint64_t> bytes = ParseBytes(flags.bytes);
    if (!bytes.ok()) return Annotate(bytes.status(), "--bytes");
    budget.set_bytes(*bytes);
  }
  return budget;
}

absl::StatusOr<v1::Recipe> MakeRecipe(const SubmitFlags& flags) {
  if (!flags.recipe_file.empty()) return LoadRecipe(flags.recipe_file);
  v1::Recipe recipe;
  if (flags.method.empty()) return recipe;
  std::vector<std::string> faults;
  FromJson({{"method", flags.method}}, "--method", &recipe, &faults);
  if (!faults.empty()) return absl::InvalidArgumentError(faults[0]);
  return recipe;
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

}  // namespace

absl::StatusOr<std::string> SourceUri(const std::string& source) {
  for (const char* scheme : {"file://", "oci:", "hf:"}) {
    if (absl::StartsWith(source, scheme)) return source;
  }
  std::error_code error;
  const fs::path path = fs::canonical(source, error);
  if (error) return absl::NotFoundError(absl::StrCat("source ", source, ": ", error.message()));
  return absl::StrCat("file://", path.string());
}

absl::StatusOr<v1::JobSpec> MakeSpec(const SubmitFlags& flags) {
  v1::JobSpec spec;
  SA_ASSIGN_OR_RETURN(*spec.mutable_budget(), MakeBudget(flags));
  absl::StatusOr<std::string> output = NormalizeReference(flags.name);
  if (!output.ok()) return Annotate(output.status(), "--name");
  if (absl::StrContains(*output, '@'))
    return absl::InvalidArgumentError("--name: expected NAME[:TAG], not a digest");
  spec.set_output(*output);
  SA_ASSIGN_OR_RETURN(*spec.mutable_recipe(), MakeRecipe(flags));
  SA_RETURN_IF_ERROR(AddLabels(flags.labels, &spec));
  SA_ASSIGN_OR_RETURN(*spec.mutable_source(), SourceUri(flags.source));
  spec.mutable_calibration()->set_sequences(flags.calibration_sequences);
  spec.mutable_calibration()->set_length(flags.calibration_length);
  spec.mutable_evaluation()->set_sequences(flags.eval_sequences);
  spec.mutable_evaluation()->set_length(flags.eval_length);
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
  table.Add({"memory a worker needs", FormatBytes(plan.worker_memory_bytes())});
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
  return text.substr(text.find('\n') + 1);  // no headers
}

}  // namespace shiftadd::cli
