#include "services/cli/submit_spec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"

namespace shiftadd::cli {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class SourceUriTest : public ::testing::Test {
 protected:
  void SetUp() override {
    fs::create_directories(dir_ / "ggufs");
    std::ofstream(dir_ / "ggufs/model.gguf");
  }
  void TearDown() override { fs::remove_all(dir_); }
  static std::string Fault(const std::string& source) {
    return std::string(SourceUri(source).status().message());
  }
  const fs::path dir_ =
      fs::canonical(fs::temp_directory_path()) / absl::StrCat("submit_spec_test-", getpid());
};

TEST_F(SourceUriTest, AFolderOfGgufFilesIsNoSourceHoweverItIsNamed) {
  const std::string folder = dir_ / "ggufs";
  for (const std::string& source : {folder, "file://" + folder}) {
    EXPECT_THAT(Fault(source), HasSubstr("submit " + folder + "/model.gguf"));
  }
  EXPECT_EQ(SourceUri("file://" + folder + "/model.gguf").value(),
            SourceUri(folder + "/model.gguf").value());
  // What only the workers have is theirs to judge.
  EXPECT_EQ(SourceUri("file:///only/there").value(), "file:///only/there");
}

TEST_F(SourceUriTest, APathIsNotDecoded) {
  const std::string written = "file://" + (dir_ / "my%20models").string();
  EXPECT_EQ(SourceUri(written).value(), written);  // it may be one of the workers'
  fs::create_directories(dir_ / "my models");
  EXPECT_EQ(Fault(written),
            "source " + written +
                ": a path is taken as it is written, '%' as well: expected file://" +
                (dir_ / "my models").string());
  EXPECT_EQ(SourceUri("file:///100%/a").value(), "file:///100%/a");
  fs::create_directories(dir_ / "my%20models");
  EXPECT_EQ(SourceUri(written).value(), written);
}

}  // namespace
}  // namespace shiftadd::cli
