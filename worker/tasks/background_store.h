// Blobs made and stored beside the work that goes on: packing, hashing and fsync need no device.
#ifndef SHIFTADD_WORKER_TASKS_BACKGROUND_STORE_H_
#define SHIFTADD_WORKER_TASKS_BACKGROUND_STORE_H_

#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
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

  // `store` must outlive this.
  BackgroundStore(BlobStore* store, int threads);
  ~BackgroundStore();

  // The digest of the blob that `make` gives, once it is durable. Waits while as many blobs as
  // threads are waiting: memory is bounded.
  std::future<absl::StatusOr<std::string>> Put(Make make);

 private:
  void Work();

  BlobStore* const store_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ = false;
  std::deque<std::packaged_task<absl::StatusOr<std::string>()>> waiting_;
  std::vector<std::thread> threads_;
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_TASKS_BACKGROUND_STORE_H_
