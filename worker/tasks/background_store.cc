#include "worker/tasks/background_store.h"

#include <algorithm>
#include <new>
#include <utility>

#include "services/base/status_macros.h"

namespace shiftadd {

BackgroundStore::BackgroundStore(std::shared_ptr<BlobStore> store, int threads, size_t waiting)
    : store_(std::move(store)), most_waiting_(waiting) {
  for (int t = 0; t < std::max(threads, 1); ++t) threads_.emplace_back([this] { Work(); });
}

BackgroundStore::~BackgroundStore() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    waiting_.clear();
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

std::future<absl::StatusOr<std::string>> BackgroundStore::Put(Make make, std::string job) {
  std::packaged_task<absl::StatusOr<std::string>()> task(
      [this, make = std::move(make), job = std::move(job)]() -> absl::StatusOr<std::string> {
        try {
          SA_ASSIGN_OR_RETURN(const std::string blob, make());
          return job.empty() ? store_->Put(blob) : store_->PutScratch(job, blob);
        } catch (const std::bad_alloc&) {
          return absl::ResourceExhaustedError("out of memory while a blob was made and stored");
        }
      });
  std::future<absl::StatusOr<std::string>> digest = task.get_future();
  {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return waiting_.size() < most_waiting_; });
    waiting_.push_back(std::move(task));
  }
  changed_.notify_all();
  return digest;
}

void BackgroundStore::Work() {
  while (true) {
    std::packaged_task<absl::StatusOr<std::string>()> task;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      changed_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
      if (waiting_.empty()) return;
      task = std::move(waiting_.front());
      waiting_.pop_front();
    }
    changed_.notify_all();
    task();
  }
}

}  // namespace shiftadd
