// REFINING: the chosen layers are made again, in order, on the inputs that the quantized layers
// before them give.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "services/base/status_macros.h"
#include "services/coordinator/package_config.h"
#include "services/coordinator/planner_internal.h"
#include "services/coordinator/refine_plan.h"

namespace shiftadd::coordinator::internal {
namespace {

// A shard of fewer rows costs more in factoring the Hessian than it saves.
constexpr uint64_t kRowsOfShard = 64;

v1::Task StartRefine(const JobView& view, const RefineStage& stage, const RefineLayers& layers) {
  v1::Task task = StartTask(view.job(), v1::TASK_KIND_REFINE);
  v1::RefineTask* t = task.mutable_refine();
  t->set_step(stage.step);
  t->set_block(stage.block);
  t->set_input(stage.input);
  *t->mutable_layers() = {layers.layers.begin(), layers.layers.end()};
  *t->mutable_bits() = {layers.bits.begin(), layers.bits.end()};
  return task;
}

// The activations that enter `block` in one part, as its first HESSIAN tasks have stored them.
v1::Boundary BoundaryOf(const RefinePlan& plan, uint32_t block, uint32_t part) {
  for (const ViewedTask* t : plan.Tasks({block, 0, v1::REFINE_STEP_HESSIAN})) {
    if (t->task.refine().part() == part) return t->result.refine().boundary();
  }
  return {};
}

void FillTokenWeights(const JobView& view, v1::RefineTask* t) {
  for (const ViewedTask* f : view.OfKind(v1::TASK_KIND_FORWARD)) {
    for (const v1::TokenWeights& w : f->result.forward().token_weights()) {
      if (w.block() != t->block()) continue;
      if (w.part() == t->part()) {
        *t->mutable_token_weights() = w;
      } else {
        *t->add_other_token_weights() = w;
      }
    }
  }
}

void AddHessianTasks(const JobView& view, const RefinePlan& plan, const RefineStage& stage,
                     JobUpdate* update) {
  const std::vector<std::string> tokens = view.TokenDigests(false);
  // The first input starts behind the block before, which it runs through to its own block.
  const bool enters = stage.input == 0;
  std::vector<v1::RefinedShard> shards;
  if (!enters) shards = plan.Shards(stage.block, stage.input);
  if (enters && stage.block > 0) shards = plan.Shards(stage.block - 1, RefinePlan::kInputs);
  for (uint32_t part = 0; part < tokens.size(); ++part) {
    v1::Task task = StartRefine(view, stage, plan.Layers(stage.block, stage.input));
    v1::RefineTask* t = task.mutable_refine();
    t->set_part(part);
    if (enters && stage.block == 0) {
      t->set_tokens_digest(tokens[part]);
    } else {
      *t->mutable_boundary() = BoundaryOf(plan, stage.block - (enters ? 1 : 0), part);
    }
    *t->mutable_shards() = {shards.begin(), shards.end()};
    if (view.job().spec().recipe().hessian() == v1::HESSIAN_GUIDED) FillTokenWeights(view, t);
    AddTask(update, task, RefineOrdinal(stage, part));
  }
}

void AddFitTasks(const JobView& view, const RefinePlan& plan, const RefineStage& stage, int workers,
                 JobUpdate* update) {
  const RefineLayers& layers = plan.Layers(stage.block, stage.input);
  uint64_t rows = 0;
  for (const v1::LayerPlan& layer : layers.layers) rows += layer.rows();
  const auto shards = static_cast<uint32_t>(
      std::clamp<uint64_t>(static_cast<uint64_t>(std::max(workers, 1)), 1,
                           std::clamp<uint64_t>(rows / kRowsOfShard, 1, 256)));
  for (uint32_t shard = 0; shard < shards; ++shard) {
    v1::Task task = StartRefine(view, stage, layers);
    v1::RefineTask* t = task.mutable_refine();
    t->set_shard(shard);
    t->set_shards_total(shards);
    for (const ViewedTask* h : plan.Tasks({stage.block, stage.input, v1::REFINE_STEP_HESSIAN})) {
      t->mutable_hessians()->MergeFrom(h->result.refine().hessians());
    }
    AllowFactors(t->layers(), &task);
    AddTask(update, task, RefineOrdinal(stage, shard));
  }
}

void AddJoinTask(const JobView& view, const RefinePlan& plan, uint32_t block, JobUpdate* update) {
  const RefineLayers layers = plan.LayersOfBlock(block);
  if (layers.layers.empty()) return;
  const RefineStage stage{block, 0, v1::REFINE_STEP_JOIN};
  v1::Task task = StartRefine(view, stage, layers);
  const std::vector<v1::RefinedShard> shards = plan.Shards(block, RefinePlan::kInputs);
  *task.mutable_refine()->mutable_shards() = {shards.begin(), shards.end()};
  // Behind the next block's tasks, which others wait for.
  AddTask(update, task, RefineOrdinal(stage, 0), /*rank=*/1);
}

// The winner with every refined layer in the place of its candidate.
absl::StatusOr<v1::Variant> RefinedVariant(const JobView& view, const v1::Variant& winner) {
  const ReportMap reports = view.Reports();
  v1::Variant variant = winner;
  variant.set_name("refined");
  for (v1::VariantLayer& layer : *variant.mutable_layers()) {
    if (layer.bits() == 0) continue;
    const auto report = reports.find(layer.layer());
    if (report == reports.end() || !report->second.has_refined() ||
        report->second.refined().bits() != layer.bits()) {
      return absl::InternalError(
          absl::StrCat("layer ", layer.layer(), ": was not refined at ", layer.bits(), " bits"));
    }
    layer.set_digest(report->second.refined().digest());
  }
  return variant;
}

MaybeUpdate EvaluateAgain(const JobView& view, const v1::Variant& winner, int workers) {
  SA_ASSIGN_OR_RETURN(const v1::Variant refined, RefinedVariant(view, winner));
  JobUpdate update = StartUpdate(view);
  SA_RETURN_IF_ERROR(AddEvaluateTasks(view, {refined}, /*round=*/1, workers, &update));
  update.job.set_state(v1::JOB_STATE_EVALUATING);
  return update;
}

}  // namespace

MaybeUpdate PlanRefining(const JobView& view, int workers) {
  const std::vector<v1::Variant> variants = view.Variants();
  const v1::Variant* winner = view.Chosen(variants);
  if (winner == nullptr) return absl::InternalError("refining: nothing was evaluated");
  SA_ASSIGN_OR_RETURN(const RefinePlan plan, RefinePlan::Make(view, *winner));
  const std::vector<RefineStage>& stages = plan.stages();
  size_t next = 0;
  while (next < stages.size() && plan.Done(stages[next])) ++next;
  if (next == stages.size()) {
    if (!view.AllDone()) return std::nullopt;  // the last JOINs
    if (stages.empty() || plan.Done({stages.back().block, 0, v1::REFINE_STEP_JOIN})) {
      return EvaluateAgain(view, *winner, workers);
    }
  } else if (!plan.Tasks(stages[next]).empty()) {
    return std::nullopt;
  }
  JobUpdate update = StartUpdate(view);
  if (next > 0 && (next == stages.size() || stages[next].block != stages[next - 1].block)) {
    AddJoinTask(view, plan, stages[next - 1].block, &update);
  }
  if (next < stages.size()) {
    if (stages[next].step == v1::REFINE_STEP_HESSIAN) {
      AddHessianTasks(view, plan, stages[next], &update);
    } else {
      AddFitTasks(view, plan, stages[next], workers, &update);
    }
  }
  return update;
}

}  // namespace shiftadd::coordinator::internal
