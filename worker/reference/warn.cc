#include "worker/reference/warn.h"

#include "services/base/logging.h"

namespace shiftadd::reference {

void Warn(const std::string& message) { spdlog::warn("{}", message); }

}  // namespace shiftadd::reference
