#include "services/job/candidate.h"

namespace shiftadd {

const v1::CandidateReport* FindCandidate(const v1::LayerReport& report, uint32_t bits) {
  for (const v1::CandidateReport& candidate : report.candidates()) {
    if (candidate.bits() == bits) return &candidate;
  }
  return nullptr;
}

}  // namespace shiftadd
