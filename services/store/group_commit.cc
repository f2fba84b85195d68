#include "services/store/group_commit.h"

#include <algorithm>

namespace shiftadd::sql {
namespace {

constexpr size_t kMaxBatch = 64;

}  // namespace

absl::Status GroupCommit::Write(const Database::Work& work) {
  Request own(&work);
  std::unique_lock<std::mutex> hold(mutex_);
  queue_.push_back(&own);
  if (writing_) own.wake.wait(hold, [&] { return own.done || own.leads; });
  if (own.done) return own.status;
  // Whoever is told to lead, or finds nobody who writes, is the first of the queue.
  writing_ = true;
  const auto end = queue_.begin() + static_cast<std::ptrdiff_t>(std::min(queue_.size(), kMaxBatch));
  const std::vector<Request*> batch(queue_.begin(), end);
  queue_.erase(queue_.begin(), end);
  hold.unlock();
  commit_(batch);
  hold.lock();
  // A request is gone as soon as it is done and the lock is free.
  for (Request* request : batch) {
    request->done = true;
    if (request != &own) request->wake.notify_one();
  }
  writing_ = !queue_.empty();
  if (writing_) {
    queue_.front()->leads = true;
    queue_.front()->wake.notify_one();
  }
  return own.status;
}

}  // namespace shiftadd::sql
