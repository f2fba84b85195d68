#include <filesystem>

#include "services/base/ids.h"
#include "services/packaging/packaging_test_util.h"
#include "services/store/sqlite_db.h"

namespace shiftadd::packaging {

absl::StatusOr<std::unique_ptr<PackageStore>> OpenTestPackageStore(const std::string& dir) {
  return OpenSqlitePackageStore(dir + "/packager.sqlite");
}

namespace {

class SqlitePackagesTest : public testing::Test {
 protected:
  void SetUp() override { std::filesystem::create_directories(dir_); }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  absl::Status Script(const std::string& sql) const {
    auto db = sql::Sqlite::Open(path_, std::make_shared<SystemClock>());
    if (!db.ok()) return db.status();
    return (*db)->Write([&](sql::Session& session) { return session.Script(sql); });
  }

  const std::string dir_ = testing::TempDir() + NewId("packages");
  const std::string path_ = dir_ + "/packager.sqlite";
};

// Files of earlier programs have their version in the header alone.
TEST_F(SqlitePackagesTest, OpensWhatKeptItsVersionInTheHeader) {
  ASSERT_TRUE((*OpenSqlitePackageStore(path_))->Pin("job", {"sha256:a"}, absl::Now()).ok());
  ASSERT_TRUE(Script("DROP TABLE schema_version").ok());
  const auto store = OpenSqlitePackageStore(path_);
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ((*store)->LivePins(absl::UnixEpoch())->size(), 1u);
}

// Tags that were made before they had owners are nobody's.
TEST_F(SqlitePackagesTest, OpensWhatHasNoOwnersYet) {
  PackageRow package{"m", "sha256:a", "{}", 1, absl::UnixEpoch()};
  ASSERT_TRUE((*OpenSqlitePackageStore(path_))->Publish(package, "v1", {}, "", {}).ok());
  ASSERT_TRUE(Script("ALTER TABLE tags DROP COLUMN owner; DELETE FROM schema_version;"
                     "INSERT INTO schema_version VALUES (1); PRAGMA user_version = 1")
                  .ok());
  const auto store = OpenSqlitePackageStore(path_);
  ASSERT_TRUE(store.ok()) << store.status();
  const auto tag = (*store)->GetTag("m", "v1");
  ASSERT_TRUE(tag.ok()) << tag.status();
  EXPECT_EQ(tag->digest, "sha256:a");
  EXPECT_EQ(tag->owner, "");
}

TEST_F(SqlitePackagesTest, RefusesANewerSchema) {
  ASSERT_TRUE(OpenSqlitePackageStore(path_).ok());
  ASSERT_TRUE(Script("INSERT INTO schema_version VALUES (9)").ok());
  const auto opened = OpenSqlitePackageStore(path_);
  EXPECT_EQ(opened.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(opened.status().message().find("found version 9"), std::string::npos);
}

TEST_F(SqlitePackagesTest, ABackUpIsMadeWhileThePackagerWorks) {
  const auto store = OpenSqlitePackageStore(path_);
  ASSERT_TRUE((*store)->Pin("job", {"sha256:a"}, absl::Now()).ok());
  const std::string copy = dir_ + "/copy.sqlite";
  ASSERT_TRUE(BackUpSqlitePackageStore(path_, copy).ok());
  EXPECT_EQ(BackUpSqlitePackageStore(path_, copy).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(BackUpSqlitePackageStore(dir_ + "/none", copy).code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE((*store)->Unpin("job").ok());
  const auto restored = OpenSqlitePackageStore(copy);
  ASSERT_TRUE(restored.ok()) << restored.status();
  EXPECT_EQ((*restored)->LivePins(absl::UnixEpoch())->size(), 1u);
}

}  // namespace
}  // namespace shiftadd::packaging
