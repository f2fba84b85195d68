// CALIBRATE and FORWARD: the token windows, and their activations at the split blocks.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/tasks/tasks.h"

namespace shiftadd {

absl::StatusOr<v1::CalibrateResult> RunCalibrate(const v1::TaskContext& context,
                                                 const v1::CalibrateTask& task, JobSession* session,
                                                 TaskControl* control) {
  TokenWindows windows{task.count(), task.length(), {}};
  if (task.text_digest().empty()) {
    SA_ASSIGN_OR_RETURN(ReferenceModel* const model, session->model());
    PhaseTimer timer(session->metrics().forward);
    SA_ASSIGN_OR_RETURN(windows.tokens, model->Sample(context.recipe().seed(), task.first(),
                                                      task.count(), task.length(), control));
  } else {
    SA_ASSIGN_OR_RETURN(const std::vector<int32_t>* const text,
                        session->TextTokens(task.text_digest()));
    const int64_t available = static_cast<int64_t>(text->size()) / task.length();
    windows.count = std::clamp<int64_t>(available - task.text_first(), 0, task.count());
    const auto begin =
        text->begin() + std::min<int64_t>(task.text_first(), available) * task.length();
    windows.tokens.assign(begin, begin + windows.count * task.length());
  }
  session->metrics().tokens->Increment(static_cast<double>(windows.tokens.size()));
  v1::CalibrateResult result;
  result.set_count(static_cast<uint32_t>(windows.count));
  result.set_tokens(windows.tokens.size());
  if (windows.count > 0) {
    SA_ASSIGN_OR_RETURN(*result.mutable_digest(), session->WriteTokens(windows));
  }
  return result;
}

absl::StatusOr<v1::ForwardResult> RunForward(const v1::ForwardTask& task, JobSession* session,
                                             TaskControl* control) {
  SA_ASSIGN_OR_RETURN(const TokenWindows windows, session->ReadTokens(task.tokens_digest()));
  SA_ASSIGN_OR_RETURN(ReferenceModel* const model, session->model());
  SA_ASSIGN_OR_RETURN(HiddenStates hidden,
                      model->Embed(windows.tokens, windows.count, windows.length));
  v1::ForwardResult result;
  std::vector<uint32_t> splits(task.split_blocks().begin(), task.split_blocks().end());
  std::sort(splits.begin(), splits.end());
  uint32_t block = 0;
  for (const uint32_t split : splits) {
    for (; block < split; ++block) {
      PhaseTimer timer(session->metrics().forward);
      SA_RETURN_IF_ERROR(model->RunBlock(block, &hidden, nullptr, control));
      ++control->progress_count;
      control->progress = static_cast<double>(block + 1) / splits.back();
    }
    v1::Boundary* boundary = result.add_boundaries();
    boundary->set_block(split);
    boundary->set_part(task.part());
    SA_ASSIGN_OR_RETURN(*boundary->mutable_digest(), session->WriteHidden(hidden));
  }
  return result;
}

}  // namespace shiftadd
