// For programs that have nothing better to do with an error than to say it and end: benchmarks,
// tools, the setting-up of tests. Never in a daemon or a library.
#ifndef SHIFTADD_SERVICES_BASE_OR_DIE_H_
#define SHIFTADD_SERVICES_BASE_OR_DIE_H_

#include <cstdio>
#include <cstdlib>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace shiftadd {

// Ends the process with exit code 1 after saying on stderr what went wrong, and with `what`.
inline void OrDie(const absl::Status& status, const char* what = "error") {
  if (status.ok()) return;
  std::fprintf(stderr, "%s: %s\n", what, status.ToString().c_str());
  std::exit(1);
}

template <typename T>
T OrDie(absl::StatusOr<T> value, const char* what = "error") {
  OrDie(value.status(), what);
  return *std::move(value);
}

}  // namespace shiftadd

#endif  // SHIFTADD_SERVICES_BASE_OR_DIE_H_
