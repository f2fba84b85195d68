// The tables of a packager, and its stores on them.
#include <unistd.h>

#include "services/base/status_macros.h"
#include "services/packaging/sql_package_store.h"
#include "services/store/postgres_db.h"

namespace shiftadd::packaging {
namespace {

using sql::Session;
using sql::Statement;

// A package is a row per name: a registry's repositories share no tags either.
constexpr char kSqliteSchema[] = R"sql(
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
PRAGMA user_version = 1;
)sql";

// The header too: programs of before look at nothing else.
constexpr char kSqliteOwners[] = R"sql(
ALTER TABLE tags ADD COLUMN owner TEXT NOT NULL DEFAULT '';
PRAGMA user_version = 2;
)sql";

// Names are compared and sorted by their bytes, as SQLite does.
constexpr char kPostgresSchema[] = R"sql(
CREATE TABLE packages(
  name TEXT COLLATE "C" NOT NULL, digest TEXT COLLATE "C" NOT NULL, manifest TEXT NOT NULL,
  bytes BIGINT NOT NULL, publish_time BIGINT NOT NULL,
  PRIMARY KEY(name, digest));
CREATE TABLE tags(
  name TEXT COLLATE "C" NOT NULL, tag TEXT COLLATE "C" NOT NULL, digest TEXT COLLATE "C" NOT NULL,
  PRIMARY KEY(name, tag),
  FOREIGN KEY(name, digest) REFERENCES packages(name, digest));
CREATE INDEX tags_by_digest ON tags(name, digest);
CREATE TABLE provenance(
  id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name TEXT COLLATE "C" NOT NULL, subject TEXT COLLATE "C" NOT NULL,
  digest TEXT COLLATE "C" NOT NULL, size BIGINT NOT NULL,
  UNIQUE(name, subject, digest),
  FOREIGN KEY(name, subject) REFERENCES packages(name, digest) ON DELETE CASCADE);
CREATE TABLE pins(
  owner TEXT COLLATE "C" NOT NULL, digest TEXT COLLATE "C" NOT NULL, expire_time BIGINT NOT NULL,
  PRIMARY KEY(owner, digest));
CREATE INDEX pins_by_digest ON pins(digest);
)sql";

constexpr char kPostgresOwners[] =
    R"sql(ALTER TABLE tags ADD COLUMN owner TEXT COLLATE "C" NOT NULL DEFAULT '';)sql";

// Files of before kept their version in the header alone.
absl::Status AdoptHeaderVersion(Session& session) {
  int64_t header = 0;
  {
    Statement read(session, "PRAGMA user_version");
    SA_RETURN_IF_ERROR(read.Step().status());
    header = read.GetInt();
  }
  SA_RETURN_IF_ERROR(session.Script("CREATE TABLE IF NOT EXISTS schema_version (version BIGINT)"));
  Statement write(session,
                  "INSERT INTO schema_version SELECT ? WHERE NOT EXISTS "
                  "(SELECT 1 FROM schema_version)");
  return write.Int(header).Run();
}

}  // namespace

absl::StatusOr<std::unique_ptr<PackageStore>> OpenSqlitePackageStore(const std::string& path) {
  SA_ASSIGN_OR_RETURN(auto lock, sql::FileLock::Take(path));
  SA_ASSIGN_OR_RETURN(auto db, sql::Sqlite::Open(path, std::make_shared<SystemClock>()));
  SA_RETURN_IF_ERROR(Annotate(db->CheckPages(), path));
  SA_RETURN_IF_ERROR(Annotate(db->Write(AdoptHeaderVersion), path));
  SA_RETURN_IF_ERROR(
      Annotate(sql::Migrate(db.get(), "schema_version", {kSqliteSchema, kSqliteOwners}), path));
  return std::make_unique<SqlPackageStore>(std::move(lock), std::move(db));
}

absl::StatusOr<std::unique_ptr<PackageStore>> OpenPostgresPackageStore(
    const std::string& text, const std::string& lock_path) {
  SA_ASSIGN_OR_RETURN(auto lock, sql::FileLock::Take(lock_path));
  SA_ASSIGN_OR_RETURN(const sql::PostgresUrl url, sql::PostgresUrl::Parse(text));
  SA_ASSIGN_OR_RETURN(auto db, sql::Postgres::Connect(url, {}));
  SA_RETURN_IF_ERROR(
      Annotate(sql::Migrate(db.get(), "package_schema_version", {kPostgresSchema, kPostgresOwners}),
               url.shown()));
  return std::make_unique<SqlPackageStore>(std::move(lock), std::move(db));
}

absl::Status BackUpSqlitePackageStore(const std::string& path, const std::string& copy) {
  if (access(path.c_str(), R_OK) != 0) {
    return absl::NotFoundError(absl::StrCat(path, ": there is no database to copy"));
  }
  SA_ASSIGN_OR_RETURN(auto db, sql::Sqlite::Open(path, std::make_shared<SystemClock>()));
  return db->CopyTo(copy);
}

}  // namespace shiftadd::packaging
