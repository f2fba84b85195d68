// `shiftadd status` shows who serves what, with the real daemons.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include "absl/time/clock.h"
#include "tests/cluster.h"
#include "tests/serving.h"

namespace shiftadd::testing {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

constexpr char kTag[] = "tiny:live";

TEST(ReplicaStatus, ShiftaddStatusShowsWhoServes) {
  const std::string data = NewTempDir("status");
  const auto shiftadd = [&](std::vector<std::string> words) {
    words.insert(words.begin(), Binary("shiftadd"));
    words.insert(words.end(), {"--data-dir", data});
    return RunCommand(words, absl::Seconds(120));
  };
  ASSERT_EQ(shiftadd({"up", "--workers", "1", "--coordinator-port", "0", "--packager-port", "0"})
                .exit_code,
            0);
  const json before = json::parse(shiftadd({"status", "--json"}).output);
  EXPECT_THAT(before["replicas"], ::testing::IsEmpty());
  const std::string packager = before["packager"];
  const auto packages = PackageClient::Connect(packager);
  const std::string first = PublishTiny(packages.get(), kTag, 1);
  const RunResult serve = RunCommand({Binary("shiftadd"), "serve", kTag, "--port", "0",
                                      "--grpc-port", "0", "--detach", "--packager", packager},
                                     absl::Seconds(120), {"SHIFTADD_DATA_DIR=" + data});
  ASSERT_EQ(serve.exit_code, 0) << serve.output;
  const auto replica = [&] {
    const json now = json::parse(shiftadd({"status", "--json"}).output);
    return now["replicas"].empty() ? json::object() : now["replicas"][0];
  };
  const auto await = [&](const std::string& digest) {
    for (int i = 0; i < 300 && replica().value("digest", "") != digest; ++i) {
      absl::SleepFor(absl::Milliseconds(50));
    }
    return replica();
  };
  const json shown = await(first);
  EXPECT_EQ(shown["digest"], first);
  EXPECT_EQ(shown["state"], "serving");
  EXPECT_EQ(shown["reference"], kTag);
  EXPECT_THAT(serve.output, HasSubstr(shown["http"].get<std::string>()));
  const std::string second = PublishTiny(packages.get(), kTag, 2);
  EXPECT_EQ(await(second)["digest"], second);
  const std::string text = shiftadd({"status"}).output;
  EXPECT_THAT(text, HasSubstr("REPLICA OF"));
  EXPECT_THAT(text, HasSubstr(second.substr(0, 19)));

  // Several that take any port, at once.
  std::vector<Process> servers;
  for (const char* tag : {"one:v1", "two:v1", "three:v1"}) {
    PublishTiny(packages.get(), tag, 3);
    servers.emplace_back(
        std::vector<std::string>{Binary("shiftadd"), "serve", tag, "--port", "0", "--grpc-port",
                                 "0", "--detach", "--packager", packager},
        data + "/" + tag + ".out", std::vector<std::string>{"SHIFTADD_DATA_DIR=" + data});
  }
  for (Process& server : servers) EXPECT_EQ(server.Wait(absl::Seconds(120)), 0);
  std::set<std::string> ports;
  const json now = json::parse(shiftadd({"status", "--json"}).output);
  for (const json& server : now["servers"]) {
    EXPECT_EQ(server["state"], "ready");
    ports.insert({server["http"].get<std::string>(), server["grpc"].get<std::string>()});
  }
  EXPECT_EQ(ports.size(), 8u);  // of four servers
  EXPECT_EQ(shiftadd({"down"}).exit_code, 0);
  std::filesystem::remove_all(data);
}

}  // namespace
}  // namespace shiftadd::testing
