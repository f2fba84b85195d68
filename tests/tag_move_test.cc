// A server that follows a tag, as processes and under load: versions change, broken ones come, the
// packager goes away, and no request fails.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <csignal>
#include <filesystem>
#include <mutex>
#include <set>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/serving.h"

namespace shiftadd::testing {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

constexpr char kTag[] = "tiny:live";
constexpr int kClients = 6;

// Clients that ask for streamed completions one after the other until they are stopped.
class Load {
 public:
  explicit Load(int port) : port_(port) {
    for (int i = 0; i < kClients; ++i) threads_.emplace_back([this, i] { Run(i); });
  }
  ~Load() { Stop(); }
  void Stop() {
    stop_ = true;
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }
  int answered() const { return answered_; }
  // Waits until `count` more requests are answered.
  void Await(int count) const {
    const int until = answered_ + count;
    for (int i = 0; i < 6000 && answered_ < until; ++i) absl::SleepFor(absl::Milliseconds(10));
  }
  std::vector<std::string> failures() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return failures_;
  }
  // Of the versions that answered.
  std::set<std::string> fingerprints() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return fingerprints_;
  }

 private:
  void Run(int client) {
    for (int i = 0; !stop_; ++i) {
      const json body = {{"model", kTag},
                         {"prompt", {5 + client, 80, 33 + i % 100}},
                         {"max_tokens", 24},
                         {"temperature", 0},
                         {"ignore_eos", true},
                         {"stream", i % 3 != 0},
                         {"stream_options", i % 3 != 0 ? json{{"include_usage", true}} : json()}};
      const HttpAnswer answer = HttpClient(port_).Post("/v1/completions", body.dump());
      const std::string fault = Fault(answer, i % 3 != 0);
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!fault.empty()) failures_.push_back(fault);
      ++answered_;
    }
  }
  // Empty for a whole answer of one version.
  std::string Fault(const HttpAnswer& answer, bool stream) {
    if (!answer.ok()) return absl::StrCat(answer.status, " ", answer.fault, " ", answer.body);
    std::set<std::string> versions;
    int64_t tokens = -1;
    bool done = !stream;
    const auto take = [&](absl::string_view event) {
      done = done || event == "[DONE]";
      const json chunk = json::parse(event, nullptr, false);
      if (!chunk.is_object()) return;
      versions.insert(chunk.value("system_fingerprint", ""));
      const json usage = chunk.value("usage", json());
      if (usage.is_object()) tokens = usage["completion_tokens"];
    };
    size_t offset = 0;
    stream ? ForEachEvent(answer.body, &offset, take) : take(answer.body);
    if (!done || tokens != 24 || versions.size() != 1) {
      return absl::StrCat(tokens, " tokens of ", versions.size(), " versions: ", answer.body);
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    fingerprints_.insert(*versions.begin());
    return "";
  }

  const int port_;
  std::atomic<bool> stop_{false};
  std::atomic<int> answered_{0};
  std::mutex mutex_;
  std::vector<std::string> failures_;
  std::set<std::string> fingerprints_;
  std::vector<std::thread> threads_;
};

std::string Fingerprint(const std::string& digest) { return "shiftadd-" + digest.substr(0, 19); }

std::string Metric(const Serving& serving, const std::string& begin) {
  const std::string metrics = serving.Get("/metrics").body;
  const size_t at = metrics.find("\n" + begin);
  if (at == std::string::npos) return "";
  const size_t space = metrics.find(' ', at);
  return metrics.substr(space + 1, metrics.find('\n', space) - space - 1);
}

class TagMoveTest : public ::testing::TestWithParam<const char*> {};

