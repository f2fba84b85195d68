// Over a real store whose folder is taken away and brought back.
#include "worker/tasks/patient_blob_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <thread>

#include "absl/time/clock.h"
#include "services/base/digest.h"

namespace shiftadd {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class PatientBlobStoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = std::filesystem::temp_directory_path() / ("patient-" + std::to_string(::getpid()));
    std::filesystem::create_directories(root_);
    dir_ = (root_ / "blobs").string();
    store_ = OpenOciLayout(dir_).value();
  }
  void TearDown() override { std::filesystem::remove_all(root_); }
  void TakeAway() { std::filesystem::rename(dir_, dir_ + ".away"); }
  void BringBack() { std::filesystem::rename(dir_ + ".away", dir_); }

  std::filesystem::path root_;
  std::string dir_;
  std::unique_ptr<BlobStore> store_;
};

TEST_F(PatientBlobStoreTest, WaitsForAStoreThatIsAway) {
  PatientBlobStore patient(store_.get());
  const std::string digest = store_->Put("x").value();
  TakeAway();
  std::thread later([&] {
    absl::SleepFor(absl::Milliseconds(300));
    BringBack();
  });
  const auto data = patient.Get(digest);
  later.join();
  ASSERT_TRUE(data.ok()) << data.status();
  EXPECT_EQ(*data, "x");
  EXPECT_THAT(patient.lost(), IsEmpty());
}

TEST_F(PatientBlobStoreTest, WritesWaitTooAndMakeNoFolders) {
  PatientBlobStore patient(store_.get());
  TakeAway();
  std::thread later([&] {
    absl::SleepFor(absl::Milliseconds(300));
    BringBack();
  });
  const auto scratch = patient.PutScratch("job-1", "y");
  later.join();
  ASSERT_TRUE(scratch.ok()) << scratch.status();
  EXPECT_EQ(store_->GetScratch("job-1", *scratch).value(), "y");
}

TEST_F(PatientBlobStoreTest, ItsPatienceEnds) {
  PatientBlobStore patient(store_.get(), absl::Milliseconds(250));
  TakeAway();
  EXPECT_TRUE(absl::IsUnavailable(patient.Put("z").status()));
  EXPECT_TRUE(absl::IsUnavailable(patient.Get(Sha256Digest("z")).status()));
  EXPECT_THAT(patient.lost(), IsEmpty()) << "what cannot be looked for is not lost";
  BringBack();
}

TEST_F(PatientBlobStoreTest, ACancelledTaskDoesNotWait) {
  PatientBlobStore patient(store_.get());
  std::atomic<bool> cancelled{true};
  patient.Begin(&cancelled);
  TakeAway();
  EXPECT_TRUE(absl::IsUnavailable(patient.Put("z").status()));  // at once, not in a minute
  BringBack();
}

TEST_F(PatientBlobStoreTest, RemembersWhatIsLostOrDamaged) {
  PatientBlobStore patient(store_.get());
  const std::string good = store_->Put("good").value(), bad = store_->Put("bad").value(),
                    gone = Sha256Digest("gone");
  std::filesystem::resize_file(dir_ + "/blobs/sha256/" + bad.substr(7), 2);
  EXPECT_TRUE(patient.Get(good).ok());
  EXPECT_TRUE(absl::IsDataLoss(patient.Get(bad).status()));
  EXPECT_TRUE(absl::IsNotFound(patient.GetScratch("job-1", gone).status()));
  EXPECT_EQ(patient.lost().size(), 2u);
  std::atomic<bool> cancelled{false};
  patient.Begin(&cancelled);
  EXPECT_THAT(patient.lost(), IsEmpty());
  EXPECT_TRUE(absl::IsNotFound(patient.Get(gone).status()));
  EXPECT_THAT(patient.lost(), ElementsAre(gone));
}

}  // namespace
}  // namespace shiftadd
