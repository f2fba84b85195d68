#include "services/daemon/daemon_flags.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

namespace shiftadd {
namespace {

class DaemonFlagsTest : public ::testing::Test {
 protected:
  void SetUp() override { std::filesystem::create_directories(dir_); }
  void TearDown() override {
    unsetenv("SHIFTADD_LOG_LEVEL");
    std::filesystem::remove_all(dir_);
  }

  std::optional<int> Parse(std::vector<const char*> arguments) {
    CLI::App app("test");
    AddDaemonFlags(&app, "tester", &flags_);
    arguments.insert(arguments.begin(), "tester");
    return ParseFlags(&app, static_cast<int>(arguments.size()), arguments.data());
  }
  std::string File(const std::string& text) {
    std::ofstream(dir_ / "config.toml") << text;
    return dir_ / "config.toml";
  }

  const std::filesystem::path dir_ =
      std::filesystem::path(::testing::TempDir()) / "daemon_flags_test";
  DaemonFlags flags_;
};

TEST_F(DaemonFlagsTest, CommandLineThenVariablesThenFile) {
  const std::string file = File("log-level = \"error\"\nlog-format = \"json\"\n");
  ASSERT_EQ(Parse({"--config", file.c_str()}), std::nullopt);
  EXPECT_EQ(flags_.log_level, "error");
  EXPECT_EQ(flags_.log_format, "json");

  setenv("SHIFTADD_LOG_LEVEL", "debug", 1);
  ASSERT_EQ(Parse({"--config", file.c_str()}), std::nullopt);
  EXPECT_EQ(flags_.log_level, "debug");

  ASSERT_EQ(Parse({"--config", file.c_str(), "--log-level", "warn"}), std::nullopt);
  EXPECT_EQ(flags_.log_level, "warn");
}

TEST_F(DaemonFlagsTest, MistakesAreSaidAndNotTaken) {
  const std::string unknown = File("log-levle = \"error\"\n");
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(Parse({"--config", unknown.c_str()}), 2);
  EXPECT_NE(::testing::internal::GetCapturedStderr().find("log-levle"), std::string::npos);
  setenv("SHIFTADD_LOG_LEVEL", "loud", 1);
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(Parse({}), 2);
  EXPECT_NE(::testing::internal::GetCapturedStderr().find("loud"), std::string::npos);
}

// Taken for absent, it would let everybody in.
TEST_F(DaemonFlagsTest, ProtectionThatIsNamedByNothingIsAMistake) {
  for (const char* option : {"--tokens", "--tls-cert", "--tls-ca", "--token-file"}) {
    ::testing::internal::CaptureStderr();
    EXPECT_EQ(Parse({option, ""}), 2);
    EXPECT_NE(::testing::internal::GetCapturedStderr().find(option + std::string(": expected")),
              std::string::npos)
        << option;
  }
  EXPECT_EQ(Parse({"--config", File("tokens = \"\"\n").c_str()}), 2);
}

TEST_F(DaemonFlagsTest, PortFile) {
  EXPECT_TRUE(WritePortFile("", {1}).ok());
  const std::string path = dir_ / "ports";
  ASSERT_TRUE(WritePortFile(path, {7070, 9470}).ok());
  std::ifstream in(path);
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(in), {}), "7070\n9470\n");
  const absl::Status status = WritePortFile(dir_ / "absent" / "ports", {1});
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(std::string(status.message()).find("--port-file"), std::string::npos);
}

}  // namespace
}  // namespace shiftadd
