// PackageStore on a sql::Database. Internal: use the openers of package_store.h.
#ifndef SHIFTADD_SERVICES_PACKAGING_SQL_PACKAGE_STORE_H_
#define SHIFTADD_SERVICES_PACKAGING_SQL_PACKAGE_STORE_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "services/packaging/package_store.h"
#include "services/store/sql.h"
#include "services/store/sqlite_db.h"

namespace shiftadd::packaging {

class SqlPackageStore : public PackageStore {
 public:
  // `lock`: kept as long as the store.
  SqlPackageStore(std::unique_ptr<sql::FileLock> lock, std::unique_ptr<sql::Database> db)
      : lock_(std::move(lock)), db_(std::move(db)) {}

  absl::StatusOr<bool> Publish(const PackageRow& package, const std::string& tag,
                               const std::vector<ProvenanceRow>& provenance,
                               const std::string& expected, const TagMover& mover) override;
  absl::StatusOr<bool> AddProvenance(const ProvenanceRow& row) override;
  absl::Status MoveTag(const std::string& source_name, const TagRow& target,
                       const std::string& expected, const TagMover& mover) override;
  absl::Status DeleteTag(const std::string& name, const std::string& tag) override;
  absl::StatusOr<TagRow> GetTag(const std::string& name, const std::string& tag) override;
  absl::StatusOr<std::vector<TagRow>> ListTags(const std::string& after_name,
                                               const std::string& after_tag, int limit) override;
  absl::StatusOr<PackageRow> GetPackage(const std::string& name,
                                        const std::string& digest) override;
  absl::StatusOr<std::vector<PackageRow>> ListPackages() override;
  absl::StatusOr<std::vector<ProvenanceRow>> ListProvenance(const std::string& name,
                                                            const std::string& subject) override;
  absl::StatusOr<std::vector<PackageRow>> ListUnreferenced(absl::Time cutoff,
                                                           absl::Time now) override;
  absl::Status DeletePackages(const std::vector<PackageRow>& packages, absl::Time now) override;
  absl::Status Pin(const std::string& owner, const std::vector<std::string>& digests,
                   absl::Time expire_time) override;
  absl::Status Unpin(const std::string& owner) override;
  absl::StatusOr<std::vector<std::string>> LivePins(absl::Time now) override;

 private:
  const std::unique_ptr<sql::FileLock> lock_;
  const std::unique_ptr<sql::Database> db_;
};

}  // namespace shiftadd::packaging

#endif  // SHIFTADD_SERVICES_PACKAGING_SQL_PACKAGE_STORE_H_
