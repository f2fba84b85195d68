// PROFILING and ALLOCATING.
#include <algorithm>
#include <map>
#include <set>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "services/coordinator/job_allocation.h"
#include "services/coordinator/planner_internal.h"

namespace shiftadd::coordinator::internal {
namespace {

// Enough to rank layers, few enough that measuring each of them stays affordable.
constexpr uint32_t kMeasuredWindows = 3;

bool Guided(const JobView& view) {
  return view.job().spec().recipe().hessian() == v1::HESSIAN_GUIDED;
}

// The segments of PROFILING, as the FORWARD tasks were told; empty without any.
std::vector<uint32_t> PlannedSplits(const JobView& view) {
  const auto forward = view.OfKind(v1::TASK_KIND_FORWARD);
  if (forward.empty()) return {};
  const auto& splits = forward.front()->task.forward().split_blocks();
  return {splits.begin(), splits.end()};
}

// Of one block, in order of the parts; INTERNAL if a FORWARD task has left it out.
absl::Status AddTokenWeights(const JobView& view, v1::ProfileTask* t) {
  for (const ViewedTask* f : view.OfKind(v1::TASK_KIND_FORWARD)) {
    const auto& all = f->result.forward().token_weights();
    const auto found = std::find_if(
        all.begin(), all.end(), [&](const v1::TokenWeights& w) { return w.block() == t->block(); });
    if (found == all.end()) {
      return absl::InternalError(absl::StrCat("FORWARD task ", f->record.ordinal,
                                              ": gave no token weights for block ", t->block()));
    }
    *t->add_token_weights() = *found;
  }
  return absl::OkStatus();
}

absl::Status AddProfileTask(const JobView& view, uint32_t block,
                            const std::vector<uint32_t>& splits, JobUpdate* update) {
  v1::Task task = StartTask(view.job(), v1::TASK_KIND_PROFILE);
  v1::ProfileTask* t = task.mutable_profile();
  t->set_block(block);
  for (const std::string& digest : view.TokenDigests(false)) t->add_tokens_digests(digest);
  for (const v1::LayerPlan& layer : view.job().plan().layers()) {
    if (layer.block() == block) *t->add_layers() = layer;
  }
  AllowFactors(t->layers(), &task);
  const auto above = std::upper_bound(splits.begin(), splits.end(), block);
  const uint32_t lane = above == splits.begin() ? 0 : *(above - 1);
  if (lane > 0) {
    for (const ViewedTask* f : view.OfKind(v1::TASK_KIND_FORWARD)) {
      for (const v1::Boundary& b : f->result.forward().boundaries()) {
        if (b.block() == lane) *t->add_boundaries() = b;
      }
    }
  }
  if (Guided(view)) SA_RETURN_IF_ERROR(AddTokenWeights(view, t));
  AddTask(update, task, block, /*rank=*/1, lane);
  return absl::OkStatus();
}

// Blocks before the first split need no boundary and may start at once; the others wait for all
// FORWARD tasks, and so do all of them with guided Hessians.
absl::Status AddProfileTasks(const JobView& view, JobUpdate* update) {
  std::set<uint32_t> planned;
  for (const ViewedTask* t : view.OfKind(v1::TASK_KIND_PROFILE)) planned.insert(t->record.ordinal);
  const std::vector<uint32_t> splits = PlannedSplits(view);
  const bool forwarded = view.Done(v1::TASK_KIND_FORWARD);
  if (Guided(view) && !forwarded) return absl::OkStatus();
  const bool boundaries = splits.empty() || forwarded;
  const uint32_t end = boundaries ? view.job().plan().blocks() : splits.front();
  for (uint32_t block = 0; block < end; ++block) {
    if (planned.count(block) > 0) continue;
    SA_RETURN_IF_ERROR(AddProfileTask(view, block, splits, update));
  }
  return absl::OkStatus();
}

// One for each block that leaves a choice.
void AddMeasureTasks(const JobView& view, JobUpdate* update) {
  const v1::JobSpec& spec = view.job().spec();
  const uint32_t windows = std::min(kMeasuredWindows, spec.evaluation().sequences());
  std::vector<std::string> tokens = view.TokenDigests(true);
  tokens.resize(std::min<size_t>(tokens.size(), (windows + kMicrobatch - 1) / kMicrobatch));
  std::map<uint32_t, v1::MeasureTask> tasks;  // by block
  const ReportMap reports = view.Reports();
  for (const v1::LayerPlan& layer : view.job().plan().layers()) {
    const auto report = reports.find(layer.name());
    if (report == reports.end() || report->second.candidates_size() < 2) continue;
    *tasks[layer.block()].add_layers() = report->second;
  }
  for (auto& [block, measure] : tasks) {
    *measure.mutable_tokens_digests() = {tokens.begin(), tokens.end()};
    measure.set_windows(windows);
    v1::Task task = StartTask(view.job(), v1::TASK_KIND_MEASURE);
    *task.mutable_measure() = std::move(measure);
    AddTask(update, task, block, /*rank=*/1);
  }
}

}  // namespace

absl::Status CheckSource(const JobView& view) {
  const auto hashes = view.OfKind(v1::TASK_KIND_HASH);
  if (hashes.empty() || hashes.back()->record.state != TaskState::kDone) return absl::OkStatus();
  std::map<std::string, std::string> quantized;
  for (const v1::SourceFile& file : view.job().plan().source_files()) {
    quantized[file.path()] = file.digest();
  }
  for (const v1::SourceFile& file : hashes.back()->result.hash().files()) {
    const std::string& expected = quantized[file.path()];
    // Not yet noted: it is the first to say.
    if (expected.empty() || file.digest() == expected) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("source: ", file.path(), " has changed since it was quantized: expected ",
                     expected, ", found ", file.digest()));
  }
  return absl::OkStatus();
}

MaybeUpdate PlanProfiling(const JobView& view) {
  JobUpdate update = StartUpdate(view);
  SA_RETURN_IF_ERROR(AddProfileTasks(view, &update));
  if (!update.tasks.empty()) return update;
  if (!view.AllDone()) return std::nullopt;
  if (view.job().spec().criterion() == v1::CRITERION_MEASURED &&
      view.OfKind(v1::TASK_KIND_MEASURE).empty()) {
    AddMeasureTasks(view, &update);
    if (!update.tasks.empty()) return update;
  }
  update.job.set_state(v1::JOB_STATE_ALLOCATING);
  return update;
}

MaybeUpdate PlanAllocating(const JobView& view, const PlanContext& context) {
  // A child's held-out windows, which no other state makes, and its look at the source.
  if (!view.AllDone()) return std::nullopt;
  if (const std::string missing = MissingWindows(view); !missing.empty()) {
    return absl::InvalidArgumentError(missing);
  }
  SA_ASSIGN_OR_RETURN(const Allocation allocation,
                      AllocateJob(view, view.job().spec(), context.blob_sizes));
  JobUpdate update = StartUpdate(view);
  AddLog(&update, allocation.summary);
  update.job.set_state(v1::JOB_STATE_EVALUATING);
  // Kept from here on, so that nobody has to solve again to know what "uniform" was.
  v1::Quality* quality = update.job.mutable_quality();
  quality->Clear();
  quality->set_uniform_bits(allocation.uniform_bits);
  quality->set_published_mixed(!allocation.mixed_is_uniform);
  SA_RETURN_IF_ERROR(
      AddEvaluateTasks(view, allocation.variants, /*round=*/0, context.workers, &update));
  return update;
}

}  // namespace shiftadd::coordinator::internal
