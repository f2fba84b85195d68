// Quality figures of a job as text.
#ifndef SHIFTADD_SERVICES_CLI_QUALITY_FORMAT_H_
#define SHIFTADD_SERVICES_CLI_QUALITY_FORMAT_H_

#include <string>

#include "shiftadd/v1/job.pb.h"

namespace shiftadd::cli {

// Said of method acc wherever its figures stand.
inline constexpr char kSimulated[] =
    "simulated, not packed: no kernel multiplies these codes; bits and stored bits are what they "
    "would "
    "take, the package holds the weights that they stand for, in 16 bits";

// One line, no newline: KL with its standard error, both perplexities, planes and stored bits.
std::string FormatQualityLine(const v1::Quality& quality);

// Several lines: the same against the best uniform width, windows, and the served executor's error.
std::string FormatQuality(const v1::Quality& quality);

}  // namespace shiftadd::cli

#endif  // SHIFTADD_SERVICES_CLI_QUALITY_FORMAT_H_
