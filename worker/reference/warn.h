// Log lines of sources that see LibTorch: its headers bring another fmt than spdlog's.
#ifndef SHIFTADD_WORKER_REFERENCE_WARN_H_
#define SHIFTADD_WORKER_REFERENCE_WARN_H_

#include <string>

namespace shiftadd::reference {

void Warn(const std::string& message);

}  // namespace shiftadd::reference

#endif  // SHIFTADD_WORKER_REFERENCE_WARN_H_
