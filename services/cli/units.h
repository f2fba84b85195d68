// Numbers as people write and read them.
#ifndef SHIFTADD_SERVICES_CLI_UNITS_H_
#define SHIFTADD_SERVICES_CLI_UNITS_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace shiftadd::cli {

// "4GiB", "500 MB", "1.5GiB", "1048576": B, KB, MB, GB, TB are powers of 1000, KiB… of 1024;
// case-insensitive. INVALID_ARGUMENT for anything else, a negative number, zero, or more than 2^63.
absl::StatusOr<uint64_t> ParseBytes(const std::string& text);

// "98.2 MiB"; below 1 KiB "17 B".
std::string FormatBytes(uint64_t bytes);
// "12,345,678".
std::string FormatCount(uint64_t count);
// "0.8 s", "45 s", "3 min 05 s", "2 h 07 min".
std::string FormatSeconds(double seconds);
// Fixed, `digits` after the point; "-" if not finite.
std::string FormatFixed(double value, int digits);
// Three significant digits: "0.0312", "1.25e-05"; "-" if not finite.
std::string FormatShort(double value);
// Unix time as 2026-01-31 12:00:00 (UTC).
std::string FormatUnixTime(int64_t seconds);

}  // namespace shiftadd::cli

#endif  // SHIFTADD_SERVICES_CLI_UNITS_H_
