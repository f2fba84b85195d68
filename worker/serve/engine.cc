#include "worker/serve/engine.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/base/logging.h"
#include "services/base/status_macros.h"

namespace shiftadd {
namespace {

// Prompt tokens of one step: many when nobody waits for the next token, fewer when somebody does.
constexpr int64_t kPromptRows = 128;
constexpr int64_t kPromptRowsBeside = 48;

}  // namespace

absl::Status ContextExceeded(int64_t prompt_tokens, int64_t context) {
  absl::Status status = absl::OutOfRangeError(absl::StrCat("the prompt has ", prompt_tokens,
                                                           " tokens or more, the context holds ",
                                                           context, " with the answer"));
  status.SetPayload(kPromptTokensPayload, absl::Cord(absl::StrCat(prompt_tokens)));
  return status;
}

Engine::Engine(PackedModel* model, const Tokenizer* tokenizer, const EngineOptions& options,
               ServerMetrics* metrics)
    : model_(model), tokenizer_(tokenizer), options_(options), metrics_(metrics) {
  for (const int64_t id : model->spec().eos_tokens) eos_.insert(static_cast<int32_t>(id));
  if (metrics_ != nullptr) {
    const int64_t pages = (options.context + 31) / 32;
    metrics_->kv_blocks_total->Set(static_cast<double>(pages * options.sequences));
    metrics_->weight_bytes->Set(static_cast<double>(model->weight_bytes()));
  }
  thread_ = std::thread([this] { Loop(); });
}

Engine::~Engine() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
    cancel_all_ = true;
    draining_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

absl::Status Engine::Check(const GenerateParams& params) const {
  const int64_t size = static_cast<int64_t>(params.prompt.size());
  if (size == 0) return absl::InvalidArgumentError("the prompt is empty");
  if (size + (params.max_tokens > 0 ? 1 : 0) > options_.context) {
    return ContextExceeded(size, options_.context);
  }
  for (const int32_t id : params.prompt) {
    if (id < 0 || id >= model_->spec().vocab) {
      return absl::InvalidArgumentError(absl::StrCat(
          "token id ", id, " is not in the vocabulary [0, ", model_->spec().vocab, ")"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<Generation>> Engine::Submit(std::vector<GenerateParams> request) {
  for (const GenerateParams& params : request) SA_RETURN_IF_ERROR(Check(params));
  const Sequence::Shared shared{
      tokenizer_,          &eos_, &VectorOpsFor(model_->isa()), metrics_, options_.context,
      model_->spec().vocab};
  const auto generation = std::make_shared<Generation>(std::move(request));
  Request sequences;
  for (size_t i = 0; i < generation->sequences().size(); ++i) {
    sequences.push_back(std::make_unique<Sequence>(shared, generation, i));
  }
  std::lock_guard<std::mutex> lock(mutex_);
  if (draining_) return absl::UnavailableError("the server is shutting down");
  // A free slot is no place in the queue.
  const size_t free = static_cast<size_t>(options_.sequences) - running_.size();
  if (queue_.size() >= static_cast<size_t>(options_.queue) + free) {
    return absl::ResourceExhaustedError(absl::StrCat("the queue is full: ", queue_.size() - free,
                                                     " requests wait (limit ", options_.queue,
                                                     "); try again later"));
  }
  if (!sequences.empty()) queue_.push_back(std::move(sequences));
  changed_.notify_all();
  return generation;
}

void Engine::Admit() {
  while (!queue_.empty() && running_.size() < static_cast<size_t>(options_.sequences)) {
    Request request = std::move(queue_.front());
    queue_.pop_front();
    std::unique_ptr<Sequence> sequence = std::move(request.front());
    request.pop_front();
    if (!request.empty()) queue_.push_back(std::move(request));
    if (sequence->generation().cancelled()) {
      sequence->Fail(absl::CancelledError("cancelled"));
    } else {
      sequence->Start(*model_);
    }
    if (!sequence->finished()) running_.push_back(std::move(sequence));
  }
}

void Engine::DropCancelled() {
  const auto drop = [this](std::unique_ptr<Sequence>& sequence) {
    if (cancel_all_) sequence->Fail(absl::UnavailableError("the server is shutting down"));
    if (sequence->generation().cancelled()) sequence->Fail(absl::CancelledError("cancelled"));
    return sequence->finished();
  };
  std::erase_if(running_, drop);
  for (Request& request : queue_) std::erase_if(request, drop);
  std::erase_if(queue_, [](const Request& request) { return request.empty(); });
}

void Engine::UpdateGauges() {
  if (metrics_ == nullptr) return;
  metrics_->queue_depth->Set(static_cast<double>(queue_.size()));
  metrics_->running_sequences->Set(static_cast<double>(running_.size()));
  metrics_->kv_blocks_used->Set(static_cast<double>(model_->cache_pages()));
}

void Engine::Loop() {
  while (true) {
    {
      std::unique_lock<std::mutex> lock(mutex_);
      DropCancelled();
      Admit();
      UpdateGauges();
      if (running_.empty()) {
        changed_.notify_all();
        if (stop_) return;
        // A queued sequence whose client left is noticed at the next turn at the latest.
        if (queue_.empty()) changed_.wait_for(lock, std::chrono::milliseconds(500));
        continue;
      }
    }
    Step();
  }
}

void Engine::Step() {
  std::vector<BatchRow> rows;
  std::vector<Sequence*> in_step;
  bool decoding = false;
  for (const auto& sequence : running_) decoding |= !sequence->in_prompt();
  int64_t prompt_rows = decoding ? kPromptRowsBeside : kPromptRows;
  for (const auto& sequence : running_) {
    const bool in_prompt = sequence->in_prompt();
    if (in_prompt && prompt_rows <= 0) continue;
    const size_t before = rows.size();
    sequence->AddRows(in_prompt ? prompt_rows : 1, &rows);
    if (in_prompt) prompt_rows -= static_cast<int64_t>(rows.size() - before);
    in_step.push_back(sequence.get());
  }
  if (metrics_ != nullptr) metrics_->batch_size->Observe(static_cast<double>(rows.size()));
  if (absl::Status status = model_->ForwardBatch(rows, &logits_); !status.ok()) {
    spdlog::error("forward pass of {} tokens failed: {}", rows.size(),
                  std::string(status.message()));
    for (Sequence* sequence : in_step) sequence->Fail(status);
  } else {
    const float* logits = logits_.data();
    for (Sequence* sequence : in_step) {
      logits += sequence->Accept(logits) * model_->spec().vocab;
    }
  }
  std::lock_guard<std::mutex> lock(mutex_);
  std::erase_if(running_, [](const auto& sequence) { return sequence->finished(); });
}

bool Engine::draining() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return draining_;
}

void Engine::Drain(absl::Duration grace) {
  const auto idle = [this] { return running_.empty() && queue_.empty(); };
  std::unique_lock<std::mutex> lock(mutex_);
  draining_ = true;
  const auto deadline = absl::ToChronoTime(absl::Now() + grace);
  if (changed_.wait_until(lock, deadline, idle)) return;
  cancel_all_ = true;
  changed_.wait(lock, idle);
}

}  // namespace shiftadd
