// Two servers of one tag behind a client that asks /ready, as a load balancer does: each is ended
// with SIGTERM and started again in turn, under load, and no request fails.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <csignal>
#include <filesystem>
#include <mutex>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/cluster.h"
#include "tests/serving.h"

namespace shiftadd::testing {
namespace {

using nlohmann::json;

constexpr char kTag[] = "tiny:live";
constexpr int kServers = 2, kClients = 4;
// The balancer looks so often; servers take requests for much longer after they said no.
constexpr absl::Duration kLook = absl::Milliseconds(100);
constexpr char kDelaySeconds[] = "3";

// Knows which of the servers' ports are ready, a little late, as balancers do.
class Balancer {
 public:
  Balancer() : thread_([this] { Look(); }) {}
  ~Balancer() {
    stop_ = true;
    thread_.join();
  }
  // 0: the server is gone.
  void SetPort(int server, int port) { ports_[server] = port; }
  bool ready(int server) const { return ready_[server] != 0; }
  int ready_port(int turn) const {
    for (int i = 0; i < kServers; ++i) {
      if (const int port = ready_[(turn + i) % kServers]; port != 0) return port;
    }
    return 0;
  }

 private:
  void Look() {
    for (; !stop_; absl::SleepFor(kLook)) {
      for (int i = 0; i < kServers; ++i) {
        const int port = ports_[i];
        ready_[i] = port != 0 && HttpClient(port).Get("/ready").status == 200 ? port : 0;
      }
    }
  }

  std::array<std::atomic<int>, kServers> ports_{}, ready_{};
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

// Whole answers of streams, one after the other, over connections that are kept while they may be.
class Clients {
 public:
  explicit Clients(const Balancer* balancer) : balancer_(balancer) {
    for (int i = 0; i < kClients; ++i) threads_.emplace_back([this, i] { Run(i); });
  }
  ~Clients() { Stop(); }
  void Stop() {
    stop_ = true;
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }
  void Await(int count) const {
    const int until = answered_ + count;
    for (int i = 0; i < 6000 && answered_ < until; ++i) absl::SleepFor(absl::Milliseconds(10));
  }
  int answered() const { return answered_; }
  std::vector<std::string> failures() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return failures_;
  }

 private:
  void Run(int client) {
    std::unique_ptr<HttpClient> connection;
    for (int i = 0; !stop_; ++i) {
      const int port = balancer_->ready_port(client + i);
      if (connection == nullptr) connection = std::make_unique<HttpClient>(port);
      const json body = {{"model", kTag},      {"prompt", {5 + client, 80, 33 + i % 100}},
                         {"max_tokens", 40},   {"temperature", 0},
                         {"ignore_eos", true}, {"stream", i % 2 == 0}};
      const HttpAnswer answer = connection->Post("/v1/completions", body.dump());
      const auto kept = answer.headers.find("connection");
      // Every few requests another server, as a balancer of connections would.
      if (i % 5 == 4 || (kept != answer.headers.end() && kept->second == "close")) {
        connection.reset();
      }
      ++answered_;
      if (answer.ok() && (i % 2 != 0 || answer.body.find("[DONE]") != std::string::npos)) continue;
      const std::lock_guard<std::mutex> lock(mutex_);
      failures_.push_back(
          absl::StrCat("port ", port, ": ", answer.status, " ", answer.fault, " ", answer.body));
      connection.reset();
    }
  }

  const Balancer* const balancer_;
  std::atomic<bool> stop_{false};
  std::atomic<int> answered_{0};
  std::mutex mutex_;
  std::vector<std::string> failures_;
  std::vector<std::thread> threads_;
};

TEST(RollingTest, NoRequestFails) {
  Serving serving;
  serving.Publish(kTag, 1);
  std::array<Process, kServers> servers;
  Balancer balancer;
  const auto log = [&](int i) { return absl::StrCat(serving.dir(), "/server", i, ".log"); };
  const auto start = [&](int i) {
    const std::string ports = absl::StrCat(serving.dir(), "/server", i, ".ports");
    std::filesystem::remove(ports);
    servers[i] =
        Process({Binary("shiftadd-server"), "--packager", serving.packager_address(), "--package",
                 kTag, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--port-file", ports,
                 "--threads", "1", "--cache-mib", "16", "--drain-delay-seconds", kDelaySeconds},
                log(i));
    balancer.SetPort(i, WaitForPorts(ports, &servers[i], log(i))[1]);
    for (int turn = 0; turn < 3000 && !balancer.ready(i); ++turn) absl::SleepFor(kLook / 10);
    ASSERT_TRUE(balancer.ready(i)) << ReadFile(log(i));
  };
  for (int i = 0; i < kServers; ++i) start(i);
  Clients clients(&balancer);
  clients.Await(20);
  for (int round = 0; round < 2; ++round) {
    for (int i = 0; i < kServers; ++i) {
      servers[i].Signal(SIGTERM);
      EXPECT_EQ(servers[i].Wait(absl::Seconds(60)), 0) << ReadFile(log(i));
      balancer.SetPort(i, 0);
      start(i);
      clients.Await(10);
    }
  }
  clients.Stop();
  EXPECT_THAT(clients.failures(), ::testing::IsEmpty());
  std::printf("%d requests, %zu failed\n", clients.answered(), clients.failures().size());
  for (Process& server : servers) {
    server.Signal(SIGTERM);
    server.Wait(absl::Seconds(60));
  }
}

// The delay itself: not ready, serving, and saying so to who keeps a connection.
TEST(RollingTest, ServesOnWhileNotReady) {
  Serving serving;
  serving.Publish(kTag, 1);
  serving.StartServer({kTag}, {"--drain-delay-seconds", "5"});
  EXPECT_EQ(serving.Get("/ready").status, 200);
  HttpClient kept(serving.http_port());
  const std::string body = json{{"prompt", "a"}, {"max_tokens", 2}}.dump();
  EXPECT_TRUE(kept.Post("/v1/completions", body).ok());
  serving.server().Signal(SIGTERM);
  HttpAnswer ready;
  for (int i = 0; i < 400 && ready.status != 503; ++i) {
    ready = serving.Get("/ready");
    absl::SleepFor(absl::Milliseconds(5));
  }
  EXPECT_EQ(ready.status, 503);
  EXPECT_THAT(ready.body, ::testing::HasSubstr("shutting down"));
  const HttpAnswer answer = kept.Post("/v1/completions", body);
  EXPECT_TRUE(answer.ok()) << answer.status << answer.body;
  EXPECT_EQ(answer.headers.at("connection"), "close");
  EXPECT_EQ(serving.server().Wait(absl::Seconds(60)), 0) << serving.ServerLog();
}

}  // namespace
}  // namespace shiftadd::testing