TEST_P(TagMoveTest, NoRequestFails) {
  Serving serving;
  const std::string first = serving.Publish("tiny:v1", 1), second = serving.Publish("tiny:v2", 2);
  ASSERT_NE(first, second);
  ASSERT_TRUE(serving.packages().Tag("tiny:v1", kTag).ok());
  serving.StartServer({kTag}, {"--replace", GetParam()});
  Load load(serving.http_port());
  load.Await(20);

  ASSERT_TRUE(serving.packages().Tag("tiny:v2", kTag).ok());
  EXPECT_TRUE(serving.AwaitHealth(kTag, second, false)) << serving.ServerLog();
  load.Await(20);
  EXPECT_EQ(Metric(serving, "shiftadd_package_loads_total{model=\"tiny:live\",outcome=\"loaded\""),
            "1");
  EXPECT_THAT(serving.Get("/metrics").body, HasSubstr(absl::StrCat("digest=\"", second, "\"")));

  // Broken versions leave the old one where it is, and say so in every place.
  int failed = 0;
  for (const Damage damage : {Damage::kNotTensors, Damage::kBadDigest, Damage::kBadShape}) {
    const std::string broken = serving.Publish(kTag, 10 + failed, damage);
    EXPECT_TRUE(serving.AwaitHealth(kTag, second, true)) << serving.ServerLog();
    ++failed;
    EXPECT_THAT(serving.Health(kTag).value("error", ""), HasSubstr(broken));
    EXPECT_THAT(serving.Get("/health").body, HasSubstr("\"degraded\""));
    EXPECT_EQ(serving.Get("/ready").status, 200);
    EXPECT_THAT(serving.ServerLog(), HasSubstr(absl::StrCat("version ", broken, " cannot be")));
    const std::vector<v1::Replica> replicas = serving.packages().ListReplicas(kTag).value();
    ASSERT_EQ(replicas.size(), 1u);
    EXPECT_EQ(replicas[0].digest(), second);
    EXPECT_EQ(replicas[0].http_address(), absl::StrCat("127.0.0.1:", serving.http_port()));
    load.Await(10);
    ASSERT_TRUE(serving.packages().Tag("tiny:v2", kTag).ok());
    EXPECT_TRUE(serving.AwaitHealth(kTag, second, false)) << serving.ServerLog();
  }
  EXPECT_GE(std::stoi(Metric(
                serving, "shiftadd_package_loads_total{model=\"tiny:live\",outcome=\"failed\"")),
            failed);

  // Back and forth.
  for (const std::string version : {"tiny:v1", "tiny:v2", "tiny:v1"}) {
    ASSERT_TRUE(serving.packages().Tag(version, kTag).ok());
    EXPECT_TRUE(serving.AwaitHealth(kTag, version == "tiny:v1" ? first : second, false))
        << serving.ServerLog();
    load.Await(5);
  }
  load.Stop();
  EXPECT_THAT(load.failures(), ::testing::IsEmpty());
  EXPECT_EQ(load.fingerprints(), (std::set<std::string>{Fingerprint(first), Fingerprint(second)}));
  std::printf("%s: %d requests, %zu failed\n", GetParam(), load.answered(), load.failures().size());
}

INSTANTIATE_TEST_SUITE_P(Ways, TagMoveTest, ::testing::Values("beside", "drain", "auto"),
                         [](const auto& info) { return std::string(info.param); });

TEST(TagTest, ThePackagerMayBeAway) {
  Serving serving;
  const std::string first = serving.Publish(kTag, 1);
  serving.StartServer({kTag});
  Load load(serving.http_port());
  load.Await(5);
  serving.StopPackager();
  load.Await(20);
  EXPECT_EQ(serving.Health(kTag).value("state", ""), "serving");
  serving.StartPackager();
  const std::string second = serving.Publish(kTag, 2);
  EXPECT_TRUE(serving.AwaitHealth(kTag, second, false)) << serving.ServerLog();
  // A tag that is removed changes nothing but what health says.
  ASSERT_TRUE(serving.packages().Delete(kTag).ok());
  EXPECT_TRUE(serving.AwaitHealth(kTag, second, true)) << serving.ServerLog();
  EXPECT_THAT(serving.Health(kTag).value("error", ""), HasSubstr("gone"));
  load.Await(5);
  load.Stop();
  EXPECT_THAT(load.failures(), ::testing::IsEmpty());
}

TEST(TagTest, TwoModelsMoveAlone) {
  Serving serving;
  const std::string live = serving.Publish(kTag, 1), other = serving.Publish("other:x", 2);
  serving.StartServer({kTag, "other:x"});
  const std::string moved = serving.Publish("other:x", 3);
  EXPECT_TRUE(serving.AwaitHealth("other:x", moved, false)) << serving.ServerLog();
  EXPECT_TRUE(serving.AwaitHealth(kTag, live, false));
  EXPECT_EQ(serving.packages().ListReplicas()->size(), 2u);
}

