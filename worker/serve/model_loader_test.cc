#include "worker/serve/model_loader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "worker/serve/testing/tiny_package.h"

namespace shiftadd {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

// A machine that says how much memory is available.
class ModelLoaderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::temp_directory_path() / absl::StrCat("model_loader_", getpid());
    const auto written =
        testing::MakeTinyPackage({}).WriteLayout((root_ / "store").string(), "tiny:v1");
    ASSERT_TRUE(written.ok()) << written.status();
    location_.package_dir = (root_ / "store").string();
    location_.reference = "tiny:v1";
    options_.model.threads = 1;
    options_.context = 256;
    options_.memory_root = root_.string();
  }
  void TearDown() override { fs::remove_all(root_); }
  void SetAvailable(int64_t mebibytes) const {
    fs::create_directories(root_ / "proc");
    std::ofstream(root_ / "proc/meminfo") << "MemAvailable: " << mebibytes * 1024 << " kB\n";
  }
  absl::StatusOr<ModelPtr> Load() const { return LoadModel(location_, options_, nullptr); }
  static int64_t CacheBytes(const ModelPtr& version) {
    return version->engine->Stats().pages_total * version->model->cache_page_bytes();
  }

  fs::path root_;
  PackageLocation location_;
  LoadOptions options_;
};

TEST_F(ModelLoaderTest, TheDefaultCacheIsWhatMemoryLeaves) {
  SetAvailable(4096);
  const auto roomy = Load();
  ASSERT_TRUE(roomy.ok()) << roomy.status();
  EXPECT_NEAR(CacheBytes(*roomy), 512 << 20, (*roomy)->model->cache_page_bytes());
}

TEST_F(ModelLoaderTest, LearnedPositionsBoundTheContext) {
  SetAvailable(4096);
  EXPECT_EQ((*Load())->served.context, 256);
  testing::TinyPackageOptions options;
  options.spec = testing::MakeTinyPackage({}).spec;
  options.spec->context = 64;
  for (const PositionKind position : {PositionKind::kRope, PositionKind::kLearned}) {
    options.spec->position = position;
    const auto written =
        testing::MakeTinyPackage(options).WriteLayout((root_ / "store").string(), "tiny:v1");
    ASSERT_TRUE(written.ok()) << written.status();
    const auto version = Load();
    ASSERT_TRUE(version.ok()) << version.status();
    EXPECT_EQ((*version)->served.context, position == PositionKind::kLearned ? 64 : 256);
  }
}

TEST_F(ModelLoaderTest, ASmallMachineGetsASmallCache) {
  SetAvailable(100);
  const auto version = Load();
  ASSERT_TRUE(version.ok()) << version.status();
  EXPECT_LT(CacheBytes(*version), 100 << 20);
  EXPECT_GT(CacheBytes(*version), 50 << 20);
  // What it may yet take is promised: the next gets what is left, and there is not a context of it.
  EXPECT_LT(UnpromisedRoom(options_.memory_root), 20 << 20);
  EXPECT_EQ(Load().status().code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(ModelLoaderTest, WhatWasAskedForIsNotMadeSmaller) {
  SetAvailable(100);
  options_.cache_bytes = int64_t{200} << 20;
  const absl::Status status = Load().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  for (const char* says : {"--cache-mib", "209.7 MB", "104.9 MB are free", "256 tokens"}) {
    EXPECT_THAT(std::string(status.message()), HasSubstr(says));
  }
  // Freed with what failed: nothing is promised.
  EXPECT_EQ(UnpromisedRoom(options_.memory_root), int64_t{100} << 20);
  options_.cache_bytes = int64_t{50} << 20;
  EXPECT_TRUE(Load().ok());
}

TEST_F(ModelLoaderTest, ALoadUnderWayIsCounted) {
  SetAvailable(100);
  PromisedMemory other(options_.memory_root);
  ASSERT_TRUE(other.Promise([](int64_t room) -> absl::StatusOr<int64_t> { return room; }).ok());
  const absl::Status status = Load().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("its weights are"));
  // What it has read is in use, which the machine says by itself.
  other.Use(int64_t{60} << 20);
  EXPECT_EQ(UnpromisedRoom(options_.memory_root), int64_t{60} << 20);
  options_.cache_bytes = int64_t{30} << 20;
  EXPECT_TRUE(Load().ok());
  options_.cache_bytes = int64_t{80} << 20;
  EXPECT_EQ(Load().status().code(), absl::StatusCode::kResourceExhausted);
  // Refused, it promises nothing.
  const auto refuse = [](int64_t) -> absl::StatusOr<int64_t> { return absl::AbortedError("no"); };
  EXPECT_TRUE(absl::IsAborted(other.Promise(refuse)));
  other.Release();
  EXPECT_EQ(UnpromisedRoom(options_.memory_root), int64_t{100} << 20);
  EXPECT_TRUE(Load().ok());
}

TEST_F(ModelLoaderTest, OfTwoLoadsAtOnceOneFits) {
  SetAvailable(100);
  options_.cache_bytes = int64_t{60} << 20;
  for (int round = 0; round < 8; ++round) {
    absl::StatusOr<ModelPtr> versions[2];
    std::thread threads[2];
    for (int i = 0; i < 2; ++i) threads[i] = std::thread([&, i] { versions[i] = Load(); });
    for (std::thread& thread : threads) thread.join();
    EXPECT_NE(versions[0].ok(), versions[1].ok()) << versions[0].status() << versions[1].status();
    for (const auto& version : versions) {
      EXPECT_TRUE(version.ok() || absl::IsResourceExhausted(version.status()));
    }
  }
  EXPECT_EQ(UnpromisedRoom(options_.memory_root), int64_t{100} << 20);
}

TEST_F(ModelLoaderTest, WhatOthersTookSinceIsNotCountedOn) {
  SetAvailable(1024);
  const auto version = Load();
  ASSERT_TRUE(version.ok()) << version.status();
  GenerateParams params;
  params.prompt = {5, 6, 7};
  params.max_tokens = 1;
  const auto status = [&] {
    const auto generation = (*version)->engine->Submit({params});
    return (*generation)->Next(absl::Seconds(60))->status;
  };
  EXPECT_TRUE(status().ok());
  SetAvailable(0);
  EXPECT_TRUE(absl::IsUnavailable(status())) << status();
  SetAvailable(1024);
  EXPECT_TRUE(status().ok());
}

TEST_F(ModelLoaderTest, WeightsBeyondMemoryAreNotRead) {
  SetAvailable(0);
  const absl::Status status = Load().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("its weights are"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("0.0 MB are free"));
}

}  // namespace
}  // namespace shiftadd
