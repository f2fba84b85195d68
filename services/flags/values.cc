#include "services/flags/values.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace shiftadd {
namespace {

// A validator that lets everything pass: CLI11 keeps nothing else for others with an option.
constexpr char kMayBeEmpty[] = "may be empty";

bool IsMarked(CLI::Option* option) {
  try {
    return option->get_validator(kMayBeEmpty) != nullptr;
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
  if (std::count(values.begin(), values.end(), "") > 0 && !IsMarked(option)) {
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

CLI::Option* MayBeEmpty(CLI::Option* option) {
  return option->check(CLI::Validator([](std::string&) { return std::string(); }, "", kMayBeEmpty));
}

}  // namespace shiftadd
