#include "worker/serve/api_keys.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "services/base/digest.h"

namespace shiftadd {
namespace {

class ApiKeysTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<ApiKeys>> Read(const std::string& text) {
    std::ofstream(path_) << text;
    return ApiKeys::FromFile(path_);
  }
  void TearDown() override { std::filesystem::remove(path_); }

  const std::string path_ =
      (std::filesystem::temp_directory_path() / absl::StrCat("api_keys_", ::getpid())).string();
};

TEST_F(ApiKeysTest, KeysAndDigestsAreTaken) {
  const auto keys = Read("# a comment\n\n  alpha  \n" + Sha256Digest("beta") + "\n");
  ASSERT_TRUE(keys.ok()) << keys.status();
  EXPECT_TRUE((*keys)->Check("Bearer alpha").ok());
  EXPECT_TRUE((*keys)->Check("bearer beta").ok());
  for (const std::string header :
       {"", "alpha", "Bearer", "Bearer ", "Bearer gamma", "Basic alpha", "Bearer # a comment"}) {
    const absl::Status status = (*keys)->Check(header);
    EXPECT_EQ(status.code(), absl::StatusCode::kUnauthenticated) << header;
    EXPECT_THAT(std::string(status.message()), ::testing::Not(::testing::HasSubstr("gamma")));
  }
  // A digest is no key.
  EXPECT_FALSE((*keys)->Check("Bearer " + Sha256Digest("beta")).ok());
}

TEST_F(ApiKeysTest, FilesOfOtherEditorsAreTaken) {
  const auto keys = Read(
      "\xef\xbb\xbf"
      "alpha\r\nbeta\r\n");
  ASSERT_TRUE(keys.ok()) << keys.status();
  EXPECT_TRUE((*keys)->Check("Bearer alpha").ok());
  EXPECT_TRUE((*keys)->Check("Bearer beta").ok());
}

TEST_F(ApiKeysTest, BadFilesAreNamed) {
  EXPECT_THAT(
      std::string(
          ApiKeys::FromFile(std::filesystem::temp_directory_path().string()).status().message()),
      ::testing::HasSubstr("is a directory"));
  EXPECT_EQ(Read("# nothing\n").status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(Read("a\nsha256:12\n").status().message()),
              ::testing::HasSubstr(":2: expected 64"));
  EXPECT_FALSE(ApiKeys::FromFile(path_ + ".none").ok());
  // Neither is read: one never ends, the other waits for somebody who writes.
  const std::string pipe = path_ + ".pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  for (const std::string& endless : {std::string("/dev/zero"), pipe}) {
    EXPECT_THAT(std::string(ApiKeys::FromFile(endless).status().message()),
                ::testing::HasSubstr(endless + ": is a pipe or a device: expected a file"));
  }
  std::filesystem::remove(pipe);
  std::filesystem::resize_file(path_, int64_t{1} << 40);
  EXPECT_THAT(std::string(ApiKeys::FromFile(path_).status().message()),
              ::testing::HasSubstr("has 1099511627776 bytes: expected a file"));
}

}  // namespace
}  // namespace shiftadd
