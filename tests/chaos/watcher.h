// A client that submits one job and watches it to its end, whatever becomes of the daemons.
#ifndef SHIFTADD_TESTS_CHAOS_WATCHER_H_
#define SHIFTADD_TESTS_CHAOS_WATCHER_H_

#include <atomic>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "services/rpc/failover.h"
#include "shiftadd/v1/job.grpc.pb.h"

namespace shiftadd::testing {

// Runs on a thread of its own until the job has ended or Stop. Thread-safe.
class Watcher {
 public:
  // `addresses` of coordinators, with commas.
  Watcher(const std::string& addresses, const v1::JobSpec& spec);
  // Watches one that exists already.
  Watcher(const std::string& addresses, const std::string& job_id);
  ~Watcher();

  void Stop();
  bool ended() const { return ended_; }
  // Of the job as far as events have told, for people: PROFILING; "submitting" before there is one.
  std::string state() const;
  std::string job_id() const;
  // As they came. A faultless one has 1, 2, 3, … as sequence numbers.
  std::vector<v1::JobEvent> events() const;
  // Gaps, repeats, refusals.
  std::vector<std::string> faults() const;

  // For use after the round, by the caller's thread.
  absl::StatusOr<v1::Job> Get() const;
  // All events from the first one on, read anew.
  absl::StatusOr<std::vector<v1::JobEvent>> ReadEvents() const;
  absl::Status DeleteJob() const;

 private:
  void Run();
  bool Submit();
  // One stream, from the first event that is not here yet.
  void WatchOnce();
  void Take(const v1::JobEvent& event);
  void AddFault(const std::string& fault);

  const v1::JobSpec spec_;
  const rpc::Failover<v1::JobService> coordinators_;
  mutable std::mutex mutex_;
  std::string job_id_, state_ = "submitting";
  std::vector<v1::JobEvent> events_;
  std::vector<std::string> faults_;
  grpc::ClientContext* stream_ = nullptr;
  std::atomic<bool> stop_{false}, ended_{false};
  std::thread thread_;
};

}  // namespace shiftadd::testing

#endif  // SHIFTADD_TESTS_CHAOS_WATCHER_H_
