#include <filesystem>
#include <map>

#include "services/base/ids.h"
#include "services/packaging/packaging_test_util.h"
#include "services/store/job_store.h"
#include "services/store/postgres_db.h"
#include "services/store/postgres_server.h"

namespace shiftadd::packaging {
namespace {

// The database of one test's folder.
const std::string& DatabaseOf(const std::string& dir) {
  static auto* const known = new std::map<std::string, std::string>();
  std::string& url = (*known)[dir];
  if (url.empty()) url = PostgresServer::Shared().NewDatabase();
  return url;
}

}  // namespace

absl::StatusOr<std::unique_ptr<PackageStore>> OpenTestPackageStore(const std::string& dir) {
  return OpenPostgresPackageStore(DatabaseOf(dir), dir + "/packager");
}

namespace {

class PostgresPackagesTest : public testing::Test {
 protected:
  void SetUp() override { std::filesystem::create_directories(dir_); }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  absl::StatusOr<std::unique_ptr<PackageStore>> Open() const {
    return OpenPostgresPackageStore(url_, dir_ + "/packager");
  }
  absl::Status Script(const std::string& sql) const {
    auto db = sql::Postgres::Connect(*sql::PostgresUrl::Parse(url_), {});
    if (!db.ok()) return db.status();
    return (*db)->Write([&](sql::Session& session) { return session.Script(sql); });
  }

  const std::string dir_ = testing::TempDir() + NewId("packages");
  const std::string url_ = PostgresServer::Shared().NewDatabase();
};

// Tags that were made before they had owners are nobody's.
TEST_F(PostgresPackagesTest, OpensWhatHasNoOwnersYet) {
  const PackageRow package{"m", "sha256:a", "{}", 1, absl::UnixEpoch()};
  ASSERT_TRUE((*Open())->Publish(package, "v1", {}, "", {}).ok());
  const absl::Status older =
      Script("ALTER TABLE tags DROP COLUMN owner; UPDATE package_schema_version SET version = 1");
  ASSERT_TRUE(older.ok()) << older;
  const auto store = Open();
  ASSERT_TRUE(store.ok()) << store.status();
  const auto tag = (*store)->GetTag("m", "v1");
  ASSERT_TRUE(tag.ok()) << tag.status();
  EXPECT_EQ(tag->digest, "sha256:a");
  EXPECT_EQ(tag->owner, "");
}

TEST_F(PostgresPackagesTest, RefusesANewerSchema) {
  ASSERT_TRUE(Open().ok());
  ASSERT_TRUE(Script("UPDATE package_schema_version SET version = 9").ok());
  const auto opened = Open();
  EXPECT_EQ(opened.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(opened.status().message().find("found version 9"), std::string::npos)
      << opened.status();
}

// One database holds the tables of both, and each has a version of its own.
TEST_F(PostgresPackagesTest, SharesItsDatabaseWithTheJobs) {
  ASSERT_TRUE(Open().ok());
  EXPECT_TRUE(OpenPostgresJobStore(url_).ok());
  EXPECT_TRUE(Open().ok());
}

}  // namespace
}  // namespace shiftadd::packaging
