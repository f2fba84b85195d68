// CALIBRATE and FORWARD: the token windows, and their activations at the split blocks.
#include <algorithm>
#include <future>
#include <limits>
#include <map>
#include <memory>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/tasks/background_store.h"
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

// Blobs of activations that are made and stored at a time; each takes its size once more.
constexpr int kStoreThreads = 2;

// What a FORWARD task makes: the activations that enter the split blocks, stored while the pass
// goes on and after it, and the token weights of every block.
class ForwardWriter {
 public:
  ForwardWriter(const v1::ForwardTask& task, const TokenWindows& windows, JobSession* session)
      : part_(task.part()),
        job_(session->job_id()),
        shape_{windows.count, windows.length, session->source().spec().hidden, {}, nullptr},
        made_(session->boundaries()),
        store_(std::make_shared<BackgroundStore>(session->shared_store(), kStoreThreads,
                                                 std::numeric_limits<size_t>::max())) {}

  absl::Status Begin(const std::vector<uint32_t>& splits, ReferenceModel* model) {
    for (const uint32_t block : splits) {
      Split& split = splits_[block];
      SA_ASSIGN_OR_RETURN(split.rows, model->NewHostCopy(shape_.count, shape_.length));
    }
    return absl::OkStatus();
  }

  // Those of sequences [first, first + some.count). Any thread; an error comes out of Finish.
  void Add(int64_t block, int64_t first, const HiddenStates& some) {
    Split& split = splits_.at(block);
    const absl::Status status = split.rows->Add(first, some);
    const std::lock_guard<std::mutex> lock(mutex_);
    split.status.Update(status);
    split.seen += some.count;
    if (split.seen < shape_.count || !split.status.ok()) return;
    split.digest = store_->Put(
        [shape = shape_, rows = split.rows]() -> absl::StatusOr<std::string> {
          SA_ASSIGN_OR_RETURN(const float* const numbers, rows->Wait());
          return HiddenBlob(shape, numbers);
        },
        job_);
  }

  // Of the next block.
  void AddTokenWeights(TokenWeights weights) {
    const auto shared = std::make_shared<const TokenWeights>(std::move(weights));
    token_weights_.push_back(store_->Put([shared] { return TokenWeightsBlob(*shared); }, job_));
  }

  // Waits until all is stored. Needs neither session nor model.
  absl::Status Finish(TaskControl* control, v1::ForwardResult* result) {
    for (size_t block = 0; block < token_weights_.size(); ++block) {
      v1::TokenWeights* out = result->add_token_weights();
      out->set_block(static_cast<uint32_t>(block));
      out->set_part(part_);
      SA_ASSIGN_OR_RETURN(*out->mutable_digest(), token_weights_[block].get());
      ++control->progress_count;
    }
    for (auto& [block, split] : splits_) {
      SA_RETURN_IF_ERROR(split.status);
      if (!split.digest.valid()) return absl::InternalError("a split block was not reached");
      SA_ASSIGN_OR_RETURN(const std::string digest, split.digest.get());
      if (made_ != nullptr) made_->Keep(digest, {shape_, split.rows});
      v1::Boundary* boundary = result->add_boundaries();
      boundary->set_block(static_cast<uint32_t>(block));
      boundary->set_part(part_);
      boundary->set_digest(digest);
      ++control->progress_count;
    }
    return absl::OkStatus();
  }

 private:
  struct Split {
    std::shared_ptr<HostCopy> rows;
    int64_t seen = 0;  // sequences
    absl::Status status;
    std::future<absl::StatusOr<std::string>> digest;
  };

  const uint32_t part_;
  const std::string job_;
  const HiddenStates shape_;
  const std::shared_ptr<MadeBoundaries> made_;
  std::mutex mutex_;
  std::map<int64_t, Split> splits_;
  std::vector<std::future<absl::StatusOr<std::string>>> token_weights_;
  const std::shared_ptr<BackgroundStore> store_;  // first of all to end
};

// Forward only, up to the last split.
absl::Status ForwardToSplits(const std::vector<uint32_t>& splits, const TokenWindows& windows,
                             JobSession* session, ReferenceModel* model, TaskControl* control,
                             ForwardWriter* writer) {
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
    writer->Add(split, 0, hidden);
  }
  return absl::OkStatus();
}

// Through the whole model and back.
absl::Status ForwardAndBackward(const v1::ForwardTask& task, const std::vector<uint32_t>& splits,
                                const TokenWindows& windows, JobSession* session,
                                ReferenceModel* model, TaskControl* control,
                                ForwardWriter* writer) {
  const ArchitectureSpec& spec = model->spec();
  GuidedOptions options;
  options.chunks = std::max<int64_t>(1, task.chunks());
  options.boundary_bytes = session->memory_bytes() / 8;
  options.boundary_blocks.assign(splits.begin(), splits.end());
  options.boundary = [&](int64_t block, int64_t first, const HiddenStates& some) {
    writer->Add(block, first, some);
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
    writer->AddTokenWeights(std::move(weights));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status RunForward(const v1::ForwardTask& task, JobSession* session, TaskControl* control,
                        v1::ForwardResult* result, Closing* closing) {
  const int64_t blocks = session->source().spec().blocks;
  std::vector<uint32_t> splits(task.split_blocks().begin(), task.split_blocks().end());
  std::sort(splits.begin(), splits.end());
  if (!splits.empty() && splits.back() > blocks) {
    return absl::InvalidArgumentError(
        absl::StrCat("forward task: split before block ", splits.back(), " of ", blocks));
  }
  SA_ASSIGN_OR_RETURN(const TokenWindows windows, session->ReadTokens(task.tokens_digest()));
  SA_ASSIGN_OR_RETURN(ReferenceModel* const model, session->calibration_model());
  const auto writer = std::make_shared<ForwardWriter>(task, windows, session);
  SA_RETURN_IF_ERROR(writer->Begin(splits, model));
  if (task.token_weights()) {
    SA_RETURN_IF_ERROR(
        ForwardAndBackward(task, splits, windows, session, model, control, writer.get()));
  } else {
    SA_RETURN_IF_ERROR(ForwardToSplits(splits, windows, session, model, control, writer.get()));
  }
  *closing = [writer, control, result] { return writer->Finish(control, result); };
  return absl::OkStatus();
}

}  // namespace shiftadd
