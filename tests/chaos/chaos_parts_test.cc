// What chaos is made with: a schedule is its seed's, a proxy does to connections what it is told,
// and the checks see what they are for.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/asio.hpp>
#include <filesystem>
#include <set>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/blob/blob_store.h"
#include "tests/chaos/checks.h"
#include "tests/chaos/proxy.h"
#include "tests/chaos/schedule.h"
#include "tests/process.h"

namespace shiftadd::testing {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

TEST(Schedule, IsAFunctionOfItsSeed) {
  std::set<std::string> different;
  for (uint64_t seed = 0; seed < 50; ++seed) {
    const std::string text = MakeSchedule(seed, absl::Seconds(5)).ToString();
    EXPECT_EQ(text, MakeSchedule(seed, absl::Seconds(5)).ToString());
    different.insert(text);
  }
  EXPECT_EQ(different.size(), 50u);
}

TEST(Schedule, HitsEverybodyInEveryWay) {
  std::set<std::pair<ActKind, Role>> seen;
  std::set<std::string> points;
  for (uint64_t seed = 0; seed < 1000; ++seed) {
    const Schedule schedule = MakeSchedule(seed, absl::Seconds(5));
    absl::Duration last = absl::ZeroDuration();
    for (const Act& act : schedule.acts) {
      EXPECT_GE(act.at, last);
      last = act.at;
      EXPECT_TRUE(schedule.postgres || act.kind != ActKind::kStore);
      seen.insert({act.kind, act.role});
      if (!act.fail_point.empty()) {
        points.insert(act.fail_point.substr(0, act.fail_point.find(':')));
      }
    }
  }
  EXPECT_EQ(seen.size(), 8u * 3u);
  for (const Role role : {Role::kCoordinator, Role::kWorker, Role::kPackager}) {
    for (const std::string& point : FailPointsOf(role)) EXPECT_EQ(points.count(point), 1u) << point;
  }
}

// Sends back what it gets, one connection after the other.
class Echo {
 public:
  Echo() : acceptor_(io_, {asio::ip::address_v4::loopback(), 0}), thread_([this] { Serve(); }) {}
  ~Echo() {
    stop_ = true;
    {
      boost::system::error_code ignored;
      tcp::socket wake(io_);
      wake.connect(acceptor_.local_endpoint(), ignored);
    }
    thread_.join();
  }
  int port() const { return acceptor_.local_endpoint().port(); }

