// Commands against services that answer in this process.
#ifndef SHIFTADD_SERVICES_CLI_TESTING_COMMAND_TEST_H_
#define SHIFTADD_SERVICES_CLI_TESTING_COMMAND_TEST_H_

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/cli/commands.h"
#include "services/rpc/rpc.h"

namespace shiftadd::cli {

// Jobs, Packages: implementations of JobService and PackageService, listening on loopback for the
// length of a test. `server_.reset()` takes them away.
template <typename Jobs, typename Packages>
class CommandTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    dir_ = (std::filesystem::path(::testing::TempDir()) /
            absl::StrCat("shiftadd.", getpid(), ".", info->test_suite_name(), ".", info->name()))
               .string();
    std::filesystem::create_directories(dir_);
    rpc::ServerOptions options;
    options.address = "127.0.0.1:0";
    auto server = rpc::Server::Start(options, {&jobs_, &packages_});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    address_ = absl::StrCat("127.0.0.1:", server_->port());
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  // Runs with the services' address in the environment and keeps what was written; the exit code.
  int Shiftadd(std::vector<std::string> arguments) {
    setenv("SHIFTADD_COORDINATOR", address_.c_str(), 1);
    setenv("SHIFTADD_PACKAGER", address_.c_str(), 1);
    setenv("SHIFTADD_DATA_DIR", dir_.c_str(), 1);
    std::ostringstream out, err;
    Context context{out, err};
    const int code = cli::Run(std::move(arguments), context);
    out_ = out.str();
    err_ = err.str();
    return code;
  }
  // Writes a file into the test's folder; its path.
  std::string File(const std::string& name, const std::string& content) {
    const std::string path = dir_ + "/" + name;
    std::ofstream(path) << content;
    return path;
  }

  Jobs jobs_;
  Packages packages_;
  std::unique_ptr<rpc::Server> server_;
  std::string address_, dir_, out_, err_;
};

}  // namespace shiftadd::cli

#endif  // SHIFTADD_SERVICES_CLI_TESTING_COMMAND_TEST_H_
