#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pthread.h>

#include <filesystem>
#include <fstream>
#include <functional>

#include "services/base/digest.h"
#include "services/packaging/package_format.h"
#include "services/packaging/packaging_test_util.h"
#include "services/packaging/reference.h"

namespace shiftadd::packaging {
namespace {

using absl::StatusCode;
using nlohmann::json;

class GarbageTest : public PackagerFixture {};

TEST_F(GarbageTest, KeepsPackagesAndFreesTheRest) {
  const std::string kept = packager_->Publish(Spec("m:latest", "kept"))->digest;
  const std::string gone = packager_->Publish(Spec("m:old", "gone"))->digest;
  const std::string stray = blobs_->Put("stray").value();
  ASSERT_TRUE(packager_->Delete("m:old").ok());
  AgeBlobs();
  clock_.Advance(absl::Hours(2));
  const size_t before = blobs_->List()->size();
  const GarbageReport dry = packager_->CollectGarbage(true).value();
  EXPECT_EQ(blobs_->List()->size(), before);
  const GarbageReport report = packager_->CollectGarbage(false).value();
  EXPECT_EQ(report.blobs, dry.blobs);
  EXPECT_EQ(report.bytes, dry.bytes);
  // The manifest, its config, its layer, its provenance manifest and index, and the stray; the
  // provenance document is the kept package's too.
  EXPECT_EQ(report.blobs, 6u);
  EXPECT_EQ(blobs_->List()->size(), before - 6);
  EXPECT_EQ(blobs_->Stat(stray).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(blobs_->Stat(LayerDigest("gone")).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(packager_->Resolve("m@" + gone).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(Mirrored("m:" + ReferrersTag(gone)), "");
  const PackageDetails details = packager_->Get("m:latest").value();
  EXPECT_EQ(details.info.digest, kept);
  for (const Descriptor& layer : details.info.layers) EXPECT_TRUE(blobs_->Get(layer.digest).ok());
  EXPECT_NE(details.provenance_json, "");
  EXPECT_TRUE(blobs_->Get(Mirrored("m:" + ReferrersTag(kept))).ok());
  EXPECT_EQ(packager_->CollectGarbage(false)->blobs, 0u);
}

TEST_F(GarbageTest, SparesYoungBlobs) {
  ASSERT_TRUE(blobs_->Put("young").ok());
  ASSERT_TRUE(packager_->Publish(Spec("m:latest")).ok());
  ASSERT_TRUE(packager_->Delete("m:latest").ok());
  EXPECT_EQ(packager_->CollectGarbage(false)->blobs, 0u);
  AgeBlobs();
  const std::string renewed = blobs_->Put("young").value();
  EXPECT_EQ(packager_->CollectGarbage(false)->blobs, 0u);  // the package itself is young
  clock_.Advance(absl::Minutes(61));
  EXPECT_GT(packager_->CollectGarbage(false)->blobs, 0u);
}

TEST_F(GarbageTest, SparesWhatIsPinnedUntilItExpires) {
  const std::string a = blobs_->Put("a").value(), b = blobs_->Put("b").value();
  ASSERT_TRUE(packager_->Pin("job-1", {a, b, a}, absl::InfiniteFuture()).ok());
  ASSERT_TRUE(packager_->Pin("job-2", {b}, clock_.Now() + absl::Hours(10 * 24)).ok());
  AgeBlobs();
  EXPECT_EQ(packager_->CollectGarbage(false)->blobs, 0u);
  clock_.Advance(absl::Hours(8 * 24));  // job-1's seven days are over
  EXPECT_EQ(packager_->CollectGarbage(false)->blobs, 1u);
  EXPECT_TRUE(blobs_->Stat(b).ok());
  ASSERT_TRUE(packager_->Unpin("job-2").ok());
  EXPECT_EQ(packager_->CollectGarbage(false)->blobs, 1u);
  EXPECT_TRUE(packager_->Unpin("job-2").ok());
}

TEST_F(GarbageTest, PinsOutliveARestart) {
  const std::string a = blobs_->Put("a").value();
  ASSERT_TRUE(packager_->Pin("job-1", {a}, absl::InfiniteFuture()).ok());
  AgeBlobs();
  Restart();
  EXPECT_EQ(packager_->CollectGarbage(false)->blobs, 0u);
}

TEST_F(GarbageTest, PinningWhatIsNotThereFailsWhole) {
  const std::string a = blobs_->Put("a").value();
  EXPECT_EQ(packager_->Pin("job", {a, Sha256Digest("x")}, absl::InfiniteFuture()).code(),
            StatusCode::kNotFound);
  EXPECT_EQ(packager_->Pin("job", {"x"}, absl::InfiniteFuture()).code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(packager_->Pin("", {a}, absl::InfiniteFuture()).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(packager_->Unpin("").code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(store_->LivePins(clock_.Now())->empty());
}

TEST_F(GarbageTest, SparesAPinnedPackageAndWhatItNames) {
  const std::string digest = packager_->Publish(Spec("m:latest"))->digest;
  ASSERT_TRUE(packager_->Pin("server", {digest}, absl::InfiniteFuture()).ok());
  ASSERT_TRUE(packager_->Delete("m:latest").ok());
  AgeBlobs();
  clock_.Advance(absl::Hours(2));
  EXPECT_EQ(packager_->CollectGarbage(false)->blobs, 0u);
  EXPECT_TRUE(packager_->Get("m@" + digest).ok());
}

TEST_F(GarbageTest, SparesWhatOtherToolsTagged) {
  const std::string layer = blobs_->Put("layer").value();
  const std::string manifest =
      blobs_
          ->Put(json{{"config", {{"mediaType", "t/t"}, {"digest", layer}, {"size", 5}}},
                     {"layers", json::array()}}
                    .dump())
          .value();
  ASSERT_TRUE(blobs_
                  ->PutTag("theirs:1", {{"mediaType", kManifestMediaType},
                                        {"digest", manifest},
                                        {"size", blobs_->Stat(manifest).value()}})
                  .ok());
  AgeBlobs();
  EXPECT_EQ(packager_->CollectGarbage(false)->blobs, 0u);
}

// Runs `work` on a thread that could not recurse for every link of a chain.
void OnSmallStack(const std::function<void()>& work) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  ASSERT_EQ(pthread_attr_setstacksize(&attributes, size_t{256} << 10), 0);
  const auto run = [](void* argument) -> void* {
    (*static_cast<const std::function<void()>*>(argument))();
    return nullptr;
  };
  pthread_t thread;
  ASSERT_EQ(pthread_create(&thread, &attributes, run, const_cast<std::function<void()>*>(&work)),
            0);
  pthread_join(thread, nullptr);
  pthread_attr_destroy(&attributes);
}

TEST_F(GarbageTest, SparesALongChainOfIndexes) {
  constexpr int kLinks = 5'000;
  std::string last = blobs_->Put("the end").value(), type = "t/t";
  const std::string end = last;
  uint64_t size = 7;
  for (int i = 0; i < kLinks; ++i) {
    const std::string index =
        json{{"manifests", {{{"mediaType", type}, {"digest", last}, {"size", size}}}}}.dump();
    last = Sha256Digest(index);
    std::ofstream(dir_ + "/blobs/blobs/sha256/" + last.substr(7)) << index;
    size = index.size();
    type = kIndexMediaType;
  }
  ASSERT_TRUE(
      blobs_->PutTag("theirs:1", {{"mediaType", type}, {"digest", last}, {"size", size}}).ok());
  AgeBlobs();
  absl::StatusOr<GarbageReport> report = absl::UnknownError("not collected");
  OnSmallStack([&] { report = packager_->CollectGarbage(false); });
  EXPECT_EQ(report->blobs, 0u);
  EXPECT_TRUE(blobs_->Stat(end).ok());
}

TEST_F(GarbageTest, DeletesNothingWhenAManifestCannotBeRead) {
  const std::string digest = packager_->Publish(Spec("m:latest"))->digest;
  ASSERT_TRUE(blobs_->Put("stray").ok());
  const std::string index = Mirrored("m:" + ReferrersTag(digest));
  std::ofstream(dir_ + "/blobs/blobs/sha256/" + index.substr(7), std::ios::trunc) << "{}";
  AgeBlobs();
  EXPECT_EQ(packager_->CollectGarbage(false).status().code(), StatusCode::kDataLoss);
  EXPECT_TRUE(blobs_->Stat(Sha256Digest("stray")).ok());
}

TEST_F(GarbageTest, MetricsCount) {
  prometheus::Registry registry;
  PackagerMetrics metrics(&registry);
  options_.metrics = &metrics;
  Restart();
  ASSERT_TRUE(packager_->Publish(Spec("m:latest")).ok());
  ASSERT_TRUE(packager_->Publish(Spec("m:latest")).ok());
  ASSERT_TRUE(blobs_->Put("stray").ok());
  AgeBlobs();
  ASSERT_TRUE(packager_->CollectGarbage(true).ok());
  EXPECT_EQ(metrics.gc_freed_blobs.Value(), 0);
  ASSERT_TRUE(packager_->CollectGarbage(false).ok());
  packager_->RefreshMetrics();
  EXPECT_EQ(metrics.published.Value(), 1);
  EXPECT_EQ(metrics.packages.Value(), 1);
  EXPECT_EQ(metrics.gc_freed_blobs.Value(), 1);
  EXPECT_EQ(metrics.gc_freed_bytes.Value(), 5);
  EXPECT_GT(metrics.blob_bytes.Value(), 0);
}

}  // namespace
}  // namespace shiftadd::packaging
