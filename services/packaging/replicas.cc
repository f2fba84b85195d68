#include "services/packaging/replicas.h"

#include <algorithm>
#include <tuple>

namespace shiftadd::packaging {
namespace {

void SetTime(absl::Time now, v1::Replica* replica) {
  const int64_t micros = absl::ToUnixMicros(now);
  replica->mutable_update_time()->set_seconds(micros / 1'000'000);
  replica->mutable_update_time()->set_nanos(static_cast<int32_t>(micros % 1'000'000) * 1000);
}

}  // namespace

uint64_t Replicas::Add(const v1::Replica& replica, absl::Time now) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const uint64_t key = ++last_key_;
  replicas_[key] = replica;
  SetTime(now, &replicas_[key]);
  return key;
}

void Replicas::Update(uint64_t key, const v1::Replica& replica, absl::Time now) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = replicas_.find(key);
  if (found == replicas_.end()) return;
  const std::string id = found->second.id(), reference = found->second.reference();
  found->second = replica;
  found->second.set_id(id);
  found->second.set_reference(reference);
  SetTime(now, &found->second);
}

void Replicas::Remove(uint64_t key) {
  const std::lock_guard<std::mutex> lock(mutex_);
  replicas_.erase(key);
}

std::vector<v1::Replica> Replicas::List(const std::string& reference) const {
  std::vector<v1::Replica> out;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const auto& [key, replica] : replicas_) {
      if (reference.empty() || replica.reference() == reference) out.push_back(replica);
    }
  }
  const auto order = [](const v1::Replica& r) {
    return std::make_tuple(r.reference(), r.http_address(), r.id());
  };
  std::sort(out.begin(), out.end(),
            [&](const v1::Replica& a, const v1::Replica& b) { return order(a) < order(b); });
  return out;
}

}  // namespace shiftadd::packaging
