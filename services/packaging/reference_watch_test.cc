// WatchReference and ListReplicas end to end: a real server, and the watch that servers use.
#include "services/packaging/reference_watch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/packaging/package_client.h"
#include "services/packaging/package_service.h"
#include "services/packaging/package_watch.h"
#include "services/packaging/packaging_test_util.h"
#include "shiftadd/v1/package.grpc.pb.h"

namespace shiftadd::packaging {
namespace {

// What a watch told, in order.
class Told {
 public:
  PackageWatch::OnDigest Callback() {
    return [this](const std::string& digest) {
      const std::lock_guard<std::mutex> lock(mutex_);
      digests_.push_back(digest);
      changed_.notify_all();
    };
  }
  // Waits until the newest is `digest`.
  bool Await(const std::string& digest) {
    std::unique_lock<std::mutex> lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(30),
                             [&] { return !digests_.empty() && digests_.back() == digest; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> digests_;
};

class ReferenceWatchTest : public PackagerFixture {
 protected:
  void SetUp() override {
    PackagerFixture::SetUp();
    Serve("127.0.0.1:0");
    address_ = absl::StrCat("127.0.0.1:", server_->port());
    client_ = PackageClient::Connect(address_);
  }
  void TearDown() override {
    server_.reset();
    PackagerFixture::TearDown();
  }
  void Serve(const std::string& address) {
    service_ = MakePackageService(packager_.get());
    server_ = rpc::Server::Start({address, false}, {service_.get()}).value();
  }
  std::string Publish(const std::string& variant) {
    return packager_->Publish(Spec("m:latest", variant)).value().digest;
  }
  static v1::Replica Replica(const std::string& reference, const std::string& http) {
    v1::Replica replica;
    replica.set_id("srv-1");
    replica.set_reference(reference);
    replica.set_http_address(http);
    replica.set_state(v1::REPLICA_STATE_LOADING);
    return replica;
  }
  // Waits until `digest` is pinned at the clock's time.
  bool AwaitPinned(const std::string& digest) {
    for (int i = 0; i < 3000; ++i) {
      packager_->WakeWaits();
      const std::vector<std::string> pins = store_->LivePins(clock_.Now()).value();
      if (std::find(pins.begin(), pins.end(), digest) != pins.end()) return true;
      absl::SleepFor(absl::Milliseconds(10));
    }
    return false;
  }
  // Collects until the package is gone.
  bool AwaitGone(const std::string& reference) {
    for (int i = 0; i < 3000; ++i) {
      if (!packager_->CollectGarbage(false).ok()) return false;
      if (absl::IsNotFound(packager_->Get(reference).status())) return true;
      absl::SleepFor(absl::Milliseconds(10));
    }
    return false;
  }
  // Waits until the packager lists `count` replicas in `state`.
  std::vector<v1::Replica> AwaitReplicas(size_t count, v1::ReplicaState state) {
    for (int i = 0; i < 3000; ++i) {
      std::vector<v1::Replica> found = client_->ListReplicas().value();
      bool all = found.size() == count;
      for (const v1::Replica& replica : found) all = all && replica.state() == state;
      if (all) return found;
      absl::SleepFor(absl::Milliseconds(10));
    }
    return {};
  }

  std::unique_ptr<grpc::Service> service_;
  std::unique_ptr<rpc::Server> server_;
  std::string address_;
  std::unique_ptr<PackageClient> client_;
};

TEST_F(ReferenceWatchTest, TellsEveryMoveOfTheTag) {
  const std::string first = Publish("a");
  Told told;
  const auto watch = PackageWatch::Start(address_, Replica("m:latest", "h:1"), told.Callback());
  EXPECT_TRUE(told.Await(first));
  const std::string second = Publish("b");
  ASSERT_NE(first, second);
  EXPECT_TRUE(told.Await(second));
  ASSERT_TRUE(client_->Tag("m@" + first, "m:latest").ok());
  EXPECT_TRUE(told.Await(first));
  ASSERT_TRUE(client_->Delete("m:latest").ok());
  EXPECT_TRUE(told.Await(""));
}

TEST_F(ReferenceWatchTest, ReplicasAreListedWhileTheyLive) {
  const std::string digest = Publish("a");
  EXPECT_THAT(client_->ListReplicas().value(), testing::IsEmpty());
  Told told;
  auto second = PackageWatch::Start(address_, Replica("m:latest", "h:2"), told.Callback());
  const auto first = PackageWatch::Start(address_, Replica("m:latest", "h:1"), told.Callback());
  ASSERT_EQ(AwaitReplicas(2, v1::REPLICA_STATE_LOADING).size(), 2u);
  for (auto* watch : {first.get(), second.get()}) {
    v1::Replica replica = Replica("m:latest", watch == first.get() ? "h:1" : "h:2");
    replica.set_state(v1::REPLICA_STATE_SERVING);
    replica.set_digest(digest);
    watch->Report(replica);
  }
  const std::vector<v1::Replica> serving = AwaitReplicas(2, v1::REPLICA_STATE_SERVING);
  ASSERT_EQ(serving.size(), 2u);
  EXPECT_EQ(serving[0].http_address(), "h:1");
  EXPECT_EQ(serving[1].digest(), digest);
  EXPECT_GT(serving[0].update_time().seconds(), 0);
  EXPECT_EQ(client_->ListReplicas("m:latest").value().size(), 2u);
  EXPECT_EQ(client_->ListReplicas("n:latest").value().size(), 0u);
  second.reset();
  EXPECT_EQ(AwaitReplicas(1, v1::REPLICA_STATE_SERVING).size(), 1u);
}

TEST_F(ReferenceWatchTest, WhatAReplicaServesIsNotCollected) {
  const std::string first = Publish("first"), second = Publish("second");
  ASSERT_TRUE(packager_->Delete("m:latest").ok());  // no tag names either now
  AgeBlobs();
  clock_.Advance(absl::Hours(2));
  v1::Replica replica = Replica("m:latest", "127.0.0.1:1");
  replica.set_digest(first);
  replica.set_state(v1::REPLICA_STATE_SERVING);
  Told told;
  auto watch = PackageWatch::Start(address_, replica, told.Callback());
  ASSERT_EQ(AwaitReplicas(1, v1::REPLICA_STATE_SERVING).size(), 1u);
  ASSERT_TRUE(told.Await(""));  // what it said of itself has been taken by now
  EXPECT_GT(packager_->CollectGarbage(false)->blobs, 0u);
  EXPECT_EQ(packager_->Get("m@" + second).status().code(), absl::StatusCode::kNotFound);
  const PackageDetails held = packager_->Get("m@" + first).value();
  for (const Descriptor& layer : held.info.layers) EXPECT_TRUE(blobs_->Get(layer.digest).ok());
  // It has gone over to another version: nobody needs the first one.
  const std::string third = Publish("third");
  replica.set_digest(third);
  replica.set_state(v1::REPLICA_STATE_LOADING);
  watch->Report(replica);
  ASSERT_TRUE(packager_->Delete("m:latest").ok());
  AgeBlobs();
  clock_.Advance(absl::Hours(2));
  ASSERT_TRUE(AwaitPinned(third));
  EXPECT_TRUE(AwaitGone("m@" + first));
  EXPECT_TRUE(packager_->Get("m@" + third).ok());
  watch.reset();
  EXPECT_TRUE(AwaitGone("m@" + third));
}

TEST_F(ReferenceWatchTest, APackageOfTheLongestNameIsHeldToo) {
  const std::string name(255, 'n');
  const std::string digest = packager_->Publish(Spec(name + ":latest", "a")).value().digest;
  v1::Replica replica = Replica(absl::StrCat(name, ":", std::string(128, 't')), "h:1");
  replica.set_digest(digest);
  Told told;
  const auto watch = PackageWatch::Start(address_, replica, told.Callback());
  EXPECT_TRUE(AwaitPinned(digest));
}

TEST_F(ReferenceWatchTest, ADeadStreamOfAReplicaEndsNotWhatItsNextOneHolds) {
  const std::string digest = Publish("a");
  v1::Replica replica = Replica("m:latest", "h:1");
  replica.set_digest(digest);
  replica.set_state(v1::REPLICA_STATE_SERVING);
  Told told;
  auto dead = PackageWatch::Start(address_, replica, told.Callback());
  ASSERT_EQ(AwaitReplicas(1, v1::REPLICA_STATE_SERVING).size(), 1u);
  const auto next = PackageWatch::Start(address_, replica, told.Callback());
  ASSERT_EQ(AwaitReplicas(2, v1::REPLICA_STATE_SERVING).size(), 2u);
  ASSERT_TRUE(AwaitPinned(digest));
  dead.reset();
  ASSERT_EQ(AwaitReplicas(1, v1::REPLICA_STATE_SERVING).size(), 1u);  // its pins are gone by then
  EXPECT_THAT(store_->LivePins(clock_.Now()).value(), testing::ElementsAre(digest));
}

TEST_F(ReferenceWatchTest, ComesBackAfterThePackagerWasAway) {
  const std::string digest = Publish("a");
  Told told;
  const auto watch = PackageWatch::Start(address_, Replica("m:latest", "h:1"), told.Callback());
  ASSERT_TRUE(told.Await(digest));
  server_.reset();
  const std::string second = Publish("b");
  Serve(address_);
  EXPECT_TRUE(told.Await(second));
  EXPECT_EQ(AwaitReplicas(1, v1::REPLICA_STATE_LOADING).size(), 1u);
}

TEST_F(ReferenceWatchTest, AStoppingPackagerEndsWatchesAtOnce) {
  const std::string digest = Publish("a");
  Told told;
  const auto watch = PackageWatch::Start(address_, Replica("m:latest", "h:1"), told.Callback());
  ASSERT_TRUE(told.Await(digest));
  packager_->EndWaits();
  server_->Shutdown(absl::Hours(1));  // would wait that long for a stream that goes on
}

TEST_F(ReferenceWatchTest, RefusesWhatIsNoReferenceOrCannotBeShown) {
  const auto stub = v1::PackageService::NewStub(rpc::MakeChannel(address_));
  const auto expect_refused = [&](const v1::Replica& replica, const std::string& why) {
    grpc::ClientContext context;
    const auto stream = stub->WatchReference(&context);
    v1::WatchReferenceRequest request;
    *request.mutable_replica() = replica;
    stream->Write(request);
    v1::WatchReferenceResponse response;
    EXPECT_FALSE(stream->Read(&response));
    const grpc::Status status = stream->Finish();
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_THAT(status.error_message(), testing::HasSubstr(why));
    EXPECT_THAT(client_->ListReplicas().value(), testing::IsEmpty());
  };
  expect_refused(Replica("No Name", "h:1"), "replica.reference");
  expect_refused(Replica("m:latest", "h:1\nh:2"), "replica.http_address");
  v1::Replica bad = Replica("m:latest", "h:1");
  bad.set_id("srv\x1b[A");
  expect_refused(bad, "replica.id");
  bad.set_id("srv-1");
  bad.set_digest("\x1b[2J");
  expect_refused(bad, "replica.digest");
  bad.set_digest("");
  bad.set_id(std::string(100'000, 's'));
  expect_refused(bad, "replica: found 100");
}

TEST_F(ReferenceWatchTest, AReplicasErrorIsPrintable) {
  Publish("a");
  v1::Replica replica = Replica("m:latest", "h:1");
  replica.set_error("layer \x1b[2J\nis damaged");
  Told told;
  const auto watch = PackageWatch::Start(address_, replica, told.Callback());
  const std::vector<v1::Replica> found = AwaitReplicas(1, v1::REPLICA_STATE_LOADING);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].error(), "layer \\x1b[2J\\nis damaged");
}

// An older packager that hangs: it knows no streams and does not answer.
class HangingPackager : public v1::PackageService::Service {
 public:
  grpc::Status ResolveReference(grpc::ServerContext* context,
                                const v1::ResolveReferenceRequest* /*request*/,
                                v1::ResolveReferenceResponse* /*response*/) override {
    asked = true;
    while (!context->IsCancelled()) absl::SleepFor(absl::Milliseconds(1));
    in_time = std::chrono::system_clock::now() < context->deadline();
    return grpc::Status::CANCELLED;
  }
  std::atomic<bool> asked = false, in_time = false;
};

TEST(PackageWatchEnds, ACallThatIsNotAnsweredIsCancelled) {
  HangingPackager packager;
  auto server = rpc::Server::Start({"127.0.0.1:0", false}, {&packager});
  ASSERT_TRUE(server.ok()) << server.status();
  Told told;
  auto watch = PackageWatch::Start(absl::StrCat("127.0.0.1:", (*server)->port()), v1::Replica(),
                                   told.Callback());
  while (!packager.asked) absl::SleepFor(absl::Milliseconds(1));
  watch.reset();
  server->reset();  // waits for the handler
  EXPECT_TRUE(packager.in_time) << "the call ran to its deadline";
}

}  // namespace
}  // namespace shiftadd::packaging
