// What must be true after a round.
#ifndef SHIFTADD_TESTS_CHAOS_CHECKS_H_
#define SHIFTADD_TESTS_CHAOS_CHECKS_H_

#include <string>
#include <vector>

#include "shiftadd/v1/job.pb.h"

namespace shiftadd::testing {

using Faults = std::vector<std::string>;  // empty: all is well

// Sequence numbers without gap or repeat; every task done once and nothing of it afterwards, unless
// it was never leased; one terminal state, at the end.
Faults CheckEvents(const std::vector<v1::JobEvent>& events);

// The OCI image layout `dir`, which nobody writes to: every blob has the digest that it is named
// by; the tag `reference` names `package_digest`, and everything that it leads to is there.
Faults CheckBlobs(const std::string& dir, const std::string& reference,
                  const std::string& package_digest);

// After a collection without grace: nothing but what tags lead to, no scratch, and what killed
// writers left half-written goes when the store is opened next.
Faults CheckNoOrphans(const std::string& dir);

}  // namespace shiftadd::testing

#endif  // SHIFTADD_TESTS_CHAOS_CHECKS_H_
