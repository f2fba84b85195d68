#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "services/packaging/package_store.h"
#include "services/store/sqlite_db.h"

namespace shiftadd::packaging {
namespace {

using sqlite::Database;
using sqlite::Statement;
using sqlite::Transaction;

constexpr int kSchemaVersion = 1;

// A package is a row per name: a registry's repositories share no tags either.
constexpr char kSchema[] = R"sql(
CREATE TABLE packages(
  name TEXT NOT NULL, digest TEXT NOT NULL, manifest TEXT NOT NULL, bytes INTEGER NOT NULL,
  publish_time INTEGER NOT NULL,
  PRIMARY KEY(name, digest)) STRICT;
CREATE TABLE tags(
  name TEXT NOT NULL, tag TEXT NOT NULL, digest TEXT NOT NULL,
  PRIMARY KEY(name, tag),
  FOREIGN KEY(name, digest) REFERENCES packages(name, digest)) STRICT;
CREATE INDEX tags_by_digest ON tags(name, digest);
CREATE TABLE provenance(
  id INTEGER PRIMARY KEY, name TEXT NOT NULL, subject TEXT NOT NULL, digest TEXT NOT NULL,
  size INTEGER NOT NULL,
  UNIQUE(name, subject, digest),
  FOREIGN KEY(name, subject) REFERENCES packages(name, digest) ON DELETE CASCADE) STRICT;
CREATE TABLE pins(
  owner TEXT NOT NULL, digest TEXT NOT NULL, expire_time INTEGER NOT NULL,
  PRIMARY KEY(owner, digest)) STRICT;
CREATE INDEX pins_by_digest ON pins(digest);
)sql";

absl::Status Migrate(Database* db, const std::string& path) {
  SA_ASSIGN_OR_RETURN(const auto transaction, Transaction::Begin(db));
  int64_t version = 0;
  {
    Statement statement(db->get(), "PRAGMA user_version");
    SA_RETURN_IF_ERROR(statement.Step().status());
    version = statement.GetInt();
  }
  if (version > kSchemaVersion) {
    return absl::FailedPreconditionError(absl::StrCat(path, ": schema version: expected at most ",
                                                      kSchemaVersion, ", found ", version,
                                                      ": a newer shiftadd wrote it"));
  }
  if (version == 0) {
    SA_RETURN_IF_ERROR(db->Execute(kSchema));
    SA_RETURN_IF_ERROR(db->Execute(absl::StrCat("PRAGMA user_version = ", kSchemaVersion)));
  }
  return transaction->Commit();
}

PackageRow ReadPackage(Statement* s) {
  PackageRow row;
  row.name = s->GetText();
  row.digest = s->GetText();
  row.manifest_json = s->GetText();
  row.bytes = static_cast<uint64_t>(s->GetInt());
  row.publish_time = absl::FromUnixMicros(s->GetInt());
  return row;
}

class SqliteStore : public PackageStore {
 public:
  SqliteStore(std::unique_ptr<sqlite::FileLock> lock, std::unique_ptr<Database> db)
      : lock_(std::move(lock)), db_(std::move(db)) {}

  absl::StatusOr<bool> Publish(const PackageRow& package, const std::string& tag,
                               const ProvenanceRow& provenance,
                               const std::string& expected) override {
    const std::lock_guard<std::mutex> guard(mutex_);
    SA_ASSIGN_OR_RETURN(const auto transaction, Transaction::Begin(db_.get()));
    SA_RETURN_IF_ERROR(Compare({package.name, tag, package.digest}, expected));
    SA_RETURN_IF_ERROR(Insert(package));
    bool changed = db_->Changes() > 0;
    if (!provenance.digest.empty()) {
      SA_RETURN_IF_ERROR(Insert(provenance));
      changed = db_->Changes() > 0 || changed;
    }
    SA_ASSIGN_OR_RETURN(const bool moved, SetTag({package.name, tag, package.digest}));
    SA_RETURN_IF_ERROR(transaction->Commit());
    return changed || moved;
  }

  absl::Status MoveTag(const std::string& source_name, const TagRow& target,
                       const std::string& expected) override {
    const std::lock_guard<std::mutex> guard(mutex_);
    SA_ASSIGN_OR_RETURN(const auto transaction, Transaction::Begin(db_.get()));
    SA_ASSIGN_OR_RETURN(PackageRow package, FindPackage(source_name, target.digest));
    SA_RETURN_IF_ERROR(Compare(target, expected));
    if (source_name != target.name) {
      SA_ASSIGN_OR_RETURN(const auto provenance, FindProvenance(source_name, target.digest));
      package.name = target.name;
      SA_RETURN_IF_ERROR(Insert(package));
      for (ProvenanceRow row : provenance) {
        row.name = target.name;
        SA_RETURN_IF_ERROR(Insert(row));
      }
    }
    SA_RETURN_IF_ERROR(SetTag(target).status());
    return transaction->Commit();
  }

