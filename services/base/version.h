// What this build is.
#ifndef SHIFTADD_SERVICES_BASE_VERSION_H_
#define SHIFTADD_SERVICES_BASE_VERSION_H_

#include <string>

namespace shiftadd {

// "0.1.0"
std::string Version();
// Short git commit, or "unknown".
std::string Commit();
// Changes whenever the same job could give other bytes. Part of a job's signature and of packages.
std::string QuantizerVersion();
// One line for --version.
std::string VersionLine();

}  // namespace shiftadd

#endif  // SHIFTADD_SERVICES_BASE_VERSION_H_
