// The candidates of a layer's report.
#ifndef SHIFTADD_SERVICES_JOB_CANDIDATE_H_
#define SHIFTADD_SERVICES_JOB_CANDIDATE_H_

#include <cstdint>

#include "shiftadd/v1/job.pb.h"

namespace shiftadd {

// The candidate of this width, inside `report`; null if there is none.
const v1::CandidateReport* FindCandidate(const v1::LayerReport& report, uint32_t bits);

}  // namespace shiftadd

#endif  // SHIFTADD_SERVICES_JOB_CANDIDATE_H_