  absl::Status DeleteTag(const std::string& name, const std::string& tag) override {
    const std::lock_guard<std::mutex> guard(mutex_);
    Statement s(db_->get(), "DELETE FROM tags WHERE name = ? AND tag = ?");
    SA_RETURN_IF_ERROR(s.Text(name).Text(tag).Run());
    return db_->Changes() > 0 ? absl::OkStatus() : NoTag(name, tag);
  }

  absl::StatusOr<std::string> GetTag(const std::string& name, const std::string& tag) override {
    const std::lock_guard<std::mutex> guard(mutex_);
    SA_ASSIGN_OR_RETURN(std::string digest, FindTag(name, tag));
    if (digest.empty()) return NoTag(name, tag);
    return digest;
  }

  absl::StatusOr<std::vector<TagRow>> ListTags(const std::string& after_name,
                                               const std::string& after_tag, int limit) override {
    const std::lock_guard<std::mutex> guard(mutex_);
    Statement s(db_->get(),
                "SELECT name, tag, digest FROM tags WHERE (name, tag) > (?, ?) "
                "ORDER BY name, tag LIMIT ?");
    s.Text(after_name).Text(after_tag).Int(limit > 0 ? limit : -1);
    std::vector<TagRow> rows;
    for (;;) {
      SA_ASSIGN_OR_RETURN(const bool more, s.Step());
      if (!more) return rows;
      TagRow row;
      row.name = s.GetText();
      row.tag = s.GetText();
      row.digest = s.GetText();
      rows.push_back(std::move(row));
    }
  }

  absl::StatusOr<PackageRow> GetPackage(const std::string& name,
                                        const std::string& digest) override {
    const std::lock_guard<std::mutex> guard(mutex_);
    return FindPackage(name, digest);
  }

  absl::StatusOr<std::vector<PackageRow>> ListPackages() override {
    const std::lock_guard<std::mutex> guard(mutex_);
    Statement s(db_->get(),
                "SELECT name, digest, manifest, bytes, publish_time FROM packages "
                "ORDER BY name, digest");
    return ReadPackages(&s);
  }

  absl::StatusOr<std::vector<ProvenanceRow>> ListProvenance(const std::string& name,
                                                            const std::string& subject) override {
    const std::lock_guard<std::mutex> guard(mutex_);
    return FindProvenance(name, subject);
  }

  absl::StatusOr<std::vector<PackageRow>> ListUnreferenced(absl::Time cutoff,
                                                           absl::Time now) override {
    const std::lock_guard<std::mutex> guard(mutex_);
    Statement s(db_->get(),
                "SELECT name, digest, manifest, bytes, publish_time FROM packages p "
                "WHERE publish_time < ? "
                "AND NOT EXISTS(SELECT 1 FROM tags t WHERE t.name = p.name AND t.digest = p.digest)"
                "AND NOT EXISTS(SELECT 1 FROM pins i WHERE i.digest = p.digest "
                "               AND i.expire_time > ?) "
                "ORDER BY name, digest");
    s.Int(absl::ToUnixMicros(cutoff)).Int(absl::ToUnixMicros(now));
    return ReadPackages(&s);
  }

  absl::Status DeletePackages(const std::vector<PackageRow>& packages, absl::Time now) override {
    const std::lock_guard<std::mutex> guard(mutex_);
    SA_ASSIGN_OR_RETURN(const auto transaction, Transaction::Begin(db_.get()));
    for (const PackageRow& package : packages) {
      Statement s(db_->get(),
                  "DELETE FROM packages WHERE name = ?1 AND digest = ?2 AND NOT EXISTS("
                  "SELECT 1 FROM tags t WHERE t.name = ?1 AND t.digest = ?2)");
      SA_RETURN_IF_ERROR(s.Text(package.name).Text(package.digest).Run());
    }
    Statement s(db_->get(), "DELETE FROM pins WHERE expire_time <= ?");
    SA_RETURN_IF_ERROR(s.Int(absl::ToUnixMicros(now)).Run());
    return transaction->Commit();
  }

  absl::Status Pin(const std::string& owner, const std::vector<std::string>& digests,
                   absl::Time expire_time) override {
    const std::lock_guard<std::mutex> guard(mutex_);
    SA_ASSIGN_OR_RETURN(const auto transaction, Transaction::Begin(db_.get()));
    for (const std::string& digest : digests) {
      Statement s(db_->get(),
                  "INSERT INTO pins(owner, digest, expire_time) VALUES(?, ?, ?) "
                  "ON CONFLICT(owner, digest) DO UPDATE SET expire_time = excluded.expire_time");
      SA_RETURN_IF_ERROR(s.Text(owner).Text(digest).Int(absl::ToUnixMicros(expire_time)).Run());
    }
    return transaction->Commit();
  }

  absl::Status Unpin(const std::string& owner) override {
    const std::lock_guard<std::mutex> guard(mutex_);
    Statement s(db_->get(), "DELETE FROM pins WHERE owner = ?");
    return s.Text(owner).Run();
  }

