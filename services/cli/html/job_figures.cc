// Pictures of the job: its curve of budgets, its tasks over time.
#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/cli/html/markup.h"
#include "services/cli/html/plot.h"
#include "services/cli/html/report_page.h"
#include "services/cli/units.h"

namespace shiftadd::cli::html {
namespace {

double Seconds(const google::protobuf::Timestamp& time) {
  return static_cast<double>(time.seconds()) + time.nanos() * 1e-9;
}

// One lease: who did what, from when to when.
struct Span {
  std::string worker, task, kind, end;
  double begin_seconds = 0, end_seconds = 0;
};

std::vector<Span> SpansOf(const std::vector<v1::JobEvent>& events) {
  std::vector<Span> spans;
  std::map<std::string, size_t> open;  // by task
  double last = 0;
  for (const v1::JobEvent& event : events) {
    last = Seconds(event.time());
    if (event.event_case() != v1::JobEvent::kTask) continue;
    const v1::TaskEvent& task = event.task();
    if (task.change() == "leased") {
      open[task.task_id()] = spans.size();
      spans.push_back({task.worker(), task.task_id(), task.kind(), "running", last, last});
    } else if (const auto found = open.find(task.task_id()); found != open.end()) {
      spans[found->second].end = task.change();
      spans[found->second].end_seconds = last;
      open.erase(found);
    }
  }
  for (const auto& [task, index] : open) spans[index].end_seconds = last;
  return spans;
}

// Through the point that was measured nearest: the criterion is no KL, but goes with it.
double KlPerCriterion(const ReportData& data) {
  if (data.measured.empty() || data.budgets.empty()) return 0;
  const MeasuredBudget& own = data.measured[0];
  const auto nearest =
      std::min_element(data.budgets.begin(), data.budgets.end(), [&](const auto& a, const auto& b) {
        return std::abs(a.planes() - own.planes) < std::abs(b.planes() - own.planes);
      });
  return nearest->importance() > 0 ? own.kl / nearest->importance() : 0;
}

}  // namespace

std::string BudgetCurve(const ReportData& data) {
  const double scale = KlPerCriterion(data);
  if (data.budgets.size() < 2 || scale <= 0) return "";
  double low = 1e300, high = 0, x_min = 1e300, x_max = 0;
  const auto take = [&](double x, double y) {
    if (y > 0) low = std::min(low, y);
    high = std::max(high, y);
    x_min = std::min(x_min, x);
    x_max = std::max(x_max, x);
  };
  for (const auto& b : data.budgets) take(b.planes(), b.importance() * scale);
  for (const MeasuredBudget& m : data.measured) take(m.planes, m.kl);
  const Plot plot(x_min, x_max, low / 1.2, high * 1.2, true);
  std::string inside =
      plot.Axes("planes, mean over the weights", "KL, nats (logarithmic)", Plot::Numbers::kReal);
  std::vector<double> points;
  std::string dots;
  std::vector<std::vector<std::string>> rows;
  for (const v1::PlanBudgetResponse& b : data.budgets) {
    const double kl = b.importance() * scale;
    if (kl <= 0) continue;
    points.insert(points.end(), {plot.X(b.planes()), plot.Y(kl)});
    const std::string text =
        absl::StrCat("predicted at ", FormatFixed(b.planes(), 3), " planes: KL ", FormatShort(kl));
    dots += Dot(plot.X(b.planes()), plot.Y(kl), "c0", text);
    rows.push_back({"predicted", FormatFixed(b.planes(), 3), FormatFixed(b.stored_bits(), 3),
                    FormatBytes(b.package_bytes()), FormatShort(kl)});
  }
  inside += Path(points, "l0") + dots;
  for (const MeasuredBudget& m : data.measured) {
    inside += Dot(plot.X(m.planes), plot.Y(m.kl), "c1",
                  absl::StrCat(m.output, ": measured at ", FormatFixed(m.planes, 3), " planes: KL ",
                               FormatShort(m.kl)));
    rows.push_back({"measured: " + m.output, FormatFixed(m.planes, 3),
                    FormatFixed(m.stored_bits, 3), "", FormatShort(m.kl)});
  }
  return Figure(
      "budgets", "KL over bits",
      "From this job's candidates: the solver's criterion at each budget, scaled to the "
      "KL that was measured for this job, and every budget that was published and measured.",
      Legend({{"c0", "predicted"}, {"c1", "measured"}}) +
          Svg(Plot::kWidth, Plot::kHeight, "KL over planes", inside),
      Table({"", ">planes", ">stored bits", ">package", ">KL (nats)"}, rows));
}

std::string TaskTimeline(const std::vector<v1::JobEvent>& events) {
  const std::vector<Span> spans = SpansOf(events);
  if (spans.empty()) return "";
  double first = spans[0].begin_seconds, last = first;
  std::vector<std::string> workers, kinds;
  for (const Span& span : spans) {
    first = std::min(first, span.begin_seconds);
    last = std::max(last, span.end_seconds);
    for (auto [list, value] : {std::pair(&workers, &span.worker), std::pair(&kinds, &span.kind)}) {
      if (std::count(list->begin(), list->end(), *value) == 0) list->push_back(*value);
    }
  }
  std::sort(workers.begin(), workers.end());
  const double left = 8, width = 664, row = 46;
  const double scale = width / std::max(last - first, 1e-3);
  std::string inside;
  for (size_t w = 0; w < workers.size(); ++w) inside += Text(left, row * w + 16, workers[w]);
  std::vector<std::vector<std::string>> rows;
  std::map<std::pair<std::string, std::string>, std::pair<int, double>> totals;
  for (const Span& span : spans) {
    const size_t w = std::find(workers.begin(), workers.end(), span.worker) - workers.begin();
    const size_t k = std::find(kinds.begin(), kinds.end(), span.kind) - kinds.begin();
    const double seconds = span.end_seconds - span.begin_seconds;
    inside += Rect(
        left + (span.begin_seconds - first) * scale, row * w + 22, std::max(1.0, seconds * scale),
        18, absl::StrCat("c", k % 8),
        absl::StrCat(span.kind, " ", span.task, " on ", span.worker, ": ", FormatFixed(seconds, 2),
                     " s from ", FormatFixed(span.begin_seconds - first, 2), " s, ", span.end));
    auto& [count, sum] = totals[{span.worker, span.kind}];
    ++count;
    sum += seconds;
  }
  const double bottom = row * workers.size() + 4;
  inside += Line(left, bottom, left + width, bottom, "axis");
  for (int i = 0; i <= 4; ++i) {
    inside += Text(left + width * i / 4, bottom + 16, FormatSeconds((last - first) * i / 4),
                   i == 0   ? "start"
                   : i == 4 ? "end"
                            : "middle");
  }
  for (const auto& [key, total] : totals) {
    rows.push_back(
        {key.first, key.second, absl::StrCat(total.first), FormatFixed(total.second, 2)});
  }
  std::vector<std::pair<std::string, std::string>> legend;
  for (size_t k = 0; k < kinds.size(); ++k) legend.push_back({absl::StrCat("c", k % 8), kinds[k]});
  return Figure(
      "tasks", "Tasks by worker", "Every lease, from its start to its end.",
      Legend(legend) + Svg(680, static_cast<int>(bottom) + 26, "Tasks by worker over time", inside),
      Table({"worker", "task", ">leases", ">seconds"}, rows));
}

}  // namespace shiftadd::cli::html
