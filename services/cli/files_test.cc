#include "services/cli/files.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/types.h>

#include <filesystem>
#include <string>
#include <thread>

namespace shiftadd::cli {
namespace {

namespace fs = std::filesystem;

class FilesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "/files_test_XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    dir_ = pattern;
  }
  void TearDown() override { fs::remove_all(dir_); }
  size_t Entries() const {
    size_t count = 0;
    for ([[maybe_unused]] const auto& entry : fs::directory_iterator(dir_)) ++count;
    return count;
  }
  fs::path dir_;
};

TEST_F(FilesTest, AFileIsReplacedWhole) {
  ASSERT_TRUE(WriteFileAtomically(dir_ / "a", "old").ok());
  ASSERT_TRUE(WriteFileAtomically(dir_ / "a", "new").ok());
  EXPECT_EQ(ReadFile(dir_ / "a", 100).value(), "new");
  EXPECT_EQ(Entries(), 1u);
}

TEST_F(FilesTest, ALinkStaysOne) {
  ASSERT_TRUE(WriteFileAtomically(dir_ / "a", "old").ok());
  fs::create_symlink("a", dir_ / "link");
  ASSERT_TRUE(WriteFileAtomically(dir_ / "link", "new").ok());
  EXPECT_TRUE(fs::is_symlink(dir_ / "link"));
  EXPECT_EQ(ReadFile(dir_ / "a", 100).value(), "new");
}

TEST_F(FilesTest, APipeStaysOneAndIsWrittenTo) {
  const std::string pipe = dir_ / "pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  std::string got;
  std::thread reader([&] { got = ReadFile(pipe, 100).value_or("nothing"); });
  const absl::Status status = WriteFileAtomically(pipe, "page");
  if (!fs::is_fifo(pipe)) {  // the reader waits for somebody at a pipe that has no name any more
    reader.detach();
    FAIL() << "the pipe was replaced";
  }
  reader.join();
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(got, "page");
}

TEST_F(FilesTest, NothingIsLeftWhereItCannotBeWritten) {
  fs::create_directories(dir_ / "folder" / "inside");
  EXPECT_FALSE(WriteFileAtomically(dir_ / "folder", "x").ok());
  EXPECT_EQ(Entries(), 1u);
}

}  // namespace
}  // namespace shiftadd::cli
