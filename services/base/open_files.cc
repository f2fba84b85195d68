#include "services/base/open_files.h"

#include <sys/resource.h>

#include <algorithm>

namespace shiftadd {

void RaiseOpenFileLimit() {
  constexpr rlim_t kEnough = 65536;  // as in deploy/systemd
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  const rlim_t wanted = std::min(limit.rlim_max, kEnough);
  if (limit.rlim_cur >= wanted) return;
  limit.rlim_cur = wanted;
  setrlimit(RLIMIT_NOFILE, &limit);  // what is refused leaves the old one
}

}  // namespace shiftadd
