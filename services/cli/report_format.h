// The report of a job as text.
#ifndef SHIFTADD_SERVICES_CLI_REPORT_FORMAT_H_
#define SHIFTADD_SERVICES_CLI_REPORT_FORMAT_H_

#include <string>

#include "shiftadd/v1/job.pb.h"

namespace shiftadd::cli {

// A row a layer, in model order: block, kind, shape, bits chosen, relative output error at each
// candidate width, stored bits of the chosen one.
std::string FormatLayerTable(const v1::JobReport& report);

// Layers, weights, stored bits and bytes at each width, and in all. Empty before ALLOCATING.
std::string FormatAllocation(const v1::JobReport& report);

// Seconds by state (in the order of a job's life) and by worker.
std::string FormatTimes(const v1::JobReport& report);

// All of it under headings, with the quality.
std::string FormatReport(const v1::JobReport& report);

}  // namespace shiftadd::cli

#endif  // SHIFTADD_SERVICES_CLI_REPORT_FORMAT_H_
