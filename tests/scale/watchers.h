// Many clients that watch jobs, on few threads.
#ifndef SHIFTADD_TESTS_SCALE_WATCHERS_H_
#define SHIFTADD_TESTS_SCALE_WATCHERS_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "shiftadd/v1/job.grpc.pb.h"

namespace shiftadd::testing {

struct WatchFigures {
  std::atomic<uint64_t> events{0};
  std::atomic<uint64_t> gaps{0};  // sequence numbers that were skipped or came again
  std::atomic<int> open{0};
  std::atomic<int> failed{0};  // streams that ended with an error before they were stopped
};

// `count` streams over `jobs` in turn, each from its job's first event, 100 to a connection; all
// are cancelled on destruction.
class Watchers {
 public:
  Watchers(int count, const std::string& coordinator, const std::vector<std::string>& jobs,
           WatchFigures* figures);
  ~Watchers();

 private:
  class Stream;
  std::vector<std::unique_ptr<v1::JobService::Stub>> stubs_;
  std::vector<std::unique_ptr<Stream>> streams_;
};

}  // namespace shiftadd::testing

#endif  // SHIFTADD_TESTS_SCALE_WATCHERS_H_
