// Workers that do nothing but lease, wait and complete: real clients of a real coordinator.
#ifndef SHIFTADD_TESTS_SCALE_SIMULATED_WORKERS_H_
#define SHIFTADD_TESTS_SCALE_SIMULATED_WORKERS_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "shiftadd/v1/task.grpc.pb.h"
#include "tests/scale/latencies.h"

namespace shiftadd::testing {

struct WorkerFigures {
  Latencies lease, renew, complete;
  std::atomic<int64_t> idle_us{0};    // from the end of a task's work to the next one's beginning
  std::atomic<int64_t> leased_us{0};  // tasks' work
  std::atomic<uint64_t> tasks{0}, empty_leases{0};
  std::atomic<int64_t> empty_us{0};  // of idle_us, while there was no task to be had
  std::mutex mutex;
  std::string fault;  // the first call that failed, under mutex
};

// Each has a thread and a connection of its own. They work from construction to destruction.
class SimulatedWorkers {
 public:
  using Answer = std::function<v1::TaskResult(const v1::Task&)>;  // thread-safe

  // `task`: how long one task takes; it renews its lease once, half way.
  SimulatedWorkers(int count, const std::string& coordinator, absl::Duration task, Answer answer,
                   WorkerFigures* figures);
  ~SimulatedWorkers();

 private:
  void Work(int index);
  bool Do(int index, v1::TaskService::Stub* stub, const v1::Task& task);
  void Fault(const char* call, const grpc::Status& status);
  void Sleep(absl::Duration time) const;

  const std::string coordinator_;
  const absl::Duration task_;
  const Answer answer_;
  WorkerFigures* const figures_;
  std::atomic<bool> stop_{false};
  std::vector<std::thread> threads_;
};

}  // namespace shiftadd::testing

#endif  // SHIFTADD_TESTS_SCALE_SIMULATED_WORKERS_H_
