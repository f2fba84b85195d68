// Blobs made and stored beside the work that goes on: packing, hashing and fsync need no device.
#ifndef SHIFTADD_WORKER_TASKS_BACKGROUND_STORE_H_
#define SHIFTADD_WORKER_TASKS_BACKGROUND_STORE_H_

#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "services/blob/blob_store.h"

namespace shiftadd {

// Thread-safe. Destruction waits for what has begun and drops the rest.
class BackgroundStore {
 public:
  using Make = std::function<absl::StatusOr<std::string>()>;

  // At most `waiting` blobs wait for a thread.
  BackgroundStore(std::shared_ptr<BlobStore> store, int threads, size_t waiting);
  ~BackgroundStore();

  // The digest of the blob that `make` gives, once it is durable. Waits while as many as may be are
  // waiting: memory is bounded. With `job`: a scratch blob of this job.
  std::future<absl::StatusOr<std::string>> Put(Make make, std::string job = "");

 private:
  void Work();

  const std::shared_ptr<BlobStore> store_;
  const size_t most_waiting_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ = false;
  std::deque<std::packaged_task<absl::StatusOr<std::string>()>> waiting_;
  std::vector<std::thread> threads_;
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_TASKS_BACKGROUND_STORE_H_
