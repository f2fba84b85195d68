// How much each layer minds being narrow, as text.
#ifndef SHIFTADD_SERVICES_CLI_SENSITIVITY_FORMAT_H_
#define SHIFTADD_SERVICES_CLI_SENSITIVITY_FORMAT_H_

#include <string>

#include "shiftadd/v1/job.pb.h"

namespace shiftadd::cli {

// A row a kind of layer: the job's criterion summed over its layers at each width and at the chosen
// ones. Empty without candidates.
std::string FormatSensitivityByKind(const v1::JobReport& report);

// The layers with the largest criterion at their narrowest width, with every criterion's figures at
// the chosen width (narrowest, before ALLOCATING). Figures that no layer has are left out.
std::string FormatMostSensitive(const v1::JobReport& report, int count);

}  // namespace shiftadd::cli

#endif  // SHIFTADD_SERVICES_CLI_SENSITIVITY_FORMAT_H_