// One version at a time: what runs ends on the old one, what comes meanwhile waits for the new one,
// and what runs too long is told why it ends.
TEST(TagTest, OneVersionAtATime) {
  Serving serving;
  serving.Publish(kTag, 1);
  serving.StartServer({kTag}, {"--replace", "drain", "--drain-seconds", "2"});
  const auto ask = [&](int tokens, size_t prompts) {
    const json body = {
        {"model", kTag},        {"prompt", std::vector<std::vector<int>>(prompts, {5, 80})},
        {"max_tokens", tokens}, {"n", 8},
        {"temperature", 0},     {"ignore_eos", true},
        {"stream", true}};
    return HttpClient(serving.http_port()).Post("/v1/completions", body.dump());
  };
  HttpAnswer endless, during;
  // Far more than two seconds of work.
  std::thread runs([&] { endless = ask(200, 200); });
  for (int i = 0; i < 1000 && Metric(serving, "shiftadd_running_sequences") == "0"; ++i) {
    absl::SleepFor(absl::Milliseconds(5));
  }
  const std::string second = serving.Publish(kTag, 2);
  for (int i = 0; i < 3000 && serving.Get("/ready").status == 200; ++i) {
    absl::SleepFor(absl::Milliseconds(5));
  }
  during = ask(8, 1);
  runs.join();
  EXPECT_TRUE(during.ok()) << during.status << during.body;
  EXPECT_THAT(during.body, HasSubstr(Fingerprint(second)));
  EXPECT_TRUE(serving.AwaitHealth(kTag, second, false)) << serving.ServerLog();
  EXPECT_EQ(serving.Get("/ready").status, 200);
  EXPECT_THAT(endless.body, HasSubstr("a new version takes this one's place"));
  EXPECT_THAT(endless.body, HasSubstr("--drain-seconds"));
}

// The new version cannot be loaded and the old one is lost: /ready says no, requests are told why
// at once, and a version that can be loaded brings both back.
TEST(TagTest, NoVersionIsLeft) {
  Serving serving;
  serving.Publish(kTag, 1);
  serving.StartServer({kTag}, {"--replace", "drain"});
  const json config = json::parse(serving.packages().Get(kTag)->config_json());
  const std::string layer = config["layers"][1]["digest"];
  EXPECT_EQ(serving.Get("/ready").status, 200);
  ASSERT_TRUE(std::filesystem::remove(serving.dir() + "/store/blobs/sha256/" + layer.substr(7)));
  const std::string broken = serving.Publish(kTag, 2, Damage::kNotTensors);
  HttpAnswer ready;
  for (int i = 0; i < 3000 && ready.body.find(broken) == std::string::npos; ++i) {
    ready = serving.Get("/ready");
    absl::SleepFor(absl::Milliseconds(10));
  }
  EXPECT_EQ(ready.status, 503);
  EXPECT_THAT(ready.body, HasSubstr("no version is loaded: version " + broken));
  EXPECT_EQ(serving.Get("/health").status, 200);
  const HttpAnswer refused = serving.Post("/v1/completions", {{"prompt", "a"}});
  EXPECT_EQ(refused.status, 503);
  EXPECT_THAT(refused.body, HasSubstr("no version is loaded"));
  const std::string good = serving.Publish(kTag, 3);
  EXPECT_TRUE(serving.AwaitHealth(kTag, good, false)) << serving.ServerLog();
  EXPECT_EQ(serving.Get("/ready").status, 200);
  EXPECT_TRUE(serving.Post("/v1/completions", {{"prompt", "a"}}).ok());
}

TEST(TagTest, SigtermLetsStreamsEnd) {
  Serving serving;
  serving.Publish(kTag, 1);
  serving.StartServer({kTag});
  std::atomic<int> begun{0}, whole{0};
  std::vector<std::thread> clients;
  for (int i = 0; i < kClients; ++i) {
    clients.emplace_back([&, i] {
      const json body = {{"model", kTag},    {"prompt", {5 + i, 80}}, {"max_tokens", 150}, {"n", 8},
                         {"temperature", 0}, {"ignore_eos", true},    {"stream", true}};
      bool first = true;
      HttpClient client(serving.http_port());
      const HttpAnswer answer =
          client.Post("/v1/completions", body.dump(), "", [&](absl::string_view) {
            if (std::exchange(first, false)) ++begun;
          });
      if (answer.ok() && absl::EndsWith(answer.body, "data: [DONE]\n\n")) ++whole;
    });
  }
  for (int i = 0; i < 3000 && begun < kClients; ++i) absl::SleepFor(absl::Milliseconds(10));
  EXPECT_EQ(begun, kClients);
  serving.server().Signal(SIGTERM);
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(whole, kClients) << serving.ServerLog();
  EXPECT_EQ(serving.server().Wait(absl::Seconds(30)), 0);
  // The packager lists it no more.
  for (int i = 0; i < 500 && !serving.packages().ListReplicas()->empty(); ++i) {
    absl::SleepFor(absl::Milliseconds(10));
  }
  EXPECT_THAT(serving.packages().ListReplicas().value(), ::testing::IsEmpty());
}

}  // namespace
}  // namespace shiftadd::testing
