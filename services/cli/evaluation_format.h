// Evaluations of published packages as text, and from the documents that hold them.
#ifndef SHIFTADD_SERVICES_CLI_EVALUATION_FORMAT_H_
#define SHIFTADD_SERVICES_CLI_EVALUATION_FORMAT_H_

#include <google/protobuf/repeated_field.h>

#include <string>
#include <utility>
#include <vector>

#include "shiftadd/v1/job.pb.h"

namespace shiftadd::cli {

// "21.83 +- 0.41", digits enough for the error to show two of its own; without an error the value.
std::string FormatEstimate(const v1::Estimate& estimate);

// The value and its error apart: "21.83" and "0.41", or "not known".
std::pair<std::string, std::string> EstimateParts(const v1::Estimate& estimate);

// One line, no newline; of an evaluation on windows.
std::string FormatEvaluationLine(const v1::PackageEvaluation& evaluation);

// A table of every figure, and what it was measured on, or what asked the tasks.
std::string FormatEvaluation(const v1::PackageEvaluation& evaluation);

// Evaluation documents of a package (v1::Package.evaluation_json), but for those that are of a kind
// this program does not know.
std::vector<v1::PackageEvaluation> ParseEvaluations(
    const google::protobuf::RepeatedPtrField<std::string>& documents);

}  // namespace shiftadd::cli

#endif  // SHIFTADD_SERVICES_CLI_EVALUATION_FORMAT_H_
