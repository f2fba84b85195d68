// Over a real store.
#include "worker/tasks/background_store.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "services/base/digest.h"

namespace shiftadd {
namespace {

using Digest = std::future<absl::StatusOr<std::string>>;

class BackgroundStoreTest : public ::testing::Test {
 protected:
  BackgroundStoreTest()
      : root_(std::filesystem::temp_directory_path() / absl::StrCat("background-", getpid())) {
    std::filesystem::create_directories(root_);
    store_ = OpenOciLayout((root_ / "blobs").string()).value();
  }
  ~BackgroundStoreTest() override { std::filesystem::remove_all(root_); }

  // A blob that is made once `gate_` is open.
  BackgroundStore::Make Gated(const std::string& blob) {
    return [this, blob]() -> absl::StatusOr<std::string> {
      ++begun_;
      gate_.WaitForNotification();
      return blob;
    };
  }

  const std::filesystem::path root_;
  std::shared_ptr<BlobStore> store_;
  absl::Notification gate_;
  std::atomic<int> begun_{0};
};

TEST_F(BackgroundStoreTest, StoresWhatManyThreadsGiveIt) {
  constexpr int kThreads = 4, kBlobs = 16;
  std::vector<Digest> digests(kThreads * kBlobs);
  {
    BackgroundStore background(store_, 2, 2);
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        for (int i = t; i < kThreads * kBlobs; i += kThreads) {
          digests[i] =
              background.Put([i] { return absl::StrCat("blob ", i); }, i % 2 == 0 ? "job-1" : "");
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (int i = 0; i < kThreads * kBlobs; ++i) {
      const auto digest = digests[i].get();
      ASSERT_TRUE(digest.ok()) << digest.status();
      EXPECT_EQ(*digest, Sha256Digest(absl::StrCat("blob ", i)));
      const auto stored = i % 2 == 0 ? store_->GetScratch("job-1", *digest) : store_->Get(*digest);
      EXPECT_EQ(stored.value(), absl::StrCat("blob ", i));
    }
  }
}

TEST_F(BackgroundStoreTest, AFaultIsThatBlobsAlone) {
  BackgroundStore background(store_, 1, 8);
  Digest bad = background.Put([] { return absl::InternalError("NaN"); });
  Digest large = background.Put([]() -> absl::StatusOr<std::string> { throw std::bad_alloc(); });
  Digest good = background.Put([] { return std::string("good"); });
  EXPECT_EQ(bad.get().status(), absl::InternalError("NaN"));
  EXPECT_EQ(large.get().status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(good.get().value(), Sha256Digest("good"));
}

TEST_F(BackgroundStoreTest, SoManyWaitAtMost) {
  BackgroundStore background(store_, 1, 2);
  std::atomic<int> given{0};
  std::thread giver([&] {
    for (int i = 0; i < 6; ++i) {
      background.Put(Gated(absl::StrCat(i)));
      ++given;
    }
  });
  while (given < 3 || begun_ < 1) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_EQ(given, 3);  // one is being made, two wait
  EXPECT_EQ(begun_, 1);
  gate_.Notify();
  giver.join();
  EXPECT_EQ(given, 6);
}

TEST_F(BackgroundStoreTest, ItsEndDropsWhatHasNotBegun) {
  auto background = std::make_unique<BackgroundStore>(store_, 1, 8);
  Digest first = background->Put(Gated("first"));
  while (begun_ < 1) absl::SleepFor(absl::Milliseconds(1));
  Digest second = background->Put(Gated("second"));
  std::thread end([&] { background.reset(); });
  second.wait();
  gate_.Notify();
  end.join();
  EXPECT_EQ(first.get().value(), Sha256Digest("first"));
  EXPECT_THROW(second.get(), std::future_error);
  EXPECT_EQ(begun_, 1);
}

}  // namespace
}  // namespace shiftadd
