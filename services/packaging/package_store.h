// The packager's own rows: packages, tags, provenance, pins.
#ifndef SHIFTADD_SERVICES_PACKAGING_PACKAGE_STORE_H_
#define SHIFTADD_SERVICES_PACKAGING_PACKAGE_STORE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace shiftadd::packaging {

struct PackageRow {
  std::string name;
  std::string digest;         // of the manifest
  std::string manifest_json;  // its bytes
  uint64_t bytes = 0;         // config and layers
  absl::Time publish_time;
};

struct TagRow {
  std::string name, tag, digest;
  std::string owner = {};  // read only; empty: nobody's
};

// Who moves a tag. What he makes, and what nobody owned, is his from then on.
struct TagMover {
  std::string name = {};  // empty: nobody was asked who he is
  bool any = true;        // others' tags too; they stay theirs
  bool give = false;      // but become `name`'s
};

// A manifest about the package `subject`: its provenance, or a signature.
struct ProvenanceRow {
  std::string name, subject, digest;
  uint64_t size = 0;
};

// Verbs are transactions. Thread-safe. ABORTED: the compare-and-swap lost; NOT_FOUND names what is
// missing; PERMISSION_DENIED names the tag's owner.
class PackageStore {
 public:
  virtual ~PackageStore() = default;

  // Adds the package and the manifests about it unless they are there, and points the tag at it.
  // `expected`: what the tag must point at now; empty: anything. Gives false if nothing changed.
  virtual absl::StatusOr<bool> Publish(const PackageRow& package, const std::string& tag,
                                       const std::vector<ProvenanceRow>& provenance,
                                       const std::string& expected, const TagMover& mover) = 0;
  // Points target at a package that `source_name` has; the package is then also target.name's, with
  // its provenance.
  virtual absl::Status MoveTag(const std::string& source_name, const TagRow& target,
                               const std::string& expected, const TagMover& mover) = 0;
  virtual absl::Status DeleteTag(const std::string& name, const std::string& tag) = 0;
  virtual absl::StatusOr<TagRow> GetTag(const std::string& name, const std::string& tag) = 0;
  // At most `limit` (0: all) in order of name and tag, those after (name, tag).
  virtual absl::StatusOr<std::vector<TagRow>> ListTags(const std::string& after_name,
                                                       const std::string& after_tag, int limit) = 0;

  virtual absl::StatusOr<PackageRow> GetPackage(const std::string& name,
                                                const std::string& digest) = 0;
  virtual absl::StatusOr<std::vector<PackageRow>> ListPackages() = 0;
  // Adds one more manifest about a package. NOT_FOUND if there is no such package. False if it was
  // there.
  virtual absl::StatusOr<bool> AddProvenance(const ProvenanceRow& row) = 0;
  // Oldest first.
  virtual absl::StatusOr<std::vector<ProvenanceRow>> ListProvenance(const std::string& name,
                                                                    const std::string& subject) = 0;
  // Packages that no tag names, that no live pin holds and that were published before `cutoff`.
  virtual absl::StatusOr<std::vector<PackageRow>> ListUnreferenced(absl::Time cutoff,
                                                                   absl::Time now) = 0;
  // Removes them, unless a tag names them again by now, and pins that have expired.
  virtual absl::Status DeletePackages(const std::vector<PackageRow>& packages, absl::Time now) = 0;

  // Sets the expiry of each (owner, digest).
  virtual absl::Status Pin(const std::string& owner, const std::vector<std::string>& digests,
                           absl::Time expire_time) = 0;
  virtual absl::Status Unpin(const std::string& owner) = 0;
  virtual absl::StatusOr<std::vector<std::string>> LivePins(absl::Time now) = 0;
};

// Opens or makes the SQLite file. FAILED_PRECONDITION: another packager has it open, or a newer
// version wrote it.
absl::StatusOr<std::unique_ptr<PackageStore>> OpenSqlitePackageStore(const std::string& path);

// A database of PostgreSQL (`url` as for sql::PostgresUrl), which coordinators may use too. Blobs
// are one packager's: `lock_path`, beside them, is what a second one finds locked
// (FAILED_PRECONDITION).
absl::StatusOr<std::unique_ptr<PackageStore>> OpenPostgresPackageStore(
    const std::string& url, const std::string& lock_path);

// A consistent copy of the file at `path`, also while a packager works with it. ALREADY_EXISTS if
// `copy` does.
absl::Status BackUpSqlitePackageStore(const std::string& path, const std::string& copy);

}  // namespace shiftadd::packaging

#endif  // SHIFTADD_SERVICES_PACKAGING_PACKAGE_STORE_H_
