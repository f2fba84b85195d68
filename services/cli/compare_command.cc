#include <algorithm>
#include <filesystem>
#include <memory>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "services/base/ids.h"
#include "services/base/status_macros.h"
#include "services/cli/clients.h"
#include "services/cli/commands.h"
#include "services/cli/compare_jobs.h"
#include "services/cli/comparison.h"
#include "services/cli/recipe.h"
#include "services/cli/submit_spec.h"
#include "services/cli/text_flags.h"

namespace shiftadd::cli {
namespace {

struct CompareFlags {
  std::string source;
  std::string methods;  // with commas between
  std::vector<std::string> recipe_files;
  std::string bits = "2,3,4";
  CalibrationFlags calibration;
  EvaluationFlags evaluation;
  int32_t priority = 0;
  bool any_device = false;
  bool keep = false;
};

absl::StatusOr<std::vector<uint32_t>> ParseWidths(const std::string& text) {
  std::set<uint32_t> widths;
  for (const absl::string_view word : absl::StrSplit(text, ',')) {
    uint32_t bits = 0;
    if (!absl::SimpleAtoi(word, &bits) || bits < 1 || bits > 8) {
      return absl::InvalidArgumentError(
          absl::StrCat("--bits: found '", word, "', expected whole numbers of 1 to 8"));
    }
    if (!widths.insert(bits).second) {
      return absl::InvalidArgumentError(absl::StrCat("--bits: ", bits, " is given twice"));
    }
  }
  return std::vector<uint32_t>(widths.begin(), widths.end());
}

// The file's name without its ending, as a part of a tag: "my recipe.yaml" -> "my-recipe".
std::string NameOf(const std::string& path) {
  std::string name = std::filesystem::path(path).stem().string().substr(0, 100);
  std::replace_if(
      name.begin(), name.end(),
      [](char c) { return !absl::ascii_isalnum(static_cast<unsigned char>(c)) && c != '_'; }, '-');
  return name.empty() || name[0] == '-' ? "recipe" + name : name;
}

absl::Status CheckNamesAndSeeds(const std::vector<NamedRecipe>& recipes,
                                const CompareFlags& flags) {
  std::set<std::string> names;
  for (const NamedRecipe& recipe : recipes) {
    if (!names.insert(recipe.name).second) {
      return absl::InvalidArgumentError(absl::StrCat(
          "'", recipe.name, "' is given twice: name a method once, and give files other names"));
    }
    // The seed is that of the text that the model writes.
    if (flags.calibration.file.empty() && recipe.recipe.seed() != recipes[0].recipe.seed()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "recipe '", recipe.name, "': seed ", recipe.recipe.seed(), " would give it another ",
          "calibration text than '", recipes[0].name, "' with seed ", recipes[0].recipe.seed(),
          ": expected one seed, or --calibration"));
    }
  }
  return absl::OkStatus();
}

// What `--methods` and `--recipe` name, in that order; the faults of all of them at once.
absl::StatusOr<std::vector<NamedRecipe>> LoadRecipes(const CompareFlags& flags) {
  std::vector<NamedRecipe> recipes;
  absl::Status first;
  std::vector<std::string> faults;
  const auto add = [&](const std::string& name, absl::StatusOr<v1::Recipe> recipe) {
    if (recipe.ok()) {
      recipes.push_back({name, *std::move(recipe)});
    } else {
      first.Update(recipe.status());
      faults.emplace_back(recipe.status().message());
    }
  };
  std::vector<absl::string_view> methods;
  if (!flags.methods.empty()) methods = absl::StrSplit(flags.methods, ',');
  for (const absl::string_view word : methods) {
    const std::string method(absl::StripAsciiWhitespace(word));
    absl::StatusOr<v1::Recipe> recipe = MethodRecipe(method);
    if (!recipe.ok()) recipe = Annotate(recipe.status(), "--methods");
    add(method, std::move(recipe));
  }
  for (const std::string& path : flags.recipe_files) add(NameOf(path), LoadRecipe(path));
  if (!first.ok()) return absl::Status(first.code(), absl::StrJoin(faults, "\n"));
  if (recipes.empty()) {
    return absl::InvalidArgumentError("say what to compare: --methods, --recipe or both");
  }
  SA_RETURN_IF_ERROR(CheckNamesAndSeeds(recipes, flags));
  return recipes;
}

