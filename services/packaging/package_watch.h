// Follows a reference at a packager, as one of the replicas that it lists.
#ifndef SHIFTADD_SERVICES_PACKAGING_PACKAGE_WATCH_H_
#define SHIFTADD_SERVICES_PACKAGING_PACKAGE_WATCH_H_

#include <functional>
#include <memory>
#include <string>

#include "shiftadd/v1/package.pb.h"

namespace shiftadd {

// Keeps a WatchReference stream open on a thread of its own, and opens it again when it breaks; a
// packager that knows no such method is asked every few seconds. Thread-safe.
class PackageWatch {
 public:
  // Called on the watch's thread with what the reference names, at first and whenever that may have
  // changed; empty: nothing.
  using OnDigest = std::function<void(const std::string& digest)>;

  // `address`: host:port of the packager. `replica` says what to follow and what is held now.
  static std::unique_ptr<PackageWatch> Start(const std::string& address, const v1::Replica& replica,
                                             OnDigest on_digest);
  // Ends at once; `on_digest` is not called afterwards.
  virtual ~PackageWatch() = default;
  // Tells the packager what this replica is now; it hears the newest report when it can be reached.
  virtual void Report(const v1::Replica& replica) = 0;
};

}  // namespace shiftadd

#endif  // SHIFTADD_SERVICES_PACKAGING_PACKAGE_WATCH_H_
