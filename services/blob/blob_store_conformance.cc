#include "services/blob/blob_store_conformance.h"

#include <gmock/gmock.h>

#include <cstdlib>
#include <filesystem>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/base/digest.h"

namespace shiftadd {
namespace {

using absl::StatusCode;
using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

json Descriptor(const std::string& digest) {
  return {
      {"mediaType", "application/vnd.oci.image.manifest.v1+json"}, {"digest", digest}, {"size", 2}};
}

}  // namespace

void BlobStoreConformance::SetUp() {
  std::string pattern = testing::TempDir() + "/blobs-XXXXXX";
  ASSERT_NE(mkdtemp(pattern.data()), nullptr);
  place_ = pattern;
  store_ = Open();
  ASSERT_NE(store_, nullptr);
}

void BlobStoreConformance::TearDown() {
  store_.reset();
  std::filesystem::remove_all(place_);
}

std::unique_ptr<BlobStore> BlobStoreConformance::Open() const {
  auto store = GetParam().open(place_);
  EXPECT_TRUE(store.ok()) << store.status();
  return store.ok() ? *std::move(store) : nullptr;
}

TEST_P(BlobStoreConformance, PutThenGetGivesTheBytes) {
  for (const std::string& data :
       {std::string(), std::string("a\0b\xff", 4), std::string(3'000'001, 'x')}) {
    const auto digest = store_->Put(data);
    ASSERT_TRUE(digest.ok()) << digest.status();
    EXPECT_EQ(*digest, Sha256Digest(data));
    EXPECT_EQ(store_->Get(*digest).value(), data);
    EXPECT_EQ(store_->Stat(*digest).value(), data.size());
    EXPECT_EQ(store_->Put(data).value(), *digest);  // again
  }
  EXPECT_EQ(store_->List()->size(), 3u);
}

TEST_P(BlobStoreConformance, BlobsOutliveTheStoreObject) {
  const std::string digest = store_->Put("kept").value();
  store_.reset();
  EXPECT_EQ(Open()->Get(digest).value(), "kept");
}

TEST_P(BlobStoreConformance, AMissingBlobIsNotFoundAndNamed) {
  const std::string digest = Sha256Digest("never stored");
  for (const absl::Status& status :
       {store_->Get(digest).status(), store_->Stat(digest).status(),
        store_->ReadRange(digest, 0, 1).status(), store_->Renew(digest).status(),
        store_->GetScratch("job", digest).status()}) {
    EXPECT_EQ(status.code(), StatusCode::kNotFound);
    EXPECT_THAT(std::string(status.message()), HasSubstr(digest));
  }
  EXPECT_TRUE(store_->Delete(digest).ok());
  EXPECT_EQ(store_->DeleteIfOlder(digest, absl::InfiniteFuture()).value(), false);
}

TEST_P(BlobStoreConformance, MalformedDigestsAreRefused) {
  const std::string hex(64, 'a');
  for (const std::string& digest :
       {std::string(), hex, "sha256:" + hex.substr(1), "sha256:" + hex + "a", "md5:" + hex,
        "sha256:" + std::string(64, 'A'), "sha256:../../../../etc/passwd" + std::string(43, 'a')}) {
    for (const absl::Status& status :
         {store_->Get(digest).status(), store_->Stat(digest).status(), store_->Delete(digest),
          store_->ReadRange(digest, 0, 1).status(), store_->Renew(digest).status(),
          store_->DeleteIfOlder(digest, absl::Now()).status(),
          store_->GetScratch("job", digest).status()}) {
      EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << digest;
    }
  }
}

TEST_P(BlobStoreConformance, ReadRangeClampsAtTheEnd) {
  const std::string digest = store_->Put("0123456789").value();
  EXPECT_EQ(store_->ReadRange(digest, 2, 3).value(), "234");
  EXPECT_EQ(store_->ReadRange(digest, 8, 100).value(), "89");
  EXPECT_EQ(store_->ReadRange(digest, 10, 1).value(), "");
  EXPECT_EQ(store_->ReadRange(digest, 3, ~uint64_t{0}).value(), "3456789");
  EXPECT_EQ(store_->ReadRange(digest, 11, 1).status().code(), StatusCode::kOutOfRange);
}

TEST_P(BlobStoreConformance, AWriterStoresPieces) {
  auto writer = store_->NewWriter().value();
  ASSERT_TRUE(writer->Append("ab").ok());
  ASSERT_TRUE(writer->Append("").ok());
  ASSERT_TRUE(writer->Append("c").ok());
  EXPECT_TRUE(store_->List()->empty());  // nothing is visible before Commit
  EXPECT_EQ(writer->Commit(Sha256Digest("abc")).value(), Sha256Digest("abc"));
  EXPECT_EQ(store_->Get(Sha256Digest("abc")).value(), "abc");
  auto empty = store_->NewWriter().value();
  EXPECT_EQ(empty->Commit("").value(), Sha256Digest(""));
}

TEST_P(BlobStoreConformance, AWriterWithOtherBytesStoresNothing) {
  auto writer = store_->NewWriter().value();
  ASSERT_TRUE(writer->Append("abd").ok());
  const auto result = writer->Commit(Sha256Digest("abc"));
  EXPECT_EQ(result.status().code(), StatusCode::kDataLoss);
  EXPECT_THAT(std::string(result.status().message()), HasSubstr(Sha256Digest("abd")));
  EXPECT_TRUE(store_->List()->empty());
}

TEST_P(BlobStoreConformance, DeleteIfOlderSparesWhatWasPutAgain) {
  const std::string digest = store_->Put("x").value();
  EXPECT_EQ(store_->DeleteIfOlder(digest, absl::Now() - absl::Hours(1)).value(), false);
  const absl::Time before = store_->ListInfo()->at(0).modified;
  absl::SleepFor(absl::Milliseconds(30));
  ASSERT_TRUE(store_->Put("x").ok());
  const absl::Time after = store_->ListInfo()->at(0).modified;
  EXPECT_GT(after, before);
  EXPECT_EQ(store_->DeleteIfOlder(digest, after).value(), false);
  absl::SleepFor(absl::Milliseconds(30));
  EXPECT_EQ(store_->Renew(digest).value(), 1u);
  EXPECT_GT(store_->ListInfo()->at(0).modified, after);
  EXPECT_EQ(store_->DeleteIfOlder(digest, absl::InfiniteFuture()).value(), true);
  EXPECT_EQ(store_->Get(digest).status().code(), StatusCode::kNotFound);
}

TEST_P(BlobStoreConformance, ListIsSortedAndSized) {
  std::vector<std::string> expected = {store_->Put("a").value(), store_->Put("bb").value(),
                                       store_->Put("ccc").value()};
  std::sort(expected.begin(), expected.end());
  EXPECT_EQ(store_->List().value(), expected);
  uint64_t bytes = 0;
  const std::vector<BlobInfo> infos = store_->ListInfo().value();
  for (const BlobInfo& info : infos) bytes += info.bytes;
  EXPECT_EQ(bytes, 6u);
}

TEST_P(BlobStoreConformance, ScratchLivesUnderItsJob) {
  const std::string digest = store_->PutScratch("job-1", "s").value();
  EXPECT_EQ(digest, Sha256Digest("s"));
  EXPECT_EQ(store_->PutScratch("job-1", "s").value(), digest);
  ASSERT_TRUE(store_->PutScratch("job-2", "s").ok());
  EXPECT_EQ(store_->GetScratch("job-1", digest).value(), "s");
  EXPECT_EQ(store_->Get(digest).status().code(), StatusCode::kNotFound);
  EXPECT_TRUE(store_->List()->empty());
  EXPECT_TRUE(store_->DeleteScratch("job-1").ok());
  EXPECT_TRUE(store_->DeleteScratch("job-1").ok());
  EXPECT_EQ(store_->GetScratch("job-1", digest).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(store_->GetScratch("job-2", digest).value(), "s");
}

TEST_P(BlobStoreConformance, OneScratchBlobGoesAlone) {
  const std::string a = store_->PutScratch("job-1", "a").value();
  const std::string b = store_->PutScratch("job-1", "b").value();
  ASSERT_TRUE(store_->PutScratch("job-2", "a").ok());
  EXPECT_TRUE(store_->DeleteScratchBlob("job-1", a).ok());
  EXPECT_TRUE(store_->DeleteScratchBlob("job-1", a).ok());
  EXPECT_TRUE(store_->DeleteScratchBlob("job-3", a).ok());
  EXPECT_EQ(store_->GetScratch("job-1", a).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(store_->GetScratch("job-1", b).value(), "b");
  EXPECT_EQ(store_->GetScratch("job-2", a).value(), "a");
  EXPECT_EQ(store_->DeleteScratchBlob("../x", a).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(store_->DeleteScratchBlob("job-1", "../x").code(), StatusCode::kInvalidArgument);
}

TEST_P(BlobStoreConformance, JobNamesAreNoPaths) {
  for (const char* job : {"", ".", "..", "../blobs", "a/b", "/etc", ".hidden", "a b", "a\nb"}) {
    EXPECT_EQ(store_->PutScratch(job, "x").status().code(), StatusCode::kInvalidArgument) << job;
    EXPECT_EQ(store_->GetScratch(job, Sha256Digest("x")).status().code(),
              StatusCode::kInvalidArgument);
    EXPECT_EQ(store_->DeleteScratch(job).code(), StatusCode::kInvalidArgument) << job;
  }
  EXPECT_EQ(store_->PutScratch(std::string("a\0b", 3), "x").status().code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(store_->PutScratch(std::string(129, 'a'), "x").status().code(),
            StatusCode::kInvalidArgument);
}

TEST_P(BlobStoreConformance, TagsMoveAndGo) {
  const json a = Descriptor(Sha256Digest("a")), b = Descriptor(Sha256Digest("b"));
  ASSERT_TRUE(store_->PutTag("m:latest", a).ok());
  ASSERT_TRUE(store_->PutTag("m:v1", a).ok());
  ASSERT_TRUE(store_->PutTag("m:latest", b).ok());
  EXPECT_THAT(store_->ListTags().value(),
              ElementsAre(testing::Pair("m:latest", b), testing::Pair("m:v1", a)));
  ASSERT_TRUE(store_->DeleteTag("m:latest").ok());
  ASSERT_TRUE(store_->DeleteTag("m:latest").ok());
  store_.reset();
  EXPECT_THAT(Open()->ListTags().value(), ElementsAre(testing::Pair("m:v1", a)));
}

TEST_P(BlobStoreConformance, MalformedTagsAreRefused) {
  EXPECT_EQ(store_->PutTag("", Descriptor(Sha256Digest("a"))).code(), StatusCode::kInvalidArgument);
  for (const json& bad : {json(), json("x"), json::object(), Descriptor("sha256:12"),
                          json{{"mediaType", "t"}, {"digest", Sha256Digest("a")}, {"size", -1}}}) {
    EXPECT_EQ(store_->PutTag("m:latest", bad).code(), StatusCode::kInvalidArgument) << bad;
  }
  EXPECT_TRUE(store_->ListTags()->empty());
}

TEST_P(BlobStoreConformance, ManyWritersOfOneStore) {
  const auto second = Open();
  std::vector<std::thread> threads;
  threads.reserve(4);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      BlobStore* store = t % 2 == 0 ? store_.get() : second.get();
      for (int i = 0; i < 8; ++i) {
        EXPECT_TRUE(store->Put(absl::StrCat("shared ", i)).ok());
        const std::string own = store->Put(absl::StrCat("own ", t, " ", i)).value();
        EXPECT_TRUE(store->PutTag(absl::StrCat("m:", t, "-", i), Descriptor(own)).ok());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(store_->List()->size(), 8u + 4 * 8);
  EXPECT_EQ(store_->ListTags()->size(), 4u * 8);
  const std::vector<std::string> digests = store_->List().value();
  for (const std::string& digest : digests) EXPECT_TRUE(store_->Get(digest).ok());
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(BlobStoreConformance);

}  // namespace shiftadd