  absl::StatusOr<std::vector<std::string>> LivePins(absl::Time now) override {
    const std::lock_guard<std::mutex> guard(mutex_);
    Statement s(db_->get(),
                "SELECT DISTINCT digest FROM pins WHERE expire_time > ? ORDER BY digest");
    s.Int(absl::ToUnixMicros(now));
    std::vector<std::string> digests;
    for (;;) {
      SA_ASSIGN_OR_RETURN(const bool more, s.Step());
      if (!more) return digests;
      digests.push_back(s.GetText());
    }
  }

 private:
  static absl::Status NoTag(const std::string& name, const std::string& tag) {
    return absl::NotFoundError(absl::StrCat("no package ", name, ":", tag));
  }

  // Empty if there is none.
  absl::StatusOr<std::string> FindTag(const std::string& name, const std::string& tag) {
    Statement s(db_->get(), "SELECT digest FROM tags WHERE name = ? AND tag = ?");
    SA_ASSIGN_OR_RETURN(const bool found, s.Text(name).Text(tag).Step());
    return found ? s.GetText() : std::string();
  }

  absl::StatusOr<PackageRow> FindPackage(const std::string& name, const std::string& digest) {
    Statement s(db_->get(),
                "SELECT name, digest, manifest, bytes, publish_time FROM packages "
                "WHERE name = ? AND digest = ?");
    SA_ASSIGN_OR_RETURN(const bool found, s.Text(name).Text(digest).Step());
    if (!found) return absl::NotFoundError(absl::StrCat("no package ", name, "@", digest));
    return ReadPackage(&s);
  }

  absl::StatusOr<std::vector<ProvenanceRow>> FindProvenance(const std::string& name,
                                                            const std::string& subject) {
    Statement s(db_->get(),
                "SELECT digest, size FROM provenance WHERE name = ? AND subject = ? ORDER BY id");
    s.Text(name).Text(subject);
    std::vector<ProvenanceRow> rows;
    for (;;) {
      SA_ASSIGN_OR_RETURN(const bool more, s.Step());
      if (!more) return rows;
      ProvenanceRow row{name, subject, s.GetText(), 0};
      row.size = static_cast<uint64_t>(s.GetInt());
      rows.push_back(std::move(row));
    }
  }

  static absl::StatusOr<std::vector<PackageRow>> ReadPackages(Statement* s) {
    std::vector<PackageRow> rows;
    for (;;) {
      SA_ASSIGN_OR_RETURN(const bool more, s->Step());
      if (!more) return rows;
      rows.push_back(ReadPackage(s));
    }
  }

  absl::Status Compare(const TagRow& tag, const std::string& expected) {
    if (expected.empty()) return absl::OkStatus();
    SA_ASSIGN_OR_RETURN(const std::string found, FindTag(tag.name, tag.tag));
    if (found == expected) return absl::OkStatus();
    return absl::AbortedError(absl::StrCat("tag ", tag.name, ":", tag.tag, ": expected ", expected,
                                           ", found ", found.empty() ? "no such tag" : found));
  }

  absl::Status Insert(const PackageRow& row) {
    Statement s(db_->get(),
                "INSERT INTO packages(name, digest, manifest, bytes, publish_time) "
                "VALUES(?, ?, ?, ?, ?) ON CONFLICT DO NOTHING");
    return s.Text(row.name)
        .Text(row.digest)
        .Text(row.manifest_json)
        .Int(static_cast<int64_t>(row.bytes))
        .Int(absl::ToUnixMicros(row.publish_time))
        .Run();
  }

  absl::Status Insert(const ProvenanceRow& row) {
    Statement s(db_->get(),
                "INSERT INTO provenance(name, subject, digest, size) VALUES(?, ?, ?, ?) "
                "ON CONFLICT DO NOTHING");
    return s.Text(row.name)
        .Text(row.subject)
        .Text(row.digest)
        .Int(static_cast<int64_t>(row.size))
        .Run();
  }

  // False if it points there already.
  absl::StatusOr<bool> SetTag(const TagRow& row) {
    Statement s(db_->get(),
                "INSERT INTO tags(name, tag, digest) VALUES(?, ?, ?) ON CONFLICT(name, tag) "
                "DO UPDATE SET digest = excluded.digest WHERE digest <> excluded.digest");
    SA_RETURN_IF_ERROR(s.Text(row.name).Text(row.tag).Text(row.digest).Run());
    return db_->Changes() > 0;
  }

  std::mutex mutex_;
  std::unique_ptr<sqlite::FileLock> lock_;
  std::unique_ptr<Database> db_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<PackageStore>> OpenSqlitePackageStore(const std::string& path) {
  SA_ASSIGN_OR_RETURN(auto lock, sqlite::FileLock::Take(path));
  SA_ASSIGN_OR_RETURN(auto db, Database::Open(path));
  SA_RETURN_IF_ERROR(Migrate(db.get(), path));
  return std::unique_ptr<PackageStore>(new SqliteStore(std::move(lock), std::move(db)));
}

}  // namespace shiftadd::packaging
