// The packager without its gRPC: publishes, names, finds and collects packages.
#ifndef SHIFTADD_SERVICES_PACKAGING_PACKAGER_H_
#define SHIFTADD_SERVICES_PACKAGING_PACKAGER_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "services/base/clock.h"
#include "services/blob/blob_store.h"
#include "services/packaging/package_store.h"
#include "services/packaging/packager_metrics.h"
#include "services/packaging/publish_check.h"
#include "services/store/change_signal.h"

namespace shiftadd::packaging {

struct PackageInfo {
  std::string name, tag, digest;  // `tag` is empty if it was asked for by digest
  std::string owner = {};         // of the tag; empty: nobody's
  uint64_t bytes = 0;             // config and layers
  absl::Time publish_time;
  Descriptor config;
  std::vector<Descriptor> layers;
};

// With the documents.
struct PackageDetails {
  PackageInfo info;
  std::string config_json, manifest_json;
  std::string provenance_json;                                 // the newest; may be empty
  std::vector<std::string> signatures_json, evaluations_json;  // oldest first
};

struct PackagePage {
  std::vector<PackageInfo> packages;
  std::string next_page_token;  // empty: the end
};

struct GarbageReport {
  uint64_t blobs = 0, bytes = 0;
};

struct PackagerOptions {
  // Blobs Put, and packages published, less long ago are never collected: their job may be about to
  // name them.
  absl::Duration grace = absl::Hours(1);
  const Clock* clock = nullptr;        // null: the system's
  PackagerMetrics* metrics = nullptr;  // may be null
  // Publish reads every layer and compares its digest: for stores on a disk of one's own. A layer
  // that was damaged is deleted, so that it counts as missing and can be made again.
  bool verify_layers = false;
  // Tests: called at each named step of Publish; an error ends it there, as a crash would.
  std::function<absl::Status(const char* step)> fail_at;
};

// Thread-safe. Status codes as package.proto says. Publishing writes blobs, then the manifest, then
// the row (the commit), then index.json, which is only a mirror for OCI tools: Start makes it agree
// with the rows again.
class Packager {
 public:
  // The stores must outlive it.
  static absl::StatusOr<std::unique_ptr<Packager>> Start(PackageStore* store, BlobStore* blobs,
                                                         const PackagerOptions& options);

  absl::StatusOr<PackageInfo> Publish(const PublishSpec& spec);
  absl::StatusOr<PackageDetails> Get(const std::string& reference);
  // `page_size` 0: 50; at most 100. Tags in order of name and tag.
  // Stores a JSON object of `media_type` (a signature, an evaluation, or provenance) as a manifest
  // about the package, and gives the manifest's digest.
  absl::StatusOr<std::string> Attach(const std::string& reference, const std::string& media_type,
                                     const std::string& document_json);
  absl::StatusOr<PackagePage> List(int page_size, const std::string& page_token);
  absl::StatusOr<std::string> Resolve(const std::string& reference);
  absl::StatusOr<PackageInfo> Tag(const std::string& source, const std::string& target,
                                  const std::string& expected_digest, const TagMover& mover = {});
  absl::Status Delete(const std::string& reference);
  absl::StatusOr<GarbageReport> CollectGarbage(bool dry_run);
  // NOT_FOUND if one of the blobs is not there; nothing is pinned then. InfiniteFuture: 7 days from
  // now.
  absl::Status Pin(const std::string& owner, const std::vector<std::string>& digests,
                   absl::Time expire_time);
  absl::Status Unpin(const std::string& owner);

  // Waits for a tag that was moved, made or removed since an earlier call gave `seen` (0 at first:
  // returns at once), for `timeout`, or until EndWaits.
  uint64_t AwaitTagChange(uint64_t seen, absl::Duration timeout);
  // Every wait returns once, as if a tag had changed.
  void WakeWaits() { tag_changes_.Announce(); }
  // Ends every wait, now and later: the daemon stops.
  void EndWaits();
  bool waits_ended() const { return waits_ended_; }

  BlobStore* blobs() { return blobs_; }
  absl::Time Now() const;
  // Sets the gauges.
  void RefreshMetrics();

 private:
  Packager(PackageStore* store, BlobStore* blobs, const PackagerOptions& options);

  absl::Status Reach(const char* step) const;
  absl::Status CheckBlobs(const std::vector<Descriptor>& layers);
  absl::StatusOr<bool> IsSound(const std::string& digest, uint64_t size);
  absl::StatusOr<Descriptor> PutDocument(const std::string& media_type, const std::string& text);
  absl::StatusOr<ProvenanceRow> PutReferrer(const PackageRow& package,
                                            const std::string& media_type, const std::string& json);
  // Of everything that `spec` says about the package.
  absl::StatusOr<std::vector<ProvenanceRow>> PutReferrers(const PackageRow& package,
                                                          const PublishSpec& spec);
  // Brings index.json in line with the rows, for one tag or one package's referrers, or for
  // everything.
  absl::Status MirrorTag(const TagRow& tag);
  absl::Status MirrorReferrers(const std::string& name, const std::string& digest);
  absl::Status Reconcile();
  // `tag`: by which it was found; only its digest is set if by none.
  absl::StatusOr<PackageRow> Find(const std::string& reference, TagRow* tag);

  PackageStore* const store_;
  BlobStore* const blobs_;
  const PackagerOptions options_;
  // Shared: whoever writes blobs that rows do not name yet. Exclusive: the collector.
  std::shared_mutex garbage_mutex_;
  // Rows and index.json change together.
  std::mutex tag_mutex_;
  ChangeSignal tag_changes_;
  std::atomic<bool> waits_ended_{false};
};

}  // namespace shiftadd::packaging

#endif  // SHIFTADD_SERVICES_PACKAGING_PACKAGER_H_
