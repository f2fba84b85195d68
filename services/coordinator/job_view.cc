#include "services/coordinator/job_view.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"

namespace shiftadd::coordinator {

uint32_t CalibrationParts(const v1::JobSpec& spec) {
  return (spec.calibration().sequences() + kMicrobatch - 1) / kMicrobatch;
}
uint32_t HeldOutParts(const v1::JobSpec& spec) {
  return (spec.evaluation().sequences() + kMicrobatch - 1) / kMicrobatch;
}

namespace {

// The figures of a MEASURE task, which CheckResult has held against the task.
void AddMeasured(const ViewedTask& t, ReportMap* reports) {
  for (int l = 0; l < t.result.measure().layers_size(); ++l) {
    const v1::MeasuredLayer& measured = t.result.measure().layers(l);
    const auto& asked = t.task.measure().layers(l).candidates();
    for (v1::CandidateReport& c : *(*reports)[measured.layer()].mutable_candidates()) {
      for (int i = 0; i < measured.kl_size(); ++i) {
        if (asked[i].bits() == c.bits()) c.set_measured_kl(measured.kl(i));
      }
    }
  }
}

// Adds REFINING's note, "refining: " and what was done, unless PROFILING's says the same.
void AddNote(const std::string& note, v1::LayerReport* report) {
  if (note.empty()) return;
  const size_t colon = note.find(": ");
  const std::string done = colon == std::string::npos ? note : note.substr(colon + 2);
  if (report->note().find(done) != std::string::npos) return;
  report->set_note(absl::StrCat(report->note(), report->note().empty() ? "" : "; ", note));
}

}  // namespace

absl::StatusOr<JobView> JobView::Read(JobStore* store, const std::string& job_id) {
  JobView view;
  SA_ASSIGN_OR_RETURN(view.record_, store->GetJob(job_id));
  SA_ASSIGN_OR_RETURN(std::vector<TaskRecord> rows, store->ListTasks(job_id, true));
  for (TaskRecord& row : rows) {
    ViewedTask& t = view.tasks_.emplace_back();
    if (!t.task.ParseFromString(row.payload) || !t.result.ParseFromString(row.result)) {
      return absl::DataLossError(absl::StrCat("task ", row.task_id, ": its row is damaged"));
    }
    row.payload.clear();
    row.result.clear();
    t.record = std::move(row);
  }
  return view;
}

std::vector<const ViewedTask*> JobView::OfKind(v1::TaskKind kind) const {
  std::vector<const ViewedTask*> found;
  for (const ViewedTask& t : tasks_) {
    if (t.record.kind == kind) found.push_back(&t);
  }
  return found;  // the store lists by kind and ordinal
}

bool JobView::Done(v1::TaskKind kind) const {
  const auto found = OfKind(kind);
  return !found.empty() && std::all_of(found.begin(), found.end(), [](const ViewedTask* t) {
    return t->record.state == TaskState::kDone;
  });
}

bool JobView::AllDone() const {
  return std::all_of(tasks_.begin(), tasks_.end(),
                     [](const ViewedTask& t) { return t.record.state == TaskState::kDone; });
}

const ViewedTask* JobView::FirstFailed() const {
  for (const ViewedTask& t : tasks_) {
    if (t.record.state == TaskState::kFailed) return &t;
  }
  return nullptr;
}

std::vector<std::string> JobView::TokenDigests(bool held_out) const {
  std::vector<std::string> digests;
  for (const ViewedTask* t : OfKind(v1::TASK_KIND_CALIBRATE)) {
    if (t->task.calibrate().held_out() == held_out) {
      digests.push_back(t->result.calibrate().digest());
    }
  }
  return digests;
}

ReportMap JobView::Reports() const {
  ReportMap reports;
  for (const ViewedTask* t : OfKind(v1::TASK_KIND_PROFILE)) {
    if (t->record.state != TaskState::kDone) continue;
    for (const v1::LayerReport& layer : t->result.profile().layers()) {
      v1::LayerReport& report = reports[layer.layer().name()] = layer;
      if (report.worker().empty()) report.set_worker(t->record.worker);
    }
  }
  for (const ViewedTask* t : OfKind(v1::TASK_KIND_MEASURE)) AddMeasured(*t, &reports);
  for (const ViewedTask* t : OfKind(v1::TASK_KIND_REFINE)) {
    for (const v1::LayerReport& layer : t->result.refine().layers()) {  // JOIN's
      if (layer.candidates().empty()) continue;
      v1::LayerReport& report = reports[layer.layer().name()];
      *report.mutable_refined() = layer.candidates(0);
      AddNote(layer.note(), &report);
    }
  }
  return reports;
}

std::vector<std::string> JobView::KeptBlobs() const {
  std::vector<std::string> digests;
  auto add = [&](const std::string& digest) {
    if (!digest.empty()) digests.push_back(digest);
  };
  add(job().plan().config_digest());
  add(job().plan().tokenizer_digest());
  add(job().plan().generation_config_digest());
  for (const auto& [name, report] : Reports()) {
    for (const v1::CandidateReport& c : report.candidates()) add(c.digest());
    if (report.has_refined()) add(report.refined().digest());
  }
  add(Ends().head_digest());
  add(Ends().unquantized_digest());
  return digests;
}

const v1::EndsResult& JobView::Ends() const {
  const auto ends = OfKind(v1::TASK_KIND_ENDS);
  return ends.empty() ? v1::EndsResult::default_instance() : ends.front()->result.ends();
}

std::vector<const ViewedTask*> JobView::Evaluation() const {
  const auto tasks = OfKind(v1::TASK_KIND_EVALUATE);
  if (tasks.empty()) return {};
  const uint32_t round = tasks.back()->task.evaluate().round();
  std::vector<const ViewedTask*> last;
  for (const ViewedTask* t : tasks) {
    if (t->task.evaluate().round() == round) last.push_back(t);
  }
  return last;
}

std::vector<v1::Variant> JobView::Variants() const {
  const auto tasks = Evaluation();
  if (tasks.empty()) return {};
  const auto& variants = tasks.front()->task.evaluate().variants();
  return {variants.begin(), variants.end()};
}

const v1::Variant* JobView::Chosen(const std::vector<v1::Variant>& variants) const {
  if (!job().has_quality() || variants.empty()) return nullptr;
  // One variant alone is both: the mixed allocation, and the uniform one if they are equal.
  return &(job().quality().published_mixed() ? variants.front() : variants.back());
}

}  // namespace shiftadd::coordinator
