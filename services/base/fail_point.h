// Named places at which a test lets this process die, stand still, or find something broken.
//
// The environment variable SHIFTADD_FAIL_POINT arms them: NAME:NTH:ACTION, several with commas.
// When a point is reached for the NTH time (from 1), `kill` ends the process as kill -9 does,
// `stop` stops it as SIGSTOP does (whoever watches it sends SIGCONT), and `fail` breaks what the
// point stands for, from then on. Each says so on stderr first,
// as "fail point NAME: ACTION".
//
// Only builds with tests (SHIFTADD_TESTS) heed the variable; in others ReachFailPoint does nothing,
// and no environment can make a daemon in use end itself. The switch is one of fail_point.cc alone,
// so that both kinds of build share everything else.
#ifndef SHIFTADD_SERVICES_BASE_FAIL_POINT_H_
#define SHIFTADD_SERVICES_BASE_FAIL_POINT_H_

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace shiftadd {

// Thread-safe. Aborts the process if the variable is set and malformed. True: what the point stands
// for has failed.
bool ReachFailPoint(absl::string_view name);

struct FailAction {
  uint64_t nth = 0;
  enum Kind { kKill, kStop, kFail } kind = kKill;
};
// The variable's value, by name. INVALID_ARGUMENT names the faulty part.
absl::StatusOr<std::map<std::string, FailAction>> ParseFailPoints(absl::string_view text);

}  // namespace shiftadd

#endif  // SHIFTADD_SERVICES_BASE_FAIL_POINT_H_
