// INGESTING and CALIBRATING: the plan, the hashes, the token windows, and the cut of PROFILING.
#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "services/coordinator/planner_internal.h"
#include "services/job/recipe.h"

namespace shiftadd::coordinator::internal {
namespace {

// Far beyond any model, and what a planner still has memory and time for.
constexpr int kMaxLayers = 100'000;
constexpr double kMaxSeconds = 1e12;

uint32_t PartSize(uint32_t sequences, uint32_t part) {
  return std::min(kMicrobatch, sequences - part * kMicrobatch);
}

// Where the held-out windows begin in their text, counted in windows of their own length.
uint32_t HeldOutTextFirst(const v1::JobSpec& spec) {
  const v1::Calibration& c = spec.calibration();
  const v1::Evaluation& e = spec.evaluation();
  if (!e.text_digest().empty()) return e.skip();
  if (c.text_digest().empty()) return 0;
  const uint64_t tokens = uint64_t{c.sequences()} * c.length();
  return static_cast<uint32_t>((tokens + e.length() - 1) / e.length());
}

void AddCalibrationTasks(const v1::Job& job, JobUpdate* update) {
  const v1::Calibration& c = job.spec().calibration();
  for (uint32_t part = 0; part < CalibrationParts(job.spec()); ++part) {
    v1::Task task = StartTask(job, v1::TASK_KIND_CALIBRATE);
    v1::CalibrateTask* t = task.mutable_calibrate();
    t->set_first(part * kMicrobatch);
    t->set_count(PartSize(c.sequences(), part));
    t->set_length(c.length());
    t->set_text_digest(c.text_digest());
    t->set_text_first(c.text_digest().empty() ? 0 : t->first());
    AddTask(update, task, part);
  }
}

// What the held-out windows follow in their text, in words; empty: they begin it.
std::string HeldOutPlace(const v1::Evaluation& e) {
  if (e.text_digest().empty()) return " behind the calibration's";
  return e.skip() == 0 ? "" : absl::StrCat(" behind the ", e.skip(), " of evaluation.skip");
}

absl::Status CheckPlan(const v1::Plan& plan) {
  if (plan.layers().empty() || plan.blocks() == 0) {
    return absl::InvalidArgumentError("source: the model has no linear layer to quantize");
  }
  // Each block is a task, which names all of its layers.
  if (plan.layers_size() > kMaxLayers ||
      plan.blocks() > static_cast<uint32_t>(plan.layers_size())) {
    return absl::InternalError(
        absl::StrCat("plan: found ", plan.layers_size(), " layers in ", plan.blocks(),
                     " blocks, expected one in each block and ", kMaxLayers, " at most"));
  }
  if (!(plan.estimated_seconds() >= 0 && plan.estimated_seconds() <= kMaxSeconds)) {
    return absl::InternalError(
        absl::StrCat("plan: found ", plan.estimated_seconds(), " estimated seconds"));
  }
  for (const v1::LayerPlan& layer : plan.layers()) {
    if (layer.block() < plan.blocks() && layer.rows() > 0 && layer.cols() > 0) continue;
    return absl::InternalError(absl::StrCat("plan: layer ", layer.name(), ": block ", layer.block(),
                                            " of ", plan.blocks(), ", ", layer.rows(), " x ",
                                            layer.cols()));
  }
  return absl::OkStatus();
}

// The text of the held-out windows; empty: the model writes them.
const std::string& HeldOutText(const v1::JobSpec& spec) {
  const std::string& own = spec.evaluation().text_digest();
  return own.empty() ? spec.calibration().text_digest() : own;
}

// Windows cut from a text cost nothing, and what they lack is known before the work starts. Written
// ones cost as much as the calibration's and are not needed before EVALUATING: unless there is a
// worker for them right away, they follow the FORWARD tasks, for which all of PROFILING waits.
bool HeldOutAtOnce(const v1::JobSpec& spec, int workers) {
  return !HeldOutText(spec).empty() || workers > static_cast<int>(CalibrationParts(spec));
}

bool HeldOutPlanned(const JobView& view) {
  const auto tasks = view.OfKind(v1::TASK_KIND_CALIBRATE);
  return std::any_of(tasks.begin(), tasks.end(),
                     [](const ViewedTask* t) { return t->task.calibrate().held_out(); });
}

// All windows of one sort that were planned.
bool WindowsDone(const JobView& view, bool held_out) {
  const auto tasks = view.OfKind(v1::TASK_KIND_CALIBRATE);
  return std::all_of(tasks.begin(), tasks.end(), [held_out](const ViewedTask* t) {
    return t->task.calibrate().held_out() != held_out || t->record.state == TaskState::kDone;
  });
}

// The digests of the source's files go into the plan once they are known; false: nothing new.
bool NoteDigests(const JobView& view, JobUpdate* update) {
  const auto hashes = view.OfKind(v1::TASK_KIND_HASH);
  const auto& files = view.job().plan().source_files();
  if (hashes.empty() || hashes[0]->record.state != TaskState::kDone || files.empty() ||
      !files[0].digest().empty()) {
    return false;
  }
  *update->job.mutable_plan()->mutable_source_files() = hashes[0]->result.hash().files();
  return true;
}

// One for each part of the calibration whose windows are there, as soon as they are.
void AddForwardTasks(const JobView& view, int workers, JobUpdate* update) {
  std::set<uint32_t> planned;
  std::vector<uint32_t> splits = SplitBlocks(view.job().plan().blocks(), workers);
  for (const ViewedTask* t : view.OfKind(v1::TASK_KIND_FORWARD)) {
    planned.insert(t->record.ordinal);
    // The number of workers may have changed since: the parts must be cut alike.
    const auto& cut = t->task.forward().split_blocks();
    splits.assign(cut.begin(), cut.end());
  }
  const v1::Recipe& recipe = view.job().spec().recipe();
  const bool guided = recipe.hessian() == v1::HESSIAN_GUIDED;
  // One worker passes the activations on to itself.
  if (splits.empty() && !guided) return;
  for (const ViewedTask* made : view.OfKind(v1::TASK_KIND_CALIBRATE)) {
    const uint32_t part = made->record.ordinal;
    if (made->task.calibrate().held_out() || made->record.state != TaskState::kDone ||
        made->result.calibrate().count() < made->task.calibrate().count() ||
        planned.count(part) > 0) {
      continue;
    }
    v1::Task task = StartTask(view.job(), v1::TASK_KIND_FORWARD);
    v1::ForwardTask* t = task.mutable_forward();
    t->set_tokens_digest(made->result.calibrate().digest());
    t->set_part(part);
    for (const uint32_t split : splits) t->add_split_blocks(split);
    t->set_token_weights(guided);
    if (guided) t->set_chunks(recipe.chunks());
    AddTask(update, task, part);
  }
}

}  // namespace

void AddHashTask(const v1::Job& job, uint32_t ordinal, JobUpdate* update) {
  v1::Task hash = StartTask(job, v1::TASK_KIND_HASH);
  *hash.mutable_hash()->mutable_files() = job.plan().source_files();
  AddTask(update, hash, ordinal);
}

void AddHeldOutTasks(const v1::Job& job, JobUpdate* update) {
  const v1::Calibration& c = job.spec().calibration();
  const v1::Evaluation& e = job.spec().evaluation();
  const std::string& text = HeldOutText(job.spec());
  for (uint32_t part = 0; part < HeldOutParts(job.spec()); ++part) {
    v1::Task task = StartTask(job, v1::TASK_KIND_CALIBRATE);
    v1::CalibrateTask* t = task.mutable_calibrate();
    t->set_first(c.sequences() + part * kMicrobatch);
    t->set_count(PartSize(e.sequences(), part));
    t->set_length(e.length());
    t->set_held_out(true);
    t->set_text_digest(text);
    t->set_text_first(text.empty() ? 0 : HeldOutTextFirst(job.spec()) + part * kMicrobatch);
    AddTask(update, task, CalibrationParts(job.spec()) + part);
  }
}

std::string MissingWindows(const JobView& view) {
  uint64_t made[2] = {0, 0};
  uint32_t length[2] = {0, 0};
  bool open[2] = {false, !HeldOutPlanned(view)};
  for (const ViewedTask* t : view.OfKind(v1::TASK_KIND_CALIBRATE)) {
    const bool held_out = t->task.calibrate().held_out();
    open[held_out] |= t->record.state != TaskState::kDone;
    made[held_out] += t->result.calibrate().count();
    length[held_out] = t->task.calibrate().length();
  }
  const v1::JobSpec& spec = view.job().spec();
  const uint32_t wanted[2] = {spec.calibration().sequences(), spec.evaluation().sequences()};
  const char* const field[2] = {"calibration.sequences", "evaluation.sequences"};
  for (int held_out : {0, 1}) {
    if (open[held_out] || made[held_out] >= wanted[held_out]) continue;
    return absl::StrCat(field[held_out], ": the text gives ", made[held_out], " windows of ",
                        length[held_out], " tokens, asked for ", wanted[held_out],
                        held_out ? HeldOutPlace(spec.evaluation()) : "",
                        ": give a longer text, or fewer or shorter windows");
  }
  return "";
}

MaybeUpdate PlanIngesting(const JobView& view, int workers) {
  if (!view.AllDone()) return std::nullopt;
  JobUpdate update = StartUpdate(view);
  v1::Plan* plan = update.job.mutable_plan();
  *plan = view.OfKind(v1::TASK_KIND_INGEST).front()->result.ingest().plan();
  if (absl::Status status = CheckPlan(*plan); !status.ok()) return status;
  v1::Recipe expanded = update.job.spec().recipe();
  std::vector<FieldFault> faults = ExpandOverrides(&expanded, *plan);
  for (FieldFault& fault : CheckShapes(expanded, *plan)) faults.push_back(std::move(fault));
  if (!faults.empty()) return absl::InvalidArgumentError(FaultMessage(faults));
  FillFeasibility(update.job.spec(), plan);
  if (view.job().validate_only()) {
    update.job.set_state(v1::JOB_STATE_SUCCEEDED);
    return update;
  }
  if (!plan->budget_feasible()) return absl::FailedPreconditionError(plan->budget_message());
  // Gigabytes to be read, and nothing waits for their digests: beside the windows.
  AddHashTask(update.job, 0, &update);
  AddCalibrationTasks(update.job, &update);
  if (HeldOutAtOnce(update.job.spec(), workers)) AddHeldOutTasks(update.job, &update);
  update.job.set_state(v1::JOB_STATE_CALIBRATING);
  return update;
}

MaybeUpdate PlanCalibrating(const JobView& view, int workers) {
  JobUpdate update = StartUpdate(view);
  const bool noted = NoteDigests(view, &update);
  AddForwardTasks(view, workers, &update);
  const bool sampled = HeldOutText(view.job().spec()).empty();
  if (!view.Done(v1::TASK_KIND_HASH) || !WindowsDone(view, /*held_out=*/false) ||
      (!sampled && !WindowsDone(view, /*held_out=*/true))) {
    return update.tasks.empty() && !noted ? MaybeUpdate(std::nullopt) : update;
  }
  if (const std::string missing = MissingWindows(view); !missing.empty()) {
    return absl::InvalidArgumentError(missing);
  }
  update.job.set_state(v1::JOB_STATE_PROFILING);
  v1::Task ends = StartTask(view.job(), v1::TASK_KIND_ENDS);
  ends.mutable_ends();  // empty, but it says the kind
  AddTask(&update, ends, 0, /*rank=*/1);
  if (!HeldOutPlanned(view)) AddHeldOutTasks(view.job(), &update);
  return update;
}

}  // namespace shiftadd::coordinator::internal
