#include "services/coordinator/refine_plan.h"

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"

namespace shiftadd::coordinator {
namespace {

constexpr uint32_t kJoinSlot = 2 * RefinePlan::kInputs;
constexpr uint32_t kSlots = kJoinSlot + 1;  // of a block
// Parts and shards are fewer; a model of 100000 blocks still fits an ordinal.
constexpr uint32_t kTasksOfSlot = 4096;

absl::StatusOr<uint32_t> InputOfKind(const v1::LayerPlan& layer) {
  static const auto* inputs = new std::map<std::string, uint32_t>{
      {"q", 0}, {"k", 0}, {"v", 0}, {"o", 1}, {"gate", 2}, {"up", 2}, {"down", 3}};
  const auto found = inputs->find(layer.kind());
  if (found == inputs->end()) {
    return absl::InternalError(absl::StrCat("layer ", layer.name(), ": its kind \"", layer.kind(),
                                            "\" has no place in the order of REFINING"));
  }
  return found->second;
}

bool AllDone(const std::vector<const ViewedTask*>& tasks) {
  return !tasks.empty() && std::all_of(tasks.begin(), tasks.end(), [](const ViewedTask* t) {
    return t->record.state == TaskState::kDone;
  });
}

}  // namespace

absl::StatusOr<RefinePlan> RefinePlan::Make(const JobView& view, const v1::Variant& winner) {
  RefinePlan plan;
  std::map<std::string, uint32_t> widths;
  for (const v1::VariantLayer& layer : winner.layers()) widths[layer.layer()] = layer.bits();
  plan.blocks_.resize(view.job().plan().blocks());
  size_t last = 0;  // behind the last block with a layer to refine
  for (const v1::LayerPlan& layer : view.job().plan().layers()) {
    const auto input = InputOfKind(layer);
    if (!input.ok()) return input.status();
    const uint32_t bits = widths[layer.name()];
    if (bits == 0) continue;
    RefineLayers& layers = plan.blocks_[layer.block()][*input];
    layers.layers.push_back(layer);
    layers.bits.push_back(bits);
    last = std::max<size_t>(last, layer.block() + 1);
  }
  for (uint32_t block = 0; block < last; ++block) {
    for (uint32_t input = 0; input < kInputs; ++input) {
      const bool fits = !plan.Layers(block, input).layers.empty();
      // The first one also makes the activations that enter the block.
      if (fits || input == 0) plan.stages_.push_back({block, input, v1::REFINE_STEP_HESSIAN});
      if (fits) plan.stages_.push_back({block, input, v1::REFINE_STEP_FIT});
    }
  }
  for (const ViewedTask* t : view.OfKind(v1::TASK_KIND_REFINE)) {
    const v1::RefineTask& r = t->task.refine();
    plan.tasks_[{r.block(), r.input(), r.step()}].push_back(t);
  }
  return plan;
}

RefineLayers RefinePlan::LayersOfBlock(uint32_t block) const {
  RefineLayers all;
  for (const RefineLayers& input : blocks_[block]) {
    all.layers.insert(all.layers.end(), input.layers.begin(), input.layers.end());
    all.bits.insert(all.bits.end(), input.bits.begin(), input.bits.end());
  }
  return all;
}

std::vector<const ViewedTask*> RefinePlan::Tasks(const RefineStage& stage) const {
  const auto found = tasks_.find({stage.block, stage.input, stage.step});
  return found == tasks_.end() ? std::vector<const ViewedTask*>() : found->second;
}

bool RefinePlan::Done(const RefineStage& stage) const { return AllDone(Tasks(stage)); }

std::vector<v1::RefinedShard> RefinePlan::Shards(uint32_t block, uint32_t inputs) const {
  std::vector<v1::RefinedShard> shards;
  for (uint32_t input = 0; input < inputs; ++input) {
    for (const ViewedTask* t : Tasks({block, input, v1::REFINE_STEP_FIT})) {
      const auto& made = t->result.refine().shards();
      shards.insert(shards.end(), made.begin(), made.end());
    }
  }
  return shards;
}

bool Refines(const v1::JobSpec& spec) {
  return spec.recipe().propagate() == v1::PROPAGATE_QUANTIZED;
}

uint32_t ExpectedRefineTasks(const v1::Job& job) {
  if (!Refines(job.spec())) return 0;
  const uint32_t of_block = RefinePlan::kInputs * (CalibrationParts(job.spec()) + 1) + 1;
  return job.plan().blocks() * of_block;
}

uint32_t RefineOrdinal(const RefineStage& stage, uint32_t index) {
  const uint32_t slot = stage.step == v1::REFINE_STEP_JOIN
                            ? kJoinSlot
                            : 2 * stage.input + (stage.step == v1::REFINE_STEP_FIT ? 1 : 0);
  return (stage.block * kSlots + slot) * kTasksOfSlot + index;
}

std::vector<std::string> ObsoleteScratch(const JobView& view) {
  const std::vector<const ViewedTask*> tasks = view.OfKind(v1::TASK_KIND_REFINE);
  uint32_t current = 0;  // block
  std::map<std::pair<uint32_t, uint32_t>, std::vector<const ViewedTask*>> fits;
  std::map<uint32_t, bool> joined;
  for (const ViewedTask* t : tasks) {
    const v1::RefineTask& r = t->task.refine();
    current = std::max(current, r.block());
    if (r.step() == v1::REFINE_STEP_FIT) fits[{r.block(), r.input()}].push_back(t);
    if (r.step() == v1::REFINE_STEP_JOIN) {
      joined[r.block()] = t->record.state == TaskState::kDone;
    }
  }
  // Blobs are named by their content: what one task has done with, another may still need.
  std::set<std::string> needed, obsolete;
  for (const ViewedTask* t : tasks) {
    const v1::RefineTask& r = t->task.refine();
    const v1::RefineResult& result = t->result.refine();
    const bool passed = r.block() + 1 < current;
    if (result.has_boundary()) (passed ? obsolete : needed).insert(result.boundary().digest());
    const bool fitted = AllDone(fits[{r.block(), r.input()}]);
    for (const v1::PartialHessian& h : result.hessians()) {
      (fitted ? obsolete : needed).insert(h.digest());
    }
    for (const v1::RefinedShard& s : result.shards()) {
      (passed && joined[r.block()] ? obsolete : needed).insert(s.digest());
    }
  }
  std::vector<std::string> out;
  std::set_difference(obsolete.begin(), obsolete.end(), needed.begin(), needed.end(),
                      std::back_inserter(out));
  return out;
}

}  // namespace shiftadd::coordinator
