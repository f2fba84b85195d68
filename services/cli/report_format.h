// The report of a job as text, at most 100 columns wide.
#ifndef SHIFTADD_SERVICES_CLI_REPORT_FORMAT_H_
#define SHIFTADD_SERVICES_CLI_REPORT_FORMAT_H_

#include <string>
#include <vector>

#include "shiftadd/v1/job.pb.h"

namespace shiftadd::cli {

// What was switched on: every field of the recipe that is set, overrides, budget, texts.
std::string FormatSpec(const v1::JobSpec& spec);

// Layers, weights, stored bits and bytes at each width, and in all; then the width of each layer,
// blocks down and kinds across. Empty before ALLOCATING.
std::string FormatAllocation(const v1::JobReport& report);

// A row a layer, in model order: block, kind, shape, bits chosen, relative output error at each
// candidate width, stored bits of the chosen one.
std::string FormatLayerTable(const v1::JobReport& report);

// What was done otherwise than the recipe says, with the layers it was done to.
std::string FormatNotes(const v1::JobReport& report);

// Seconds by phase (in the order of a job's life), kind of task, stage and worker.
std::string FormatTimes(const v1::JobReport& report);

// All of it under headings, with sensitivity and quality; the layer table only if wanted.
// `evaluations`: what was measured of its package since.
std::string FormatReport(const v1::JobReport& report, bool with_layers,
                         const std::vector<v1::PackageEvaluation>& evaluations = {});

}  // namespace shiftadd::cli

#endif  // SHIFTADD_SERVICES_CLI_REPORT_FORMAT_H_
