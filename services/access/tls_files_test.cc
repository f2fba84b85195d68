#include "services/access/tls_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"

namespace shiftadd::access {
namespace {

using testing::HasSubstr;

class TlsFilesTest : public testing::Test {
 protected:
  void SetUp() override {
    dir_ = absl::StrCat(testing::TempDir(), "/tls-", getpid());
    std::filesystem::remove_all(dir_);
    const std::string make =
        absl::StrCat(SHIFTADD_SOURCE_DIR, "/deploy/certs.sh ", dir_, " >", dir_, ".log 2>&1");
    ASSERT_EQ(std::system(make.c_str()), 0) << make;
  }
  void TearDown() override {
    std::filesystem::remove_all(dir_);
    std::filesystem::remove(dir_ + ".log");
  }
  std::string Fault(const TlsFiles& files) {
    const absl::Status status = CheckTlsFiles(files);
    EXPECT_FALSE(status.ok());
    return std::string(status.message());
  }
  std::string dir_;
};

TEST_F(TlsFilesTest, WhatTheScriptMakesIsGood) {
  for (const char* role :
       {"admin", "user", "client", "viewer", "worker", "coordinator", "packager", "server"}) {
    EXPECT_TRUE(CheckTlsFiles(TlsFilesIn(dir_, role)).ok()) << role;
    const auto mode = std::filesystem::status(TlsFilesIn(dir_, role).key).permissions();
    EXPECT_EQ(mode, std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
  }
  EXPECT_TRUE(CheckTlsFiles({}).ok());
}

TEST_F(TlsFilesTest, FaultsNameTheFlagAndTheFile) {
  const TlsFiles good = TlsFilesIn(dir_, "user");
  EXPECT_THAT(Fault({good.cert, "", good.ca}), HasSubstr("--tls-cert needs --tls-key"));
  EXPECT_THAT(Fault({"", good.key, ""}), HasSubstr("--tls-key needs --tls-cert"));
  EXPECT_THAT(Fault({good.cert, TlsFilesIn(dir_, "admin").key, good.ca}),
              testing::AllOf(HasSubstr("admin.key"), HasSubstr("is not the key of")));
  EXPECT_THAT(Fault({good.key, good.key, good.ca}), HasSubstr("expected a certificate in PEM"));
  EXPECT_THAT(Fault({good.cert, good.cert, good.ca}), HasSubstr("expected a private key in PEM"));
  EXPECT_THAT(Fault({"", "", dir_ + "/none"}),
              HasSubstr("--tls-ca: " + dir_ + "/none: cannot be read"));
  std::ofstream(dir_ + "/empty");
  EXPECT_THAT(Fault({"", "", dir_ + "/empty"}), HasSubstr("expected a certificate in PEM"));
  EXPECT_THAT(Fault({"", "", dir_}), HasSubstr("expected a file"));
}

}  // namespace
}  // namespace shiftadd::access
