#include "services/coordinator/watch_hub.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <utility>
#include <vector>

#include "services/coordinator/simulated_cluster.h"

namespace shiftadd::coordinator {
namespace {

constexpr absl::Duration kLong = absl::Seconds(20);
constexpr absl::Duration kShort = absl::Milliseconds(50);

class WatchHubTest : public ::testing::Test {
 protected:
  uint64_t Last(const std::string& job) { return cluster_.store->GetJob(job)->job.last_sequence(); }
  SimulatedCluster cluster_;
  const std::string a_ = cluster_.Submit(SimulatedCluster::Request()).job_id();
  const std::string b_ = cluster_.Submit(SimulatedCluster::Request()).job_id();
};

TEST_F(WatchHubTest, TellsOfEventsThatCameBeforeTheWait) {
  WatchHub hub(cluster_.store.get());
  WatchHub::Ticket ticket(&hub, a_);
  EXPECT_TRUE(ticket.Await(0, kLong));
  EXPECT_FALSE(ticket.Await(Last(a_), kShort)) << "there is nothing new";
}

TEST_F(WatchHubTest, WakesTheWatchersOfTheJobThatMovedAndOnlyThem) {
  WatchHub hub(cluster_.store.get());
  const uint64_t a = Last(a_), b = Last(b_);
  WatchHub::Ticket other(&hub, b_);
  std::atomic<int> woken{0};
  std::vector<std::thread> watchers;
  for (int i = 0; i < 20; ++i) {
    // Before the event: a later one would wait for the next.
    auto ticket = std::make_unique<WatchHub::Ticket>(&hub, a_);
    watchers.emplace_back([&, ticket = std::move(ticket)] {
      if (ticket->Await(a, kLong)) ++woken;
    });
  }
  v1::JobEvent event;
  event.set_log("something");
  ASSERT_TRUE(cluster_.store->AppendEvents(a_, {event}).ok());
  for (std::thread& watcher : watchers) watcher.join();
  EXPECT_EQ(woken, 20);
  EXPECT_FALSE(other.Await(b, kShort));
}

TEST_F(WatchHubTest, ALaterTicketAndAJobThatDoesNotExist) {
  WatchHub hub(cluster_.store.get());
  WatchHub::Ticket gone(&hub, "no such job");
  EXPECT_FALSE(gone.Await(0, kShort));
  WatchHub::Ticket ticket(&hub, a_);  // on a hub that has looked already
  v1::JobEvent event;
  event.set_log("something");
  const uint64_t a = Last(a_);
  ASSERT_TRUE(cluster_.store->AppendEvents(a_, {event}).ok());
  EXPECT_TRUE(ticket.Await(a, kLong));
}

}  // namespace
}  // namespace shiftadd::coordinator
