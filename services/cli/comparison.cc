#include "services/cli/comparison.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "services/cli/quality_format.h"
#include "services/cli/table.h"
#include "services/cli/units.h"

namespace shiftadd::cli {
namespace {

using OrderedJson = nlohmann::ordered_json;

// The first row with figures; all were measured on the same windows. Null if there is none.
const ComparisonRow* AnyMeasured(const std::vector<ComparisonRow>& rows) {
  for (const ComparisonRow& row : rows) {
    if (row.error.empty()) return &row;
  }
  return nullptr;
}

// JSON has no infinities.
OrderedJson Number(double value) {
  return std::isfinite(value) ? OrderedJson(value) : OrderedJson(nullptr);
}

}  // namespace

std::string FormatComparison(const std::vector<ComparisonRow>& rows) {
  Table table({"recipe", ">planes", ">stored bits", ">size", ">perplexity", ">KL to full (nats)",
               ">quantized in"});
  const ComparisonRow* measured = AnyMeasured(rows);
  if (measured != nullptr) {
    table.Add({"full precision", "-", "-", "-", FormatFixed(measured->quality.perplexity_full(), 3),
               "0", "-"});
  }
  std::string reasons;
  bool simulated = false;
  for (const ComparisonRow& row : rows) {
    const v1::Quality& q = row.quality;
    if (!row.error.empty()) {
      table.Add({row.recipe, absl::StrCat(row.bits), "-", "-", "-", "failed", "-"});
      absl::StrAppend(&reasons, row.recipe, ", ", row.bits, " planes: ", row.error, "\n");
      continue;
    }
    simulated |= row.simulated;
    table.Add({absl::StrCat(row.recipe, row.simulated ? " *" : ""), FormatFixed(q.planes(), 2),
               FormatFixed(q.stored_bits(), 3), FormatBytes(q.package_bytes()),
               FormatFixed(q.perplexity_quantized(), 3),
               absl::StrCat(FormatFixed(q.kl(), 4), " +- ", FormatFixed(q.kl_standard_error(), 4)),
               FormatSeconds(row.seconds)});
  }
  std::string text = table.ToString();
  if (measured != nullptr) {
    absl::StrAppend(&text, "measured on ", measured->quality.windows(), " windows of ",
                    measured->quality.window_length(),
                    " tokens; quantized in: wall time, all widths of a recipe together\n");
  }
  if (simulated) absl::StrAppend(&text, "* ", kSimulated, "\n");
  return text + reasons;
}

OrderedJson ComparisonJson(const std::vector<ComparisonRow>& rows) {
  OrderedJson json = OrderedJson::object();
  if (const ComparisonRow* measured = AnyMeasured(rows)) {
    json["full_precision"] = {{"perplexity", Number(measured->quality.perplexity_full())},
                              {"windows", measured->quality.windows()},
                              {"window_length", measured->quality.window_length()}};
  }
  json["rows"] = OrderedJson::array();
  for (const ComparisonRow& row : rows) {
    const v1::Quality& q = row.quality;
    const auto figure = [&row](double value) {
      return row.error.empty() ? Number(value) : OrderedJson(nullptr);
    };
    json["rows"].push_back({{"recipe", row.recipe},
                            {"bits", row.bits},
                            {"simulated", row.simulated},
                            {"planes", figure(q.planes())},
                            {"stored_bits", figure(q.stored_bits())},
                            {"package_bytes", q.package_bytes()},
                            {"perplexity", figure(q.perplexity_quantized())},
                            {"kl", figure(q.kl())},
                            {"kl_standard_error", figure(q.kl_standard_error())},
                            {"seconds", figure(row.seconds)},
                            {"job_id", row.job_id},
                            {"package", row.package},
                            {"error", row.error}});
  }
  return json;
}

}  // namespace shiftadd::cli
