#include "services/access/rate_limit.h"

#include <algorithm>

namespace shiftadd::access {

bool RateLimit::Take(const std::string& caller, absl::Time now) {
  const std::lock_guard<std::mutex> hold(mutex_);
  const auto [entry, added] = buckets_.try_emplace(caller, Bucket{burst_, now});
  Bucket& bucket = entry->second;
  const double seconds = std::max(0.0, absl::ToDoubleSeconds(now - bucket.filled));
  bucket.left = std::min(burst_, bucket.left + seconds * rate_);
  bucket.filled = now;
  if (bucket.left < 1) return false;
  bucket.left -= 1;
  return true;
}

}  // namespace shiftadd::access
