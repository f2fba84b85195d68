// Keeps a served model at the version that its reference names.
#ifndef SHIFTADD_WORKER_SERVE_MODEL_FOLLOWER_H_
#define SHIFTADD_WORKER_SERVE_MODEL_FOLLOWER_H_

#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "worker/serve/load_retry.h"
#include "worker/serve/model_loader.h"
#include "worker/serve/model_registry.h"
#include "worker/serve/package_source.h"
#include "worker/serve/server_metrics.h"

namespace shiftadd {

// How a version takes another's place. kBeside: it is loaded while the old one serves. kDrain: the
// old one ends its requests and goes first, new requests wait meanwhile. kAuto: beside if memory
// allows.
enum class Replacing { kAuto, kBeside, kDrain };

// How the packager is told to reach this process.
struct ReplicaAddress {
  std::string id;
  std::string http, grpc;  // host:port
};

struct FollowOptions {
  LoadOptions load;
  Replacing replacing = Replacing::kAuto;
  absl::Duration drain = absl::Seconds(30);  // how long an old version may go on when it must go
  absl::Duration poll = absl::Seconds(2);    // of an OCI layout, which nobody announces changes of
  // After a failed load the same version is tried again, at first after this, then after twice as
  // long each time, up to 5 minutes.
  absl::Duration retry = absl::Seconds(5);
  ReplicaAddress address;
};

// Has a thread that loads, and with a packager one that listens to it (WatchReference), by which
// the packager also lists this replica. A version that cannot be loaded changes nothing but the
// model's state in the registry, the log, and shiftadd_package_loads_total.
class ModelFollower {
 public:
  // The registry must hold a version of `location` already. `registry` and `metrics` must outlive
  // it.
  ModelFollower(const PackageLocation& location, const FollowOptions& options,
                ModelRegistry* registry, ServerMetrics* metrics);
  // Waits for a load that is under way.
  ~ModelFollower();

  // The process is about to end: the packager is told, and no more versions are loaded.
  void Retire();

 private:
  class Source;

  void Wanted(const std::string& digest);
  void Loop();
  // Brings the registry to version `digest`, or says there why not.
  void MoveTo(const std::string& digest);
  absl::StatusOr<ModelPtr> LoadNext(const PackageLocation& next);
  absl::StatusOr<ModelPtr> LoadAfterDrain(const PackageLocation& next);
  // `error` empty: all is well.
  void Note(const std::string& state, const std::string& error);
  void Report();
  void MoveToNothing(const ModelState& now);
  void Failed(const std::string& digest, const absl::Status& status);
  ModelState Now() const;

  const PackageLocation location_;  // its reference is name:tag or name@digest
  const FollowOptions options_;
  ModelRegistry* const registry_;
  ServerMetrics* const metrics_;

  std::mutex mutex_;
  std::condition_variable changed_;
  bool stop_ = false;
  bool retired_ = false;
  bool heard_ = false;                 // something since the loop looked
  std::optional<std::string> wanted_;  // what the reference names; "": nothing; unset: not known
  LoadRetry retry_;                    // the loop's
  std::unique_ptr<Source> source_;
  std::thread thread_;
};

// Waits until nobody but the caller and `others` more hold the version. False after `timeout`.
bool AwaitUnused(const ModelPtr& version, int others, absl::Duration timeout);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_SERVE_MODEL_FOLLOWER_H_
