#include "services/base/fail_point.h"

#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <mutex>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace shiftadd {

absl::StatusOr<std::map<std::string, FailAction>> ParseFailPoints(absl::string_view text) {
  std::map<std::string, FailAction> points;
  for (const absl::string_view part : absl::StrSplit(text, ',', absl::SkipEmpty())) {
    const std::vector<std::string> fields = absl::StrSplit(part, ':');
    FailAction action;
    if (fields.size() != 3 || fields[0].empty() || !absl::SimpleAtoi(fields[1], &action.nth) ||
        action.nth == 0 || (fields[2] != "kill" && fields[2] != "stop" && fields[2] != "fail")) {
      return absl::InvalidArgumentError(absl::StrCat("SHIFTADD_FAIL_POINT: found \"", part,
                                                     "\", expected NAME:NTH:kill, :stop or :fail"));
    }
    action.kind = fields[2] == "kill"   ? FailAction::kKill
                  : fields[2] == "stop" ? FailAction::kStop
                                        : FailAction::kFail;
    points[fields[0]] = action;
  }
  return points;
}

#ifdef SHIFTADD_FAIL_POINTS
namespace {

class Points {
 public:
  Points() {
    const char* text = std::getenv("SHIFTADD_FAIL_POINT");
    if (text == nullptr) return;
    auto parsed = ParseFailPoints(text);
    if (!parsed.ok()) {
      Say(absl::StrCat(parsed.status().message(), "\n"));
      std::abort();
    }
    points_ = *std::move(parsed);
  }

  bool Reach(absl::string_view name) {
    if (points_.empty()) return false;
    const auto found = points_.find(std::string(name));
    if (found == points_.end()) return false;
    const FailAction& action = found->second;
    uint64_t times;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      times = ++reached_[found->first];
    }
    if (times != action.nth) return action.kind == FailAction::kFail && times > action.nth;
    static constexpr const char* kWords[] = {": kill\n", ": stop\n", ": fail\n"};
    Say(absl::StrCat("fail point ", name, kWords[action.kind]));
    if (action.kind == FailAction::kFail) return true;
    const bool stop = action.kind == FailAction::kStop;
    kill(getpid(), stop ? SIGSTOP : SIGKILL);
    // SIGKILL reaches this thread before it returns from kill(); SIGSTOP may not.
    if (!stop) pause();
    return false;
  }

 private:
  // In one piece and without buffers: the process may be gone with the next instruction.
  static void Say(const std::string& line) {
    const ssize_t ignored = write(STDERR_FILENO, line.data(), line.size());
    static_cast<void>(ignored);
  }

  std::map<std::string, FailAction> points_;
  std::mutex mutex_;
  std::map<std::string, uint64_t> reached_;
};

}  // namespace

bool ReachFailPoint(absl::string_view name) {
  static Points* const points = new Points();
  return points->Reach(name);
}
#else
bool ReachFailPoint(absl::string_view) { return false; }
#endif

}  // namespace shiftadd
