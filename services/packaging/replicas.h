// Who serves what: the replicas that follow references, for as long as they do.
#ifndef SHIFTADD_SERVICES_PACKAGING_REPLICAS_H_
#define SHIFTADD_SERVICES_PACKAGING_REPLICAS_H_

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "shiftadd/v1/package.pb.h"

namespace shiftadd::packaging {

// In memory: a packager that starts again hears from every replica anew. Thread-safe.
class Replicas {
 public:
  // A key for Update and Remove.
  uint64_t Add(const v1::Replica& replica, absl::Time now);
  // `reference` and `id` stay those of Add.
  void Update(uint64_t key, const v1::Replica& replica, absl::Time now);
  void Remove(uint64_t key);
  // In order of reference, address and id; empty `reference`: all.
  std::vector<v1::Replica> List(const std::string& reference) const;

 private:
  mutable std::mutex mutex_;
  uint64_t last_key_ = 0;
  std::map<uint64_t, v1::Replica> replicas_;
};

}  // namespace shiftadd::packaging

#endif  // SHIFTADD_SERVICES_PACKAGING_REPLICAS_H_
