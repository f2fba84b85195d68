#include "services/cli/progress_view.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "services/cli/evaluation_format.h"
#include "services/cli/proto_json.h"
#include "services/cli/quality_format.h"
#include "services/cli/table.h"
#include "services/cli/units.h"
#include "services/rpc/proto_duration.h"

namespace shiftadd::cli {
namespace {

double Ratio(const v1::Progress& progress) {
  return std::isfinite(progress.ratio()) ? std::clamp(progress.ratio(), 0.0, 1.0) : 0;
}

std::string Bar(double ratio, int width) {
  const int full = static_cast<int>(ratio * width);
  return absl::StrCat("[", std::string(full, '#'), std::string(width - full, '.'), "]");
}

std::string Cut(const std::string& line, int width) {
  return Utf8Length(line) <= static_cast<size_t>(width)
             ? line
             : line.substr(0, static_cast<size_t>(width));
}

std::string Paint(const std::string& text, const char* code, bool color) {
  return color ? absl::StrCat("\x1b[", code, "m", text, "\x1b[0m") : text;
}

// The figures that both views share: "layers 98/210, tasks 3/30, 2 workers, relative error 0.0312".
std::string Figures(const v1::Progress& p) {
  std::string text;
  const auto add = [&text](const std::string& piece) {
    absl::StrAppend(&text, text.empty() ? "" : ", ", piece);
  };
  if (p.layers_total() > 0) add(absl::StrCat("layers ", p.layers_done(), "/", p.layers_total()));
  if (p.tasks_total() > 0) add(absl::StrCat("tasks ", p.tasks_done(), "/", p.tasks_total()));
  add(absl::StrCat(p.workers(), p.workers() == 1 ? " worker" : " workers"));
  if (p.output_error() > 0) add(absl::StrCat("relative error ", FormatShort(p.output_error())));
  return text;
}

std::string Clock(const google::protobuf::Timestamp& time) {
  return absl::FormatTime("%H:%M:%S", absl::FromUnixSeconds(time.seconds()), absl::UTCTimeZone());
}

}  // namespace

std::string StateName(v1::JobState state) {
  const auto* value = v1::JobState_descriptor()->FindValueByNumber(state);
  return value == nullptr ? absl::StrCat("STATE_", static_cast<int>(state))
                          : absl::AsciiStrToUpper(ShortEnumName(value));
}

bool IsTerminal(v1::JobState state) {
  return state == v1::JOB_STATE_SUCCEEDED || state == v1::JOB_STATE_FAILED ||
         state == v1::JOB_STATE_CANCELLED;
}

std::string JobView::ProgressLine() const {
  std::string line = absl::StrFormat("%3.0f %%  %s", Ratio(progress_) * 100, Figures(progress_));
  if (progress_.has_eta())
    absl::StrAppend(&line, ", ",
                    FormatSeconds(absl::ToDoubleSeconds(rpc::FromProto(progress_.eta()))), " left");
  return line;
}

std::string JobView::Apply(const v1::JobEvent& event) {
  if (event.sequence() <= last_sequence_) return "";
  last_sequence_ = event.sequence();
  std::string line;
  switch (event.event_case()) {
    case v1::JobEvent::kState:
      if (event.state() == state_ && event.sequence() > 1) return "";
      state_ = event.state();
      told_step_ = -1;  // the next progress is worth a line
      line = StateName(state_);
      break;
    case v1::JobEvent::kProgress: {
      progress_ = event.progress();
      if (progress_.workers() > 0) notice_.clear();
      const int step = static_cast<int>(Ratio(progress_) * 20 + 1e-9);
      if (step == told_step_) return "";
      told_step_ = step;
      line = ProgressLine();
      break;
    }
    case v1::JobEvent::kTask:
      // Only what went wrong: leases and completions show in the progress.
      if (event.task().change() != "failed" && event.task().change() != "expired") return "";
      note_ = absl::StrCat("task ", event.task().task_id(), " (", event.task().kind(), ") ",
                           event.task().change(), " on ", event.task().worker(),
                           event.task().detail().empty() ? "" : ": ", event.task().detail());
      line = note_;
      break;
    case v1::JobEvent::kLog:
      note_ = event.log();
      line = event.log();
      break;
    case v1::JobEvent::kEvaluation:
      line = FormatQualityLine(event.evaluation());
      break;
    case v1::JobEvent::kPackageEvaluation:
      line = FormatEvaluationLine(event.package_evaluation());
      break;
    case v1::JobEvent::kPackageDigest:
      line = absl::StrCat("package ", event.package_digest());
      break;
    case v1::JobEvent::kLayer:
    case v1::JobEvent::EVENT_NOT_SET:
      return "";
  }
  return absl::StrCat(Clock(event.time()), "  ", line);
}

std::string JobView::Refresh(const v1::Progress& progress, const std::string& notice,
                             absl::Time now) {
  const bool is_new = !notice.empty() && notice != notice_;
  notice_ = notice;
  progress_ = progress;
  if (!is_new) return "";
  return absl::StrCat(absl::FormatTime("%H:%M:%S", now, absl::UTCTimeZone()), "  ", notice);
}

std::vector<std::string> JobView::Render(int width, bool color) const {
  const std::string state = absl::StrFormat("%-12s", StateName(state_));
  std::string tail = absl::StrFormat(" %5.1f %%", Ratio(progress_) * 100);
  if (progress_.has_eta() && notice_.empty() && !IsTerminal(state_)) {
    absl::StrAppend(&tail, "  ",
                    FormatSeconds(absl::ToDoubleSeconds(rpc::FromProto(progress_.eta()))), " left");
  }
  const int room = width - static_cast<int>(state.size() + tail.size()) - 3;
  std::string first;
  if (room < 8) {
    first = Cut(absl::StrCat(state, tail), width);
  } else {
    first = absl::StrCat(Paint(state, "1", color), " ",
                         Paint(Bar(Ratio(progress_), std::min(room, 40)), "36", color), tail);
  }
  std::vector<std::string> lines = {first, Cut(Figures(progress_), width)};
  if (!notice_.empty()) lines.push_back(Cut(notice_, width));
  if (!note_.empty()) lines.push_back(Cut(note_.substr(0, note_.find('\n')), width));
  return lines;
}

std::string FormatOutcome(const v1::Job& job) {
  std::string text = absl::StrCat(job.job_id(), " ", StateName(job.state()));
  if (job.state() == v1::JOB_STATE_FAILED) {
    absl::StrAppend(&text, " in ", StateName(job.resume_state()), ": ", job.error(), "\n");
    return text;
  }
  if (job.has_package_evaluation()) {
    absl::StrAppend(&text, ": the figures are stored with ", job.spec().evaluated_package());
  }
  if (!job.package_digest().empty()) {
    absl::StrAppend(&text, ": ", job.spec().output(), " is ", job.package_digest());
    if (job.quality().package_bytes() > 0)
      absl::StrAppend(&text, ", ", FormatBytes(job.quality().package_bytes()));
  }
  absl::StrAppend(&text, "\n");
  if (job.has_quality()) absl::StrAppend(&text, FormatQualityLine(job.quality()), "\n");
  return text;
}

}  // namespace shiftadd::cli
