// What a job's events say, as plain lines (pipes) or as one redrawn view (terminals).
#ifndef SHIFTADD_SERVICES_CLI_PROGRESS_VIEW_H_
#define SHIFTADD_SERVICES_CLI_PROGRESS_VIEW_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "shiftadd/v1/job.pb.h"

namespace shiftadd::cli {

// "PROFILING".
std::string StateName(v1::JobState state);
// SUCCEEDED, FAILED or CANCELLED.
bool IsTerminal(v1::JobState state);

// A job as far as its events have told. Not thread-safe.
class JobView {
 public:
  // Takes one event in; events that were seen (by sequence) are ignored. Returns the plain line for
  // it, without a newline, or "" where it says nothing new: progress is told when a whole 5 % has
  // passed.
  std::string Apply(const v1::JobEvent& event);

  // What a coordinator says of the job now, when no event comes. `notice`: why it stands still;
  // empty: it does not. Returns the plain line of a notice that is new, or "".
  std::string Refresh(const v1::Progress& progress, const std::string& notice, absl::Time now);

  // Two lines, and what went wrong: state, bar, ratio and time left; layers, tasks, workers and the
  // current relative error. At most `width` characters each.
  std::vector<std::string> Render(int width, bool color) const;

  uint64_t last_sequence() const { return last_sequence_; }
  v1::JobState state() const { return state_; }

 private:
  std::string ProgressLine() const;

  uint64_t last_sequence_ = 0;
  v1::JobState state_ = v1::JOB_STATE_QUEUED;
  v1::Progress progress_;
  uint32_t layers_seen_ = 0;
  int told_step_ = -1;
  std::string note_, notice_;
};

// How a finished job ended: several lines, each with a newline.
std::string FormatOutcome(const v1::Job& job);

}  // namespace shiftadd::cli

#endif  // SHIFTADD_SERVICES_CLI_PROGRESS_VIEW_H_
