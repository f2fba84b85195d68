#include "services/base/version.h"

namespace shiftadd {

std::string Version() { return SHIFTADD_VERSION; }

std::string Commit() {
  const std::string commit = SHIFTADD_COMMIT;
  return commit.empty() ? "unknown" : commit;
}

std::string QuantizerVersion() { return "3"; }

std::string VersionLine() {
  return "shiftadd " + Version() + " (commit " + Commit() + ", quantizer " + QuantizerVersion() +
         ")";
}

}  // namespace shiftadd
