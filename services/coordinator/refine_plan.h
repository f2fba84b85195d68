// REFINING as a list of stages: what is to be made again, in which order, and from what.
//
// A stage is one step (HESSIAN or FIT) of one input of one block. Its tasks are planned together,
// once every task of the stage before is done. JOIN of a block is no stage: nothing waits for it
// but the end, so it runs beside the next block.
//
// Why any number of workers, joining and leaving, gives the same bytes: HESSIAN is cut by
// calibration part, a cut that is fixed (kMicrobatch), and FIT adds the parts' float64 sums in part
// order; rows are quantized independently, so the cut of FIT into shards, which does follow the
// number of workers, cannot be seen in the joined blobs.
#ifndef SHIFTADD_SERVICES_COORDINATOR_REFINE_PLAN_H_
#define SHIFTADD_SERVICES_COORDINATOR_REFINE_PLAN_H_

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "absl/status/statusor.h"
#include "services/coordinator/job_view.h"

namespace shiftadd::coordinator {

struct RefineStage {
  uint32_t block = 0;
  uint32_t input = 0;  // 0..3: q, k, v | o | gate, up | down
  v1::RefineStep step = v1::REFINE_STEP_UNSPECIFIED;
};

// Layers that read one input, with the widths that were chosen; without skipped ones.
struct RefineLayers {
  std::vector<v1::LayerPlan> layers;
  std::vector<uint32_t> bits;
};

class RefinePlan {
 public:
  static constexpr uint32_t kInputs = 4;

  // `winner`: the variant that is refined. It and the view must outlive the plan. INTERNAL if a
  // layer is of a kind that has no place in the order.
  static absl::StatusOr<RefinePlan> Make(const JobView& view, const v1::Variant& winner);

  // HESSIAN and FIT, in order. Empty if every layer is skipped.
  const std::vector<RefineStage>& stages() const { return stages_; }
  const RefineLayers& Layers(uint32_t block, uint32_t input) const { return blocks_[block][input]; }
  RefineLayers LayersOfBlock(uint32_t block) const;

  // The tasks there are, in order of part or shard. For JOIN the input is 0.
  std::vector<const ViewedTask*> Tasks(const RefineStage& stage) const;
  // There are some, and all are done.
  bool Done(const RefineStage& stage) const;
  // Shards made by FIT for inputs [0, inputs) of `block`.
  std::vector<v1::RefinedShard> Shards(uint32_t block, uint32_t inputs) const;

 private:
  using Key = std::tuple<uint32_t, uint32_t, v1::RefineStep>;

  std::vector<std::array<RefineLayers, kInputs>> blocks_;
  std::vector<RefineStage> stages_;
  std::map<Key, std::vector<const ViewedTask*>> tasks_;
};

// True if the job's chosen layers are made again.
bool Refines(const v1::JobSpec& spec);
// REFINE tasks that a job will have with one worker.
uint32_t ExpectedRefineTasks(const v1::Job& job);
// Unique among the job's REFINE tasks; ascends with block, input and step.
uint32_t RefineOrdinal(const RefineStage& stage, uint32_t index);
// Scratch blobs of REFINING that no task will read any more: all but the last two boundaries, the
// Hessians of stages whose FIT is done, the shards of blocks that are joined and passed.
std::vector<std::string> ObsoleteScratch(const JobView& view);

}  // namespace shiftadd::coordinator

#endif  // SHIFTADD_SERVICES_COORDINATOR_REFINE_PLAN_H_
