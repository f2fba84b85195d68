#include "services/access/rate_limit.h"

#include <cmath>
#include <iterator>

namespace shiftadd::access {

bool RateLimit::Take(const std::string& caller, absl::Time now) {
  const std::lock_guard<std::mutex> hold(mutex_);
  if (buckets_.size() >= sweep_at_) DropFull(now);
  Bucket& bucket = buckets_.try_emplace(caller, Bucket{burst_, now}).first->second;
  Fill(now, &bucket);
  if (bucket.left < 1) return false;
  bucket.left -= 1;
  return true;
}

int64_t RateLimit::RetrySeconds() const {
  return static_cast<int64_t>(std::ceil(std::clamp(1 / rate_, 1.0, 86400.0)));
}

size_t RateLimit::buckets() const {
  const std::lock_guard<std::mutex> hold(mutex_);
  return buckets_.size();
}

void RateLimit::Fill(absl::Time now, Bucket* bucket) const {
  const double seconds = std::max(0.0, absl::ToDoubleSeconds(now - bucket->filled));
  bucket->left = std::min(burst_, bucket->left + seconds * rate_);
  bucket->filled = now;
}

void RateLimit::DropFull(absl::Time now) {
  for (auto entry = buckets_.begin(); entry != buckets_.end();) {
    Fill(now, &entry->second);
    entry = entry->second.left >= burst_ ? buckets_.erase(entry) : std::next(entry);
  }
  // Never again before as many have come once more.
  sweep_at_ = std::max<size_t>(1024, 2 * buckets_.size());
}

}  // namespace shiftadd::access
