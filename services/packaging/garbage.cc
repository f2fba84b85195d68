// CollectGarbage: marks from tags, provenance and pins; sweeps what is old enough.
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/base/logging.h"
#include "services/base/status_macros.h"
#include "services/packaging/manifest.h"
#include "services/packaging/package_format.h"
#include "services/packaging/packager.h"
#include "services/packaging/reference.h"

namespace shiftadd::packaging {
namespace {

// Everything that must stay.
class Marker {
 public:
  explicit Marker(BlobStore* blobs) : blobs_(blobs) {}

  // The blob, and if it is a manifest or index, what it names. A manifest that is there but cannot
  // be read is an error: what it names is unknown, so nothing may be deleted.
  absl::Status Mark(const std::string& digest, const std::string& media_type) {
    return MarkAll({{media_type, digest, 0, {}}});
  }
  absl::Status MarkNamedBy(const std::string& document) { return MarkAll(DescriptorsIn(document)); }

  void MarkAlone(const std::string& digest) { marked_.insert(digest); }
  bool Has(const std::string& digest) const { return marked_.count(digest) > 0; }

 private:
  // No recursion: users may publish indexes that name each other in chains of any length.
  absl::Status MarkAll(std::vector<Descriptor> open) {
    while (!open.empty()) {
      const Descriptor next = std::move(open.back());
      open.pop_back();
      if (!marked_.insert(next.digest).second || !NamesOthers(next.media_type)) continue;
      const absl::StatusOr<std::string> document = blobs_->Get(next.digest);
      if (absl::IsNotFound(document.status())) continue;
      if (!document.ok()) return document.status();
      for (Descriptor& named : DescriptorsIn(*document)) open.push_back(std::move(named));
    }
    return absl::OkStatus();
  }

  BlobStore* const blobs_;
  std::set<std::string> marked_;
};

using PackageKey = std::pair<std::string, std::string>;  // name, digest

}  // namespace

absl::StatusOr<GarbageReport> Packager::CollectGarbage(bool dry_run) {
  const std::unique_lock<std::shared_mutex> nobody_publishes(garbage_mutex_);
  const std::lock_guard<std::mutex> lock(tag_mutex_);
  const absl::Time now = Now(), cutoff = now - options_.grace;
  SA_ASSIGN_OR_RETURN(const auto doomed, store_->ListUnreferenced(cutoff, now));
  std::set<PackageKey> gone;
  std::set<std::string> gone_references;
  for (const PackageRow& package : doomed) {
    gone.insert({package.name, package.digest});
    gone_references.insert(absl::StrCat(package.name, ":", ReferrersTag(package.digest)));
  }

  Marker marker(blobs_);
  SA_ASSIGN_OR_RETURN(const auto packages, store_->ListPackages());
  for (const PackageRow& package : packages) {
    if (gone.count({package.name, package.digest}) > 0) continue;
    marker.MarkAlone(package.digest);
    SA_RETURN_IF_ERROR(marker.MarkNamedBy(package.manifest_json));
    SA_ASSIGN_OR_RETURN(const auto provenance,
                        store_->ListProvenance(package.name, package.digest));
    for (const ProvenanceRow& row : provenance) {
      SA_RETURN_IF_ERROR(marker.Mark(row.digest, kManifestMediaType));
    }
  }
  // Referrers' indexes, and whatever other tools copied into the layout.
  SA_ASSIGN_OR_RETURN(const auto tags, blobs_->ListTags());
  for (const auto& [reference, descriptor] : tags) {
    if (gone_references.count(reference) > 0) continue;
    SA_RETURN_IF_ERROR(
        marker.Mark(descriptor.value("digest", ""), descriptor.value("mediaType", "")));
  }
  SA_ASSIGN_OR_RETURN(const auto pins, store_->LivePins(now));
  for (const std::string& digest : pins) marker.MarkAlone(digest);

  // Rows first: if we end half way, the rest is garbage still, and no row names what is gone.
  if (!dry_run) {
    SA_RETURN_IF_ERROR(store_->DeletePackages(doomed, now));
    for (const std::string& reference : gone_references) {
      SA_RETURN_IF_ERROR(blobs_->DeleteTag(reference));
    }
  }
  GarbageReport report;
  SA_ASSIGN_OR_RETURN(const std::vector<BlobInfo> infos, blobs_->ListInfo());
  for (const BlobInfo& info : infos) {
    if (marker.Has(info.digest) || info.modified >= cutoff) continue;
    if (!dry_run) {
      SA_ASSIGN_OR_RETURN(const bool deleted, blobs_->DeleteIfOlder(info.digest, cutoff));
      if (!deleted) continue;
    }
    ++report.blobs;
    report.bytes += info.bytes;
  }
  if (!dry_run && options_.metrics != nullptr) {
    options_.metrics->gc_freed_blobs.Increment(static_cast<double>(report.blobs));
    options_.metrics->gc_freed_bytes.Increment(static_cast<double>(report.bytes));
  }
  spdlog::info("garbage: {} blobs, {} bytes{}", report.blobs, report.bytes,
               dry_run ? " would go" : " freed");
  return report;
}

}  // namespace shiftadd::packaging
