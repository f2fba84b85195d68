#include "services/flags/values.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace shiftadd {
namespace {

// Validators that let everything pass: CLI11 keeps nothing else for others with an option.
constexpr char kMayBeEmpty[] = "may be empty";
constexpr char kNoEmptyVariable[] = "no empty variable";

CLI::Option* Mark(CLI::Option* option, const char* mark) {
  return option->check(CLI::Validator([](std::string&) { return std::string(); }, "", mark));
}

bool IsMarked(CLI::Option* option, const char* mark) {
  try {
    return option->get_validator(mark) != nullptr;
  } catch (const CLI::OptionNotFound&) {
    return false;
  }
}

bool IsNoNumber(const std::string& value) {
  double number = 0;
  return absl::SimpleAtod(value, &number) && !std::isfinite(number);
}

void CheckOption(CLI::Option* option) {
  const std::vector<std::string>& values = option->results();
  if (option->get_expected_max() == 0) return;  // a flag
  if (values.empty() && IsMarked(option, kNoEmptyVariable)) {
    const char* variable = std::getenv(option->get_envname().c_str());
    if (variable != nullptr && *variable == '\0') {
      throw CLI::ValidationError(option->get_envname(),
                                 "is set to nothing; unset it if none is meant");
    }
  }
  if (std::count(values.begin(), values.end(), "") > 0 && !IsMarked(option, kMayBeEmpty)) {
    throw CLI::ValidationError(
        option->get_name(),
        absl::StrCat("expected a value, found \"\"",
                     option->get_required() ? "" : "; leave the option out if none is meant"));
  }
  if (!absl::StartsWith(option->get_type_name(), "FLOAT")) return;
  const auto bad = std::find_if(values.begin(), values.end(), IsNoNumber);
  if (bad == values.end()) return;
  throw CLI::ValidationError(option->get_name(), absl::StrCat("expected a number, found ", *bad));
}

}  // namespace

void CheckValues(CLI::App* app) {
  for (CLI::Option* option : app->get_options()) CheckOption(option);
  for (CLI::App* command : app->get_subcommands([](CLI::App*) { return true; })) {
    CheckValues(command);
  }
}

CLI::Option* MayBeEmpty(CLI::Option* option) { return Mark(option, kMayBeEmpty); }

CLI::Option* NoEmptyVariable(CLI::Option* option) { return Mark(option, kNoEmptyVariable); }

}  // namespace shiftadd
