// CALIBRATE and FORWARD: the token windows, and their activations at the split blocks.
#include <algorithm>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <new>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/tasks/tasks.h"

namespace shiftadd {

absl::StatusOr<v1::CalibrateResult> RunCalibrate(const v1::TaskContext& context,
                                                 const v1::CalibrateTask& task, JobSession* session,
                                                 TaskControl* control) {
  if (task.length() == 0) return absl::InvalidArgumentError("calibrate task: windows of 0 tokens");
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

namespace {

// Adds the activations that enter `block`.
absl::Status AddBoundary(const v1::ForwardTask& task, uint32_t block,
                         absl::StatusOr<std::string> digest, v1::ForwardResult* result) {
  SA_RETURN_IF_ERROR(digest.status());
  v1::Boundary* boundary = result->add_boundaries();
  boundary->set_block(block);
  boundary->set_part(task.part());
  boundary->set_digest(*std::move(digest));
  return absl::OkStatus();
}

// Forward only, up to the last split.
absl::Status ForwardToSplits(const v1::ForwardTask& task, const std::vector<uint32_t>& splits,
                             const TokenWindows& windows, JobSession* session,
                             ReferenceModel* model, TaskControl* control,
                             v1::ForwardResult* result) {
  SA_ASSIGN_OR_RETURN(HiddenStates hidden,
                      model->Embed(windows.tokens, windows.count, windows.length));
  uint32_t block = 0;
  for (const uint32_t split : splits) {
    for (; block < split; ++block) {
      PhaseTimer timer(session->metrics().forward);
      SA_RETURN_IF_ERROR(model->RunBlock(block, &hidden, nullptr, control));
      ++control->progress_count;
      control->progress = static_cast<double>(block + 1) / splits.back();
    }
    HiddenStates on_host = hidden;
    SA_RETURN_IF_ERROR(model->ToHost(&on_host));
    SA_RETURN_IF_ERROR(AddBoundary(task, split, session->WriteHidden(on_host), result));
  }
  return absl::OkStatus();
}

// The activations that enter one block, stored while the pass goes on.
class SplitWriter {
 public:
  SplitWriter(JobSession* session, const TokenWindows& windows, int64_t hidden)
      : session_(*session), whole_{windows.count, windows.length, hidden, {}, nullptr} {
    whole_.data.resize(windows.count * windows.length * hidden);
  }

  // Those of sequences [first, first + some.count).
  void Add(int64_t first, const HiddenStates& some) {
    std::copy(some.data.begin(), some.data.end(),
              whole_.data.begin() + first * some.length * some.hidden);
    const std::lock_guard<std::mutex> lock(mutex_);
    seen_ += some.count;
    if (seen_ < whole_.count) return;
    digest_ = std::async(std::launch::async, [this]() -> absl::StatusOr<std::string> {
      try {
        return session_.PutHidden(whole_);
      } catch (const std::bad_alloc&) {
        return absl::ResourceExhaustedError("out of memory while activations were stored");
      }
    });
  }
  absl::StatusOr<std::string> Finish() {
    if (!digest_.valid()) return absl::InternalError("a split block was not reached");
    PhaseTimer timer(session_.metrics().store);
    return digest_.get();
  }

 private:
  JobSession& session_;
  HiddenStates whole_;
  std::mutex mutex_;
  int64_t seen_ = 0;
  std::future<absl::StatusOr<std::string>> digest_;  // last: waits before the rest goes
};

// Through the whole model and back.
absl::Status ForwardAndBackward(const v1::ForwardTask& task, const std::vector<uint32_t>& splits,
                                const TokenWindows& windows, JobSession* session,
                                ReferenceModel* model, TaskControl* control,
                                v1::ForwardResult* result) {
  const ArchitectureSpec& spec = model->spec();
  std::map<int64_t, std::unique_ptr<SplitWriter>> boundaries;
  for (const uint32_t split : splits)
    boundaries[split] = std::make_unique<SplitWriter>(session, windows, spec.hidden);
  GuidedOptions options;
  options.chunks = std::max<int64_t>(1, task.chunks());
  options.boundary_bytes = session->memory_bytes() / 8;
  options.boundary_blocks.assign(splits.begin(), splits.end());
  options.boundary = [&](int64_t block, int64_t first, const HiddenStates& some) {
    boundaries[block]->Add(first, some);
  };
  SA_ASSIGN_OR_RETURN(
      GuidedStatistics statistics,
      model->TokenWeights(windows.tokens, windows.count, windows.length, options, control));
  session->metrics().forward.Add(statistics.forward_seconds);
  session->metrics().backward.Add(statistics.backward_seconds);
  for (int64_t block = 0; block < spec.blocks; ++block) {
    TokenWeights weights{windows.count, windows.length, options.chunks, {}};
    const std::vector<LinearLayer> layers = BlockLayers(spec, block);
    for (size_t i = 0; i < layers.size(); ++i)
      weights.layers[layers[i].kind] = std::move(statistics.blocks[block].layers[i]);
    v1::TokenWeights* out = result->add_token_weights();
    out->set_block(static_cast<uint32_t>(block));
    out->set_part(task.part());
    SA_ASSIGN_OR_RETURN(*out->mutable_digest(), session->WriteTokenWeights(weights));
  }
  for (const uint32_t split : splits)
    SA_RETURN_IF_ERROR(AddBoundary(task, split, boundaries[split]->Finish(), result));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<v1::ForwardResult> RunForward(const v1::ForwardTask& task, JobSession* session,
                                             TaskControl* control) {
  const int64_t blocks = session->source().spec().blocks;
  std::vector<uint32_t> splits(task.split_blocks().begin(), task.split_blocks().end());
  std::sort(splits.begin(), splits.end());
  if (!splits.empty() && splits.back() > blocks) {
    return absl::InvalidArgumentError(
        absl::StrCat("forward task: split before block ", splits.back(), " of ", blocks));
  }
  SA_ASSIGN_OR_RETURN(const TokenWindows windows, session->ReadTokens(task.tokens_digest()));
  SA_ASSIGN_OR_RETURN(ReferenceModel* const model, session->calibration_model());
  v1::ForwardResult result;
  SA_RETURN_IF_ERROR((task.token_weights() ? ForwardAndBackward : ForwardToSplits)(
      task, splits, windows, session, model, control, &result));
  return result;
}

}  // namespace shiftadd
