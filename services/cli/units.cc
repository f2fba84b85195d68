#include "services/cli/units.h"

#include <cmath>
#include <cstdlib>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"

namespace shiftadd::cli {
namespace {

absl::Status NoSize(const std::string& text) {
  return absl::InvalidArgumentError(absl::StrCat(
      "'", text, "' is no size: expected a positive number and a unit, such as 4GiB or 500MB"));
}

// The factor of a unit in lower case; 0 if there is no such unit.
double Factor(absl::string_view unit) {
  constexpr std::pair<const char*, double> kUnits[] = {
      {"", 1},      {"b", 1},        {"kb", 1e3},        {"mb", 1e6},     {"gb", 1e9},
      {"tb", 1e12}, {"kib", 1024.0}, {"mib", 1048576.0}, {"gib", 0x1p30}, {"tib", 0x1p40},
  };
  for (const auto& [name, factor] : kUnits) {
    if (unit == name) return factor;
  }
  return 0;
}

}  // namespace

absl::StatusOr<uint64_t> ParseBytes(const std::string& text) {
  const std::string trimmed(absl::StripAsciiWhitespace(text));
  const size_t digits = trimmed.find_first_not_of("0123456789.");
  const std::string number = trimmed.substr(0, digits);
  const std::string unit = digits == std::string::npos ? "" : trimmed.substr(digits);
  double value = 0;
  if (number.empty() || !absl::SimpleAtod(number, &value)) return NoSize(text);
  const double factor = Factor(absl::AsciiStrToLower(absl::StripAsciiWhitespace(unit)));
  const double bytes = value * factor;
  if (!(bytes >= 1) || bytes > 0x1p63) return NoSize(text);
  // Whole numbers without a unit stay exact beyond 2^53.
  if (uint64_t exact = 0; factor == 1 && absl::SimpleAtoi(number, &exact)) return exact;
  return static_cast<uint64_t>(bytes);
}

std::string FormatBytes(uint64_t bytes) {
  constexpr const char* kUnits[] = {"KiB", "MiB", "GiB", "TiB"};
  if (bytes < 1024) return absl::StrCat(bytes, " B");
  double value = static_cast<double>(bytes) / 1024;
  size_t unit = 0;
  while (value >= 1023.95 && unit + 1 < std::size(kUnits)) {
    value /= 1024;
    ++unit;
  }
  return absl::StrFormat("%.1f %s", value, kUnits[unit]);
}

std::string FormatCount(uint64_t count) {
  const std::string digits = absl::StrCat(count);
  std::string text;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) text.push_back(',');
    text.push_back(digits[i]);
  }
  return text;
}

std::string FormatSeconds(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0) return "-";
  if (seconds < 9.95) return absl::StrFormat("%.1f s", seconds);
  const uint64_t whole = static_cast<uint64_t>(std::llround(std::min(seconds, 1e12)));
  if (whole < 60) return absl::StrFormat("%d s", whole);
  if (whole < 3600) return absl::StrFormat("%d min %02d s", whole / 60, whole % 60);
  return absl::StrFormat("%d h %02d min", whole / 3600, whole % 3600 / 60);
}

std::string FormatFixed(double value, int digits) {
  return std::isfinite(value) ? absl::StrFormat("%.*f", digits, value) : "-";
}

std::string FormatShort(double value) {
  return std::isfinite(value) ? absl::StrFormat("%.3g", value) : "-";
}

std::string FormatUnixTime(int64_t seconds) {
  return absl::FormatTime("%Y-%m-%d %H:%M:%S", absl::FromUnixSeconds(seconds), absl::UTCTimeZone());
}

}  // namespace shiftadd::cli
