#include "services/cli/allocation_flags.h"

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "services/base/status_macros.h"
#include "services/cli/proto_json.h"
#include "services/cli/units.h"

namespace shiftadd::cli {
namespace {

// A number above 0 and at most `most`; neither NaN nor infinite.
absl::StatusOr<double> ParseNumber(const std::string& text, const std::string& flag, double most) {
  double value = 0;
  if (!absl::SimpleAtod(text, &value) || !(value > 0) || value > most) {
    return absl::InvalidArgumentError(
        absl::StrCat(flag, ": found '", text, "', expected a number more than 0, at most ", most));
  }
  return value;
}

absl::StatusOr<v1::Budget> ParseBudget(const AllocationFlags& flags, const std::string& text) {
  v1::Budget budget;
  if (!flags.bits.empty()) {
    SA_ASSIGN_OR_RETURN(const double planes, ParseNumber(text, "--bits", 8));
    budget.set_planes(planes);
  } else if (!flags.stored_bits.empty()) {
    SA_ASSIGN_OR_RETURN(const double stored_bits, ParseNumber(text, "--stored-bits", 16));
    budget.set_stored_bits(stored_bits);
  } else {
    const absl::StatusOr<uint64_t> bytes = ParseBytes(text);
    if (!bytes.ok()) return Annotate(bytes.status(), "--bytes");
    budget.set_bytes(*bytes);
  }
  return budget;
}

}  // namespace

void AddAllocationFlags(CLI::App* command, AllocationFlags* flags, const std::string& criterion) {
  command->add_option("--bits", flags->bits,
                      "Budget: average binary planes of the quantized layers");
  command->add_option("--stored-bits", flags->stored_bits,
                      "Budget: average bits with scales and offsets");
  command->add_option("--bytes", flags->bytes, "Budget: size of the whole package, such as 4GiB");
  command->add_option("--criterion", flags->criterion,
                      absl::StrCat("What the widths minimise: guided, output, weight, paper, "
                                   "measured (default ",
                                   criterion, ")"));
  command->add_flag("--uniform", flags->uniform,
                    "One width for all layers: the widest that fits the budget");
}

absl::StatusOr<std::vector<v1::Budget>> MakeBudgets(const AllocationFlags& flags) {
  const int given = !flags.bits.empty() + !flags.stored_bits.empty() + !flags.bytes.empty();
  if (given != 1) {
    return absl::InvalidArgumentError(
        "say how small the package is to be: exactly one of --bits, --stored-bits and --bytes");
  }
  std::vector<v1::Budget> budgets;
  const std::string text = absl::StrCat(flags.bits, flags.stored_bits, flags.bytes);
  for (absl::string_view number : absl::StrSplit(text, ',')) {
    SA_ASSIGN_OR_RETURN(budgets.emplace_back(),
                        ParseBudget(flags, std::string(absl::StripAsciiWhitespace(number))));
  }
  return budgets;
}

absl::StatusOr<v1::Budget> MakeBudget(const AllocationFlags& flags) {
  SA_ASSIGN_OR_RETURN(const std::vector<v1::Budget> budgets, MakeBudgets(flags));
  if (budgets.size() != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("found ", budgets.size(), " budgets, expected one"));
  }
  return budgets[0];
}

absl::StatusOr<v1::Criterion> MakeCriterion(const AllocationFlags& flags) {
  v1::JobSpec spec;
  if (flags.criterion.empty()) return spec.criterion();
  std::vector<std::string> faults;
  FromJson({{"criterion", flags.criterion}}, "", &spec, &faults);
  // ".criterion: …"
  if (!faults.empty()) return absl::InvalidArgumentError("--" + faults[0].substr(1));
  return spec.criterion();
}

std::string FormatBudget(const v1::Budget& budget) {
  switch (budget.limit_case()) {
    case v1::Budget::kPlanes:
      return absl::StrCat(budget.planes(), " planes");
    case v1::Budget::kStoredBits:
      return absl::StrCat(budget.stored_bits(), " stored bits");
    case v1::Budget::kBytes:
      return FormatBytes(budget.bytes());
    case v1::Budget::LIMIT_NOT_SET:
      return "none";
  }
  return "none";
}

}  // namespace shiftadd::cli