 private:
  void Serve() {
    while (!stop_) {
      tcp::socket socket(io_);
      acceptor_.accept(socket);
      boost::system::error_code error;
      char data[64];
      while (!error) {
        const size_t size = socket.read_some(asio::buffer(data), error);
        if (!error) asio::write(socket, asio::buffer(data, size), error);
      }
    }
  }
  asio::io_context io_;
  tcp::acceptor acceptor_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

class ProxyTest : public ::testing::Test {
 protected:
  ProxyTest() { proxy_.SetTarget(echo_.port()); }
  tcp::socket Connect() {
    tcp::socket socket(io_);
    socket.connect({asio::ip::address_v4::loopback(), static_cast<uint16_t>(proxy_.port())});
    return socket;
  }
  // What comes back of "ping", or why nothing does.
  static std::string Ping(tcp::socket* socket) {
    boost::system::error_code error;
    asio::write(*socket, asio::buffer("ping", 4), error);
    if (error) return error.message();
    char data[4];
    asio::read(*socket, asio::buffer(data), error);
    return error ? error.message() : std::string(data, 4);
  }
  asio::io_context io_;
  Echo echo_;
  Proxy proxy_;
};

TEST_F(ProxyTest, HandsOnBothWays) {
  tcp::socket socket = Connect();
  EXPECT_EQ(Ping(&socket), "ping");
  EXPECT_EQ(proxy_.bytes(), 8u);
}

TEST_F(ProxyTest, DropsWhatIsOpenAndLetsOthersIn) {
  {
    tcp::socket socket = Connect();
    ASSERT_EQ(Ping(&socket), "ping");
    proxy_.Drop();
    EXPECT_NE(Ping(&socket), "ping");
    EXPECT_EQ(proxy_.dropped(), 1u);
  }
  tcp::socket another = Connect();
  EXPECT_EQ(Ping(&another), "ping");
}

TEST_F(ProxyTest, DelaysEachWay) {
  tcp::socket socket = Connect();
  proxy_.SetDelay(absl::Milliseconds(60));
  const absl::Time start = absl::Now();
  EXPECT_EQ(Ping(&socket), "ping");
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(120));
}

TEST_F(ProxyTest, HoldsUntilItIsLetGo) {
  tcp::socket socket = Connect();
  proxy_.SetHeld(true);
  std::atomic<bool> answered{false};
  std::thread client([&] { answered = Ping(&socket) == "ping"; });
  absl::SleepFor(absl::Milliseconds(150));
  EXPECT_FALSE(answered);
  proxy_.SetHeld(false);
  client.join();
  EXPECT_TRUE(answered);
}

TEST_F(ProxyTest, WithoutATargetNobodyIsLetIn) {
  proxy_.SetTarget(0);
  tcp::socket socket = Connect();
  EXPECT_NE(Ping(&socket), "ping");
}

v1::JobEvent TaskEvent(uint64_t sequence, const std::string& change) {
  v1::JobEvent event;
  event.set_sequence(sequence);
  event.mutable_task()->set_task_id("task-1");
  event.mutable_task()->set_change(change);
  return event;
}

v1::JobEvent End(uint64_t sequence) {
  v1::JobEvent event;
  event.set_sequence(sequence);
  event.set_state(v1::JOB_STATE_SUCCEEDED);
  return event;
}

TEST(CheckEvents, SeesGapsRepeatsAndWorkDoneTwice) {
  EXPECT_THAT(CheckEvents({TaskEvent(1, "leased"), TaskEvent(2, "done"), End(3)}), IsEmpty());
  EXPECT_THAT(CheckEvents({TaskEvent(1, "leased"), TaskEvent(3, "done"), End(4)}), Not(IsEmpty()));
  EXPECT_THAT(CheckEvents({TaskEvent(1, "done"), TaskEvent(2, "done"), End(3)}),
              ElementsAre(HasSubstr("then done")));
  EXPECT_THAT(CheckEvents({TaskEvent(1, "done"), TaskEvent(2, "leased"), End(3)}),
              ElementsAre(HasSubstr("then leased")));
  EXPECT_THAT(CheckEvents({TaskEvent(1, "done"), End(2), End(3)}), Not(IsEmpty()));
  EXPECT_THAT(CheckEvents({TaskEvent(1, "done")}), Not(IsEmpty()));  // no end
}

class CheckStore : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = NewTempDir("checks");
    store_ = OpenOciLayout(dir_).value();
    const std::string layer = store_->Put("layer").value(), config = store_->Put("config").value(),
                      other = store_->Put("other").value();
    const auto descriptor = [](const std::string& digest, size_t size) {
      return nlohmann::json{
          {"mediaType", "application/octet-stream"}, {"digest", digest}, {"size", size}};
    };
    const nlohmann::json manifest = {
        {"schemaVersion", 2},
        {"mediaType", "application/vnd.oci.image.manifest.v1+json"},
        {"config", descriptor(config, 6)},
        {"layers", nlohmann::json::array({descriptor(layer, 5), descriptor(other, 5)})}};
    layer_ = layer.substr(sizeof("sha256:") - 1);
    manifest_ = store_->Put(manifest.dump()).value();
    ASSERT_TRUE(store_
                    ->PutTag("a:b", {{"mediaType", "application/vnd.oci.image.manifest.v1+json"},
                                     {"digest", manifest_},
                                     {"size", manifest.dump().size()}})
                    .ok());
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  std::string dir_, layer_, manifest_;
  std::unique_ptr<BlobStore> store_;
};

TEST_F(CheckStore, ASoundOneHasNoFaults) {
  EXPECT_THAT(CheckBlobs(dir_, "a:b", manifest_), IsEmpty());
  EXPECT_THAT(CheckNoOrphans(dir_), IsEmpty());
}

TEST_F(CheckStore, ABlobThatIsHalfWritten) {
  WriteFile(absl::StrCat(dir_, "/blobs/sha256/", layer_), "lay");
  EXPECT_THAT(CheckBlobs(dir_, "a:b", manifest_), Not(IsEmpty()));
}

TEST_F(CheckStore, ABlobThatIsGone) {
  std::filesystem::remove(absl::StrCat(dir_, "/blobs/sha256/", layer_));
  EXPECT_THAT(CheckBlobs(dir_, "a:b", manifest_), Not(IsEmpty()));
}

TEST_F(CheckStore, ATagThatNamesAnother) {
  EXPECT_THAT(CheckBlobs(dir_, "a:b", "sha256:00"), Not(IsEmpty()));
  EXPECT_THAT(CheckBlobs(dir_, "a:c", manifest_), Not(IsEmpty()));
}

TEST_F(CheckStore, Orphans) {
  ASSERT_TRUE(store_->Put("nobody names this").ok());
  EXPECT_THAT(CheckNoOrphans(dir_), ElementsAre(HasSubstr("orphan")));
}

TEST_F(CheckStore, ScratchThatWasLeft) {
  ASSERT_TRUE(store_->PutScratch("job-1", "x").ok());
  EXPECT_THAT(CheckNoOrphans(dir_), ElementsAre(HasSubstr("left over")));
}

TEST_F(CheckStore, WhatAKilledWriterLeftGoes) {
  WriteFile(dir_ + "/tmp/tmp-1", "half");
  EXPECT_THAT(CheckNoOrphans(dir_), IsEmpty());
}

}  // namespace
}  // namespace shiftadd::testing
