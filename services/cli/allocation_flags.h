// The flags that say which candidate each layer gets: a budget, a criterion, one width or several.
#ifndef SHIFTADD_SERVICES_CLI_ALLOCATION_FLAGS_H_
#define SHIFTADD_SERVICES_CLI_ALLOCATION_FLAGS_H_

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "shiftadd/v1/job.pb.h"

namespace shiftadd::cli {

struct AllocationFlags {
  std::string bits;  // exactly one of these three; numbers with commas between
  std::string stored_bits;
  std::string bytes;  // "4GiB"
  std::string criterion;
  bool uniform = false;
};

// `flags` lives as long as the command. `criterion`: what applies where none is given, for the
// help.
void AddAllocationFlags(CLI::App* command, AllocationFlags* flags, const std::string& criterion);

// A budget for each number given, in their order. INVALID_ARGUMENT names the flag and the number.
absl::StatusOr<std::vector<v1::Budget>> MakeBudgets(const AllocationFlags& flags);
// INVALID_ARGUMENT also for several.
absl::StatusOr<v1::Budget> MakeBudget(const AllocationFlags& flags);
// UNSPECIFIED, the job's default, where none is given.
absl::StatusOr<v1::Criterion> MakeCriterion(const AllocationFlags& flags);

// "2.25 planes", "3.4 stored bits", "60.0 MiB".
std::string FormatBudget(const v1::Budget& budget);

}  // namespace shiftadd::cli

#endif  // SHIFTADD_SERVICES_CLI_ALLOCATION_FLAGS_H_
