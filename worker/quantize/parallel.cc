#include "worker/quantize/parallel.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <new>
#include <string>
#include <thread>
#include <vector>

namespace shiftadd::quantize {
namespace {

// An exception may not leave its thread: the process would end with it.
absl::Status Caught(const std::function<absl::Status(int64_t)>& work, int64_t item) {
  try {
    return work(item);
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("out of memory");
  } catch (const std::exception& e) {
    const std::string what = e.what();  // LibTorch's carry a trace behind their first line
    return absl::InternalError(what.substr(0, what.find('\n')));
  }
}

class Loop {
 public:
  Loop(int64_t count, TaskControl* control, const std::function<absl::Status(int64_t)>& work)
      : count_(count), control_(control), work_(work) {}

  void Drain() {
    while (!failed_) {
      const int64_t item = next_++;
      if (item >= count_) return;
      absl::Status status = control_ == nullptr ? absl::OkStatus() : control_->Check();
      if (status.ok()) status = Caught(work_, item);
      if (status.ok()) {
        if (control_ != nullptr) ++control_->progress_count;
        continue;
      }
      failed_ = true;
      std::lock_guard<std::mutex> lock(mutex_);
      if (first_.ok() || item < first_item_) {
        first_ = status;
        first_item_ = item;
      }
    }
  }
  absl::Status status() const { return first_; }

 private:
  const int64_t count_;
  TaskControl* const control_;
  const std::function<absl::Status(int64_t)>& work_;
  std::atomic<int64_t> next_{0};
  std::atomic<bool> failed_{false};
  std::mutex mutex_;
  absl::Status first_;
  int64_t first_item_ = 0;
};

}  // namespace

absl::Status ParallelFor(int64_t count, int threads, TaskControl* control,
                         const std::function<absl::Status(int64_t)>& work) {
  Loop loop(count, control, work);
  std::vector<std::thread> others;
  const int64_t extra = std::min<int64_t>(std::max(threads, 1), count) - 1;
  for (int64_t t = 0; t < extra; ++t) {
    try {
      others.emplace_back([&loop] { loop.Drain(); });
    } catch (const std::exception&) {
      break;  // no more threads to be had: those that run do the work
    }
  }
  loop.Drain();
  for (std::thread& thread : others) thread.join();
  return loop.status();
}

}  // namespace shiftadd::quantize
