// Criteria as people read and write them.
#ifndef SHIFTADD_SERVICES_JOB_CRITERION_NAME_H_
#define SHIFTADD_SERVICES_JOB_CRITERION_NAME_H_

#include <string>

#include "shiftadd/v1/job.pb.h"

namespace shiftadd {

// "guided"; "default" if unspecified; "criterion 99" of one that this build does not know.
std::string CriterionName(v1::Criterion criterion);

}  // namespace shiftadd

#endif  // SHIFTADD_SERVICES_JOB_CRITERION_NAME_H_
