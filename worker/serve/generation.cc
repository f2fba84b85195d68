#include "worker/serve/generation.h"

namespace shiftadd {

std::optional<GenerateEvent> Generation::Next(absl::Duration timeout) {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait_for(lock, absl::ToChronoMilliseconds(timeout), [this] { return !events_.empty(); });
  if (events_.empty()) return std::nullopt;
  GenerateEvent event = std::move(events_.front());
  events_.pop_front();
  return event;
}

void Generation::Push(GenerateEvent event) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    events_.push_back(std::move(event));
  }
  changed_.notify_one();
}

}  // namespace shiftadd
