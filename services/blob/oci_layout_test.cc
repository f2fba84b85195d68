// The directory store: conformance, and what only a directory can get wrong.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "services/base/digest.h"
#include "services/blob/blob_store_conformance.h"

namespace shiftadd {
namespace {

namespace fs = std::filesystem;
using absl::StatusCode;
using nlohmann::json;
using testing::HasSubstr;

INSTANTIATE_TEST_SUITE_P(OciLayout, BlobStoreConformance,
                         testing::Values(BlobStoreFactory{
                             "OciLayout",
                             [](const std::string& dir) { return OpenOciLayout(dir); }}),
                         [](const auto& info) { return info.param.name; });

void WriteFile(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
}

std::string ReadFile(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

int FilesUnder(const std::string& dir) {
  int count = 0;
  for (const auto& entry : fs::recursive_directory_iterator(dir)) count += entry.is_regular_file();
  return count;
}

class OciLayoutTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "/layout-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    dir_ = pattern;
    store_ = OpenOciLayout(dir_).value();
  }
  void TearDown() override { fs::remove_all(dir_); }

  std::string PathOf(const std::string& digest) const {
    return dir_ + "/blobs/sha256/" + digest.substr(7);
  }

  std::string dir_;
  std::unique_ptr<BlobStore> store_;
};

TEST_F(OciLayoutTest, IsAnImageLayout) {
  EXPECT_EQ(json::parse(ReadFile(dir_ + "/oci-layout")), json({{"imageLayoutVersion", "1.0.0"}}));
  const std::string digest = store_->Put("m").value();
  ASSERT_TRUE(
      store_->PutTag("m:latest", {{"mediaType", "t"}, {"digest", digest}, {"size", 1}}).ok());
  const json index = json::parse(ReadFile(dir_ + "/index.json"));
  EXPECT_EQ(index["schemaVersion"], 2);
  EXPECT_EQ(index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"], "m:latest");
  EXPECT_EQ(ReadFile(PathOf(digest)), "m");
}

TEST_F(OciLayoutTest, ADamagedBlobIsDataLossNamingTheFileAndPutMendsIt) {
  const std::string digest = store_->Put("precious").value();
  for (const char* damage : {"previous", "prec", ""}) {
    WriteFile(PathOf(digest), damage);
    const auto got = store_->Get(digest);
    EXPECT_EQ(got.status().code(), StatusCode::kDataLoss);
    EXPECT_THAT(std::string(got.status().message()), HasSubstr(PathOf(digest)));
    EXPECT_EQ(store_->Put("precious").value(), digest);
    EXPECT_EQ(store_->Get(digest).value(), "precious");
  }
  WriteFile(PathOf(digest), "previous");
  auto writer = store_->NewWriter().value();
  ASSERT_TRUE(writer->Append("precious").ok());
  ASSERT_TRUE(writer->Commit(digest).ok());
  EXPECT_EQ(store_->Get(digest).value(), "precious");
}

TEST_F(OciLayoutTest, AFolderThatIsAwayIsUnavailableAndNothingIsMadeInItsPlace) {
  const std::string digest = store_->Put("abc").value();
  const std::string away = dir_ + ".away";
  fs::rename(dir_, away);
  // Nothing there, and the empty folder that a disk is mounted on.
  for (const bool folder : {false, true}) {
    if (folder) fs::create_directory(dir_);
    EXPECT_EQ(store_->Put("def").status().code(), StatusCode::kUnavailable);
    EXPECT_EQ(store_->NewWriter().status().code(), StatusCode::kUnavailable);
    EXPECT_EQ(store_->Get(digest).status().code(), StatusCode::kUnavailable);
    EXPECT_EQ(store_->Stat(digest).status().code(), StatusCode::kUnavailable);
    EXPECT_EQ(store_->Renew(digest).status().code(), StatusCode::kUnavailable);
    EXPECT_EQ(store_->ReadRange(digest, 0, 1).status().code(), StatusCode::kUnavailable);
    EXPECT_EQ(store_->Delete(digest).code(), StatusCode::kUnavailable);
    EXPECT_EQ(store_->ListInfo().status().code(), StatusCode::kUnavailable);
    EXPECT_EQ(store_->PutScratch("job-1", "def").status().code(), StatusCode::kUnavailable);
    EXPECT_EQ(store_->GetScratch("job-1", digest).status().code(), StatusCode::kUnavailable);
    EXPECT_EQ(store_->DeleteScratch("job-1").code(), StatusCode::kUnavailable);
    EXPECT_EQ(folder ? FilesUnder(dir_) : static_cast<int>(fs::exists(dir_)), 0);
  }
  fs::remove(dir_);
  fs::rename(away, dir_);
  EXPECT_EQ(store_->Get(digest).value(), "abc");
}

TEST_F(OciLayoutTest, NoSpaceLeavesNothing) {
  const int before = FilesUnder(dir_);
  // A file size limit stands for a full disk: both fail in write(2), half way.
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit old{};
  getrlimit(RLIMIT_FSIZE, &old);
  const rlimit small = {4096, old.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  const absl::Status put = store_->Put(std::string(10'000, 'x')).status();
  const absl::Status scratch = store_->PutScratch("job", std::string(10'000, 'x')).status();
  auto writer = store_->NewWriter().value();
  const absl::Status append = writer->Append(std::string(10'000, 'x'));
  writer.reset();
  setrlimit(RLIMIT_FSIZE, &old);
  EXPECT_EQ(put.code(), StatusCode::kResourceExhausted) << put;
  EXPECT_EQ(scratch.code(), StatusCode::kResourceExhausted) << scratch;
  EXPECT_EQ(append.code(), StatusCode::kResourceExhausted) << append;
  for (const absl::Status& status : {put, scratch, append}) {  // which file system it is
    EXPECT_THAT(std::string(status.message()), HasSubstr(dir_ + "/"));
    EXPECT_THAT(std::string(status.message()), HasSubstr(": File too large"));
  }
  EXPECT_EQ(FilesUnder(dir_), before + 1);  // the lock file
}

TEST_F(OciLayoutTest, ADamagedIndexIsDataLossAndStays) {
  const json d = {{"mediaType", "t"}, {"digest", Sha256Digest("a")}, {"size", 1}};
  // Deeper than a stack can follow: copying a document recurses.
  constexpr size_t kDeep = 200'000;
  const std::string deep =
      R"({"manifests":[{"x":)" + std::string(kDeep, '[') + std::string(kDeep, ']') + "}]}";
  for (const std::string& text : std::vector<std::string>{
           "", "{", "[]", "{}", R"({"manifests":{}})", R"({"manifests":[1]})", deep}) {
    WriteFile(dir_ + "/index.json", text);
    EXPECT_EQ(store_->ListTags().status().code(), StatusCode::kDataLoss) << text.substr(0, 40);
    const absl::Status put = store_->PutTag("m:latest", d);
    EXPECT_EQ(put.code(), StatusCode::kDataLoss);
    EXPECT_THAT(std::string(put.message()), HasSubstr("index.json"));
    EXPECT_EQ(ReadFile(dir_ + "/index.json"), text);
  }
}

TEST_F(OciLayoutTest, ADescriptorThatIsNoneIsNamed) {
  const json good = {{"mediaType", "t"}, {"digest", Sha256Digest("a")}, {"size", 1}};
  const auto with = [&](const char* field, const json& value) {
    json bad = good;
    bad[field] = value;
    return bad;
  };
  json without = good;
  without.erase("digest");
  const std::pair<json, std::string> rows[] = {
      {1, "manifests[1]: expected an object"},
      {without, "manifests[1].digest: expected a string, found nothing"},
      {with("digest", 5), "manifests[1].digest: expected a string, found 5"},
      {with("digest", "sha256:x"), "manifests[1].digest: "},
      {with("mediaType", json::array()), "manifests[1].mediaType: expected a string"},
      {with("size", "1"), "manifests[1].size: expected a number"},
      {with("size", -1), "manifests[1].size: expected a number"},
      {with("artifactType", 7), "manifests[1].artifactType: expected a string, found 7"},
      {with("annotations", 7), "manifests[1].annotations: expected an object, found 7"}};
  for (const auto& [bad, message] : rows) {
    json named = bad;
    if (named.is_object() && !named.contains("annotations")) {
      named["annotations"] = {{"org.opencontainers.image.ref.name", "m:v1"}};
    }
    WriteFile(dir_ + "/index.json", json{{"manifests", {good, named}}}.dump());
    const absl::Status status = store_->ListTags().status();
    EXPECT_EQ(status.code(), StatusCode::kDataLoss) << named;
    EXPECT_THAT(std::string(status.message()), HasSubstr(dir_ + "/index.json: " + message));
  }
}

TEST_F(OciLayoutTest, AFolderInPlaceOfABlobIsNamed) {
  const std::string digest = store_->Put("a").value();
  fs::remove(PathOf(digest));
  fs::create_directory(PathOf(digest));
  for (const absl::Status& status :
       {store_->Stat(digest).status(), store_->Renew(digest).status()}) {
    EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status.message()),
                HasSubstr(PathOf(digest) + ": expected a regular file"));
  }
}

TEST_F(OciLayoutTest, APipeInPlaceOfABlobIsWaitedForByNobody) {
  const std::string digest = store_->Put("a").value();
  fs::remove(PathOf(digest));
  ASSERT_EQ(mkfifo(PathOf(digest).c_str(), 0600), 0);
  const absl::Status status = store_->Get(digest).status();
  EXPECT_EQ(status.code(), StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr(PathOf(digest)));
  EXPECT_EQ(store_->Put("a").value(), digest);
  EXPECT_EQ(store_->Get(digest).value(), "a");
}

TEST(OpenBlobStoreTest, ALocationWithASchemeIsARegistryOrRefused) {
  for (const char* location :
       {"ftp://x", "s3://bucket/x", "://", "http://h:99999/x", "http://h:0/x", "http://h:/x",
        "https://h:http/x", "http://[::1]:99999/x"}) {
    const absl::Status status = OpenBlobStore(location).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << location;
    EXPECT_THAT(std::string(status.message()), HasSubstr(location));
  }
  EXPECT_FALSE(fs::exists("ftp:"));
  for (const char* location : {"http://h:65535/x", "http://[::1]:80/x", "http://[::1]/x"}) {
    EXPECT_TRUE(OpenBlobStore(location).ok()) << location;
  }
}

TEST_F(OciLayoutTest, EntriesOfOthersAreKept) {
  const json other = {{"mediaType", "t"}, {"digest", Sha256Digest("o")}, {"size", 1}};
  WriteFile(dir_ + "/index.json", json{{"schemaVersion", 2}, {"manifests", {other}}}.dump());
  const json d = {{"mediaType", "t"}, {"digest", Sha256Digest("a")}, {"size", 1}};
  ASSERT_TRUE(store_->PutTag("m:latest", d).ok());
  ASSERT_TRUE(store_->DeleteTag("m:latest").ok());
  EXPECT_EQ(json::parse(ReadFile(dir_ + "/index.json"))["manifests"], json::array({other}));
}

TEST_F(OciLayoutTest, AnotherLayoutVersionIsRefused) {
  WriteFile(dir_ + "/oci-layout", R"({"imageLayoutVersion":"2.0.0"})");
  EXPECT_EQ(OpenOciLayout(dir_).status().code(), StatusCode::kFailedPrecondition);
}

TEST_F(OciLayoutTest, AFileInTheWayIsAnErrorThatNamesIt) {
  WriteFile(dir_ + "/file", "x");
  const absl::Status status = OpenOciLayout(dir_ + "/file").status();
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), HasSubstr(dir_ + "/file"));
  EXPECT_EQ(OpenOciLayout("").status().code(), StatusCode::kInvalidArgument);
}

TEST_F(OciLayoutTest, OpeningRemovesOnlyOldLeftovers) {
  const std::string old_file = dir_ + "/tmp/tmp-dead", fresh = dir_ + "/tmp/tmp-fresh";
  WriteFile(old_file, "x");
  WriteFile(fresh, "x");
  fs::last_write_time(old_file, fs::file_time_type::clock::now() - std::chrono::hours(1));
  auto writer = store_->NewWriter().value();
  for (const auto& entry : fs::directory_iterator(dir_ + "/tmp")) {
    if (entry.path() == fresh) continue;
    fs::last_write_time(entry.path(), fs::file_time_type::clock::now() - std::chrono::hours(1));
  }
  ASSERT_TRUE(OpenOciLayout(dir_).ok());
  EXPECT_FALSE(fs::exists(old_file));
  EXPECT_TRUE(fs::exists(fresh));
  ASSERT_TRUE(writer->Append("live").ok());  // its writer lives: spared although old
  EXPECT_TRUE(writer->Commit("").ok());
}

// Every path under it with its times of change.
std::vector<std::string> Snapshot(const std::string& dir) {
  std::vector<std::string> out;
  for (const auto& entry : fs::recursive_directory_iterator(dir)) {
    struct stat st;
    EXPECT_EQ(lstat(entry.path().c_str(), &st), 0);
    out.push_back(absl::StrCat(entry.path().string(), " ",
                               absl::ToUnixNanos(absl::TimeFromTimespec(st.st_mtim)), " ",
                               absl::ToUnixNanos(absl::TimeFromTimespec(st.st_ctim))));
  }
  std::sort(out.begin(), out.end());
  return out;
}

TEST_F(OciLayoutTest, AStoreThatIsReadIsLeftAsItIs) {
  const std::string digest = store_->Put("blob").value();
  const json descriptor = {{"mediaType", "a/b"}, {"digest", digest}, {"size", 4}};
  ASSERT_TRUE(store_->PutTag("name:tag", descriptor).ok());
  for (const char* ours : {"scratch", "tmp", ".blobs.lock", ".index.lock"}) {
    fs::remove_all(dir_ + "/" + ours);
  }
  const std::vector<std::string> before = Snapshot(dir_);
  const std::unique_ptr<BlobStore> store = OpenOciLayout(dir_, StoreUse::kRead).value();
  EXPECT_EQ(store->Get(digest).value(), "blob");
  EXPECT_EQ(store->ReadRange(digest, 1, 2).value(), "lo");
  EXPECT_EQ(store->Stat(digest).value(), 4u);
  EXPECT_EQ(store->List().value(), std::vector<std::string>{digest});
  EXPECT_EQ(store->ListTags().value().count("name:tag"), 1u);
  EXPECT_EQ(store->GetScratch("job", digest).status().code(), StatusCode::kNotFound);
  for (const absl::Status& refused :
       {store->Put("more").status(), store->Put("blob").status(), store->NewWriter().status(),
        store->Renew(digest).status(), store->Delete(digest),
        store->PutScratch("job", "x").status(), store->DeleteScratch("job"),
        store->DeleteScratchBlob("job", digest), store->PutTag("name:other", descriptor),
        store->DeleteTag("name:tag")}) {
    EXPECT_EQ(refused.code(), StatusCode::kFailedPrecondition) << refused;
    EXPECT_THAT(std::string(refused.message()), HasSubstr(dir_ + " was opened to be read only"));
  }
  EXPECT_EQ(Snapshot(dir_), before);

  fs::remove(dir_ + "/oci-layout");
  const auto none = OpenOciLayout(dir_, StoreUse::kRead);
  EXPECT_EQ(none.status().code(), StatusCode::kNotFound);
  EXPECT_THAT(std::string(none.status().message()), HasSubstr(dir_ + ": no OCI image layout"));
  WriteFile(dir_ + "/oci-layout", R"({"imageLayoutVersion":"9"})");
  EXPECT_EQ(OpenOciLayout(dir_, StoreUse::kRead).status().code(), StatusCode::kFailedPrecondition);
}

TEST_F(OciLayoutTest, StrayFilesAmongBlobsAreNotListed) {
  WriteFile(dir_ + "/blobs/sha256/readme", "x");
  EXPECT_TRUE(store_->List()->empty());
}

}  // namespace
}  // namespace shiftadd
