// Several recipes beside each other: what each costs and how far each is from full precision.
#ifndef SHIFTADD_SERVICES_CLI_COMPARISON_H_
#define SHIFTADD_SERVICES_CLI_COMPARISON_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "shiftadd/v1/job.pb.h"

namespace shiftadd::cli {

// One recipe at one width.
struct ComparisonRow {
  std::string recipe;  // its name
  uint32_t bits = 0;
  bool simulated = false;  // its codes cannot be packed: see kSimulated
  std::string job_id;      // that measured it; empty if none was made
  std::string package;     // NAME:TAG
  v1::Quality quality;     // if `error` is empty
  double seconds = 0;  // on the wall, until its candidates were made; all widths of a job together
  std::string error;   // why there are no figures
};

// A table with full precision as its first row; why rows have no figures, and which are simulated,
// stands below.
std::string FormatComparison(const std::vector<ComparisonRow>& rows);

// {"full_precision": {…}, "rows": [{…}]}: figures are null in rows with an error.
nlohmann::ordered_json ComparisonJson(const std::vector<ComparisonRow>& rows);

}  // namespace shiftadd::cli

#endif  // SHIFTADD_SERVICES_CLI_COMPARISON_H_
