#include "services/coordinator/watch_hub.h"

#include <vector>

#include "absl/time/clock.h"

namespace shiftadd::coordinator {
namespace {

// For so long the end of the hub waits, and a watcher for its first news of a change that nobody
// told of.
constexpr absl::Duration kWait = absl::Milliseconds(100);
// Between two looks at the store: changes that come in between are seen together.
constexpr absl::Duration kPause = absl::Milliseconds(30);

}  // namespace

WatchHub::~WatchHub() {
  {
    const std::lock_guard<std::mutex> hold(mutex_);
    stop_ = true;
    work_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

WatchHub::Ticket::Ticket(WatchHub* hub, const std::string& job_id) : hub_(hub), job_id_(job_id) {
  const std::lock_guard<std::mutex> hold(hub_->mutex_);
  std::unique_ptr<Job>& job = hub_->jobs_[job_id];
  if (job == nullptr) job = std::make_unique<Job>();
  ++job->tickets;
  job_ = job.get();
  if (!hub_->thread_.joinable()) hub_->thread_ = std::thread([hub] { hub->Run(); });
  hub_->work_.notify_all();
}

WatchHub::Ticket::~Ticket() {
  const std::lock_guard<std::mutex> hold(hub_->mutex_);
  if (--job_->tickets == 0) hub_->jobs_.erase(job_id_);
}

bool WatchHub::Ticket::Await(uint64_t known, absl::Duration timeout) {
  std::unique_lock<std::mutex> hold(hub_->mutex_);
  return job_->moved.wait_for(hold, absl::ToChronoMilliseconds(timeout),
                              [&] { return job_->last_sequence > known; });
}

void WatchHub::Run() {
  uint64_t seen = 0;
  while (true) {
    {
      std::unique_lock<std::mutex> hold(mutex_);
      work_.wait(hold, [&] { return stop_ || !jobs_.empty(); });
      if (stop_) return;
    }
    const uint64_t now = store_->AwaitChange(seen, kWait);
    if (now == seen) continue;
    seen = now;
    Refresh();
    absl::SleepFor(kPause);
  }
}

void WatchHub::Refresh() {
  std::vector<std::string> ids;
  {
    const std::lock_guard<std::mutex> hold(mutex_);
    for (const auto& [id, job] : jobs_) ids.push_back(id);
  }
  const auto sequences = store_->LastSequences(ids);
  if (!sequences.ok()) return;  // watchers look for themselves now and then
  const std::lock_guard<std::mutex> hold(mutex_);
  for (const auto& [id, sequence] : *sequences) {
    const auto found = jobs_.find(id);
    if (found == jobs_.end() || found->second->last_sequence >= sequence) continue;
    found->second->last_sequence = sequence;
    found->second->moved.notify_all();
  }
}

}  // namespace shiftadd::coordinator
