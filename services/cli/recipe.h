// Recipe files: YAML or JSON, the fields of shiftadd.v1.Recipe.
//
//   method: shiftadd
//   candidate_bits: [2, 3, 4]
//   overrides:
//     - {glob: "blocks.0.*", bits: 4}
//
// `group_size: row` is short for `whole_row: true`.
#ifndef SHIFTADD_SERVICES_CLI_RECIPE_H_
#define SHIFTADD_SERVICES_CLI_RECIPE_H_

#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/statusor.h"
#include "shiftadd/v1/job.pb.h"

namespace shiftadd::cli {

// `name` is used in messages; a name that ends in .json is read as JSON, anything else as YAML (of
// which JSON is a part). INVALID_ARGUMENT names every fault at once: what is no YAML or JSON (with
// its line), unknown or repeated fields, wrong types, and then wrong values too. Values alone are
// judged by the coordinator.
absl::StatusOr<v1::Recipe> ParseRecipe(const std::string& text, const std::string& name);

// Reads the file, at most 1 MiB.
absl::StatusOr<v1::Recipe> LoadRecipe(const std::string& path);

}  // namespace shiftadd::cli

#endif  // SHIFTADD_SERVICES_CLI_RECIPE_H_