// Everything but the digests of texts.
absl::StatusOr<ComparisonPlan> MakePlan(const CompareFlags& flags) {
  ComparisonPlan plan;
  SA_ASSIGN_OR_RETURN(plan.recipes, LoadRecipes(flags));
  SA_ASSIGN_OR_RETURN(plan.bits, ParseWidths(flags.bits));
  SA_ASSIGN_OR_RETURN(*plan.spec.mutable_source(), SourceUri(flags.source));
  *plan.spec.mutable_calibration() = MakeCalibration(flags.calibration);
  SA_ASSIGN_OR_RETURN(*plan.spec.mutable_evaluation(), MakeEvaluation(flags.evaluation));
  plan.spec.set_priority(flags.priority);
  plan.spec.set_any_device(flags.any_device);
  plan.package = NewId("compare");
  (*plan.spec.mutable_labels())["comparison"] = plan.package;
  return plan;
}

void RemoveOrTell(Context& context, ComparisonRun& run, const std::vector<ComparisonRow>& rows,
                  bool keep) {
  const auto failed = std::count_if(rows.begin(), rows.end(),
                                    [](const ComparisonRow& row) { return !row.error.empty(); });
  if (keep || failed == static_cast<ptrdiff_t>(rows.size())) return;
  const auto packages = ConnectPackages(context);
  const absl::Status status = packages.ok() ? run.Remove(**packages, rows) : packages.status();
  if (!status.ok()) {
    context.err << "shiftadd: not all packages and jobs were removed: " << status.message() << "\n";
  } else {
    context.err << "packages and jobs were removed" << (failed > 0 ? ", but for what failed" : "")
                << " (--keep keeps them); `shiftadd gc` frees their space\n";
  }
}

int Compare(Context& context, const CompareFlags& flags) {
  absl::StatusOr<ComparisonPlan> plan = MakePlan(flags);
  if (!plan.ok()) return Report(context, plan.status());
  const absl::StatusOr<JobClient> jobs = ConnectJobs(context);
  if (!jobs.ok()) return Report(context, jobs.status());
  const absl::StatusOr<v1::ListJobsResponse> alive =
      jobs->Call(&JobClient::Stub::ListJobs, v1::ListJobsRequest());
  if (!alive.ok()) return Report(context, alive.status());
  const auto calibration = UploadText(context, flags.calibration.file);
  if (!calibration.ok()) return Report(context, calibration.status());
  const auto evaluation = UploadText(context, flags.evaluation.file);
  if (!evaluation.ok()) return Report(context, evaluation.status());
  plan->spec.mutable_calibration()->set_text_digest(*calibration);
  plan->spec.mutable_evaluation()->set_text_digest(*evaluation);

  ComparisonRun run(context, *jobs, *std::move(plan));
  const std::vector<ComparisonRow> rows = run.Run();
  if (context.json) {
    context.out << ComparisonJson(rows).dump(2) << "\n" << std::flush;
  } else {
    context.out << FormatComparison(rows) << std::flush;
  }
  RemoveOrTell(context, run, rows, flags.keep);
  const bool all = std::all_of(rows.begin(), rows.end(),
                               [](const ComparisonRow& row) { return row.error.empty(); });
  return all ? kExitOk : kExitFailed;
}

}  // namespace

void AddCompareCommand(CLI::App& app, Context& context) {
  auto flags = std::make_shared<CompareFlags>();
  CLI::App* command = app.add_subcommand(
      "compare", "Quantize a model by several recipes and print one table of what each costs");
  command
      ->add_option("source", flags->source,
                   "GGUF file or Hugging Face folder (path or file:// URI)")
      ->required();
  command->add_option("--methods", flags->methods,
                      "Methods with their defaults, as rtn,optq,lat,acc,shiftadd");
  command
      ->add_option("--recipe", flags->recipe_files,
                   "A recipe file, repeatable; its candidate_bits give way to --bits")
      ->allow_extra_args(false);
  command->add_option("--bits", flags->bits, "Widths, each of them uniform")->capture_default_str();
  AddCalibrationFlags(command, &flags->calibration);
  AddEvaluationFlags(command, &flags->evaluation);
  command->add_option("--priority", flags->priority, "-100..100, higher first")
      ->check(CLI::Range(-100, 100));
  command->add_flag("--any-device", flags->any_device,
                    "Let unlike workers share the jobs; the bytes may then differ from run to run");
  command->add_flag("--keep", flags->keep, "Keep the packages and jobs");
  AddCoordinatorFlag(command, context);
  AddPackagerFlag(command, context);
  AddJsonFlag(command, context);
  command->footer(
      "All recipes see the same calibration and evaluation tokens. Recipes run one after another; "
      "one that fails has its reason in the table and stops no other (exit code 1). Ctrl-C cancels "
      "the jobs that run.");
  command->callback([&context, flags] {
    context.action = [&context, flags] { return Compare(context, *flags); };
  });
}

}  // namespace shiftadd::cli
