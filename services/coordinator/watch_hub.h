// Tells watchers that their job has new events, so that a thousand of them cost one look at the
// store a change and not a thousand.
#ifndef SHIFTADD_SERVICES_COORDINATOR_WATCH_HUB_H_
#define SHIFTADD_SERVICES_COORDINATOR_WATCH_HUB_H_

#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "absl/time/time.h"
#include "services/store/job_store.h"

namespace shiftadd::coordinator {

// Thread-safe. Has a thread of its own from the first ticket on.
class WatchHub {
 private:
  struct Job {
    uint64_t last_sequence = 0;
    int tickets = 0;
    std::condition_variable moved;
  };

 public:
  // The store must outlive it, and so it all tickets.
  explicit WatchHub(JobStore* store) : store_(store) {}
  ~WatchHub();

  // One watcher of one job. Take it before the first look at the job's events: none that come later
  // are missed.
  class Ticket {
   public:
    Ticket(WatchHub* hub, const std::string& job_id);
    ~Ticket();
    Ticket(const Ticket&) = delete;
    Ticket& operator=(const Ticket&) = delete;
    // Waits until the job has an event behind `known`, or for `timeout`. True: it has.
    bool Await(uint64_t known, absl::Duration timeout);

   private:
    WatchHub* const hub_;
    const std::string job_id_;
    Job* job_;
  };

 private:
  void Run();
  void Refresh();

  JobStore* const store_;
  std::mutex mutex_;
  std::condition_variable work_;
  bool stop_ = false;
  std::map<std::string, std::unique_ptr<Job>> jobs_;
  std::thread thread_;
};

}  // namespace shiftadd::coordinator

#endif  // SHIFTADD_SERVICES_COORDINATOR_WATCH_HUB_H_
