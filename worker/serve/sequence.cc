#include "worker/serve/sequence.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "worker/serve/sampler.h"

namespace shiftadd {

Sequence::Sequence(const Shared& shared, std::shared_ptr<Generation> generation, size_t index)
    : shared_(shared),
      generation_(std::move(generation)),
      index_(index),
      arrival_(absl::Now()),
      tokens_(params().prompt),
      sampler_(params().sampling, params().stream, *shared.ops, params().prompt),
      text_(params().stop),
      max_tokens_(
          std::min(params().max_tokens, shared.context - static_cast<int64_t>(prompt().size()))) {}

int64_t Sequence::Reusable() const {
  const int64_t all = static_cast<int64_t>(tokens_.size()) - 1;
  return params().prompt_logprobs ? std::min(scored_, all) : all;
}

void Sequence::FinishIfNothingToDo() {
  if (max_tokens_ > 0 || params().prompt_logprobs) return;
  GenerateEvent event;
  Finish("length", &event);
  Push(std::move(event));
}

void Sequence::Start(const PackedModel& model, const KvCache* from, int64_t tokens) {
  // The last generated token never goes through the model.
  cache_ =
      model.NewCache(static_cast<int64_t>(prompt().size()) + std::max<int64_t>(max_tokens_, 0));
  position_ = from == nullptr ? 0 : cache_->SharePrefix(*from, tokens);
  if (cached_ == 0) cached_ = position_;
}

std::unique_ptr<KvCache> Sequence::TakeCache() {
  position_ = 0;
  step_rows_ = 0;
  return std::move(cache_);
}

bool Sequence::Wanted(int64_t i) const {
  if (i + 1 == static_cast<int64_t>(tokens_.size())) return max_tokens_ > 0;
  return params().prompt_logprobs && i >= scored_ && i + 1 < static_cast<int64_t>(prompt().size());
}

void Sequence::AddRows(int64_t limit, std::vector<BatchRow>* rows) {
  step_rows_ = std::min(limit, static_cast<int64_t>(tokens_.size()) - position_);
  for (int64_t i = position_; i < position_ + step_rows_; ++i) {
    rows->push_back({tokens_[i], cache_.get(), Wanted(i)});
  }
  BatchRow& last = rows->back();
  sampled_by_model_ = shared_.model_samples && last.logits && params().top_logprobs < 0 &&
                      position_ + step_rows_ == static_cast<int64_t>(tokens_.size()) &&
                      sampler_.IsPlain();
  if (!sampled_by_model_) return;
  last.sample = true;
  last.temperature = static_cast<float>(params().sampling.temperature);
  last.uniform = sampler_.NextUniform();
}

void Sequence::AcceptSampled(int32_t token) {
  GenerateEvent event;
  if (in_prompt()) AcceptPrompt(nullptr, &event);
  position_ += step_rows_;
  if (token < 0) {
    TakeToken(absl::InternalError("the model gave no finite logit"), nullptr, &event);
  } else {
    sampler_.Count(token);
    TakeToken(token, nullptr, &event);
  }
  Push(std::move(event));
}

TokenLogprob Sequence::Logprob(const float* logits, int32_t token) const {
  TokenLogprob out;
  out.token = token;
  const double sum = shared_.ops->log_sum_exp(logits, shared_.vocab);
  out.logprob = static_cast<double>(logits[token]) - sum;
  for (const auto& [id, logit] : TopTokens(logits, shared_.vocab, params().top_logprobs)) {
    out.top.emplace_back(id, static_cast<double>(logit) - sum);
  }
  return out;
}

int64_t Sequence::AcceptPrompt(const float* logits, GenerateEvent* event) {
  if (shared_.metrics) shared_.metrics->prompt_tokens->Increment(static_cast<double>(step_rows_));
  if (!params().prompt_logprobs) return 0;
  if (!std::exchange(opened_, true)) {
    TokenLogprob first;
    first.token = prompt()[0];
    first.known = false;
    event->logprobs.push_back(std::move(first));
  }
  int64_t used = 0;
  for (int64_t i = position_; i < position_ + step_rows_; ++i) {
    if (i + 1 == static_cast<int64_t>(tokens_.size()) || !Wanted(i)) continue;
    event->logprobs.push_back(Logprob(logits + used++ * shared_.vocab, prompt()[i + 1]));
    scored_ = i + 1;
  }
  return used;
}

void Sequence::Accept(const float* logits) {
  GenerateEvent event;
  const int64_t used = in_prompt() ? AcceptPrompt(logits, &event) : 0;
  position_ += step_rows_;
  if (position_ == static_cast<int64_t>(tokens_.size())) {
    if (max_tokens_ > 0) {
      const float* row = logits + used * shared_.vocab;
      TakeToken(sampler_.Next(row, shared_.vocab), row, &event);
    } else {
      Finish("length", &event);
    }
  }
  if (finished_ || !event.tokens.empty() || !event.logprobs.empty()) {
    Push(std::move(event));
  }
}

void Sequence::TakeToken(const absl::StatusOr<int32_t>& token, const float* logits,
                         GenerateEvent* event) {
  if (!token.ok()) {
    event->status = token.status();
    finished_ = true;
    Observe("error");
    return;
  }
  const absl::Time now = absl::Now();
  if (shared_.metrics) {
    const double waited = absl::ToDoubleSeconds(now - (generated_ == 0 ? arrival_ : last_token_));
    (generated_ == 0 ? shared_.metrics->time_to_first_token_seconds
                     : shared_.metrics->time_per_output_token_seconds)
        ->Observe(waited);
    shared_.metrics->generated_tokens->Increment();
  }
  last_token_ = now;
  tokens_.push_back(*token);
  ++generated_;
  event->tokens.push_back(*token);
  if (params().top_logprobs >= 0) event->logprobs.push_back(Logprob(logits, *token));
  const std::vector<int32_t>& stops = params().stop_tokens;
  if ((!params().ignore_eos && shared_.eos->count(*token) > 0) ||
      std::find(stops.begin(), stops.end(), *token) != stops.end()) {
    return Finish("stop", event);
  }
  event->text += text_.Push(shared_.tokenizer->Decode({*token}, /*skip_special=*/true));
  if (text_.stopped()) return Finish("stop", event);
  if (generated_ >= max_tokens_) Finish("length", event);
}

void Sequence::Finish(const std::string& reason, GenerateEvent* event) {
  event->text += text_.Finish();
  event->finish_reason = reason;
  finished_ = true;
  Observe(reason);
}

void Sequence::Fail(const absl::Status& status) {
  if (finished_) return;
  finished_ = true;
  cache_.reset();
  Observe(status.code() == absl::StatusCode::kCancelled ? "cancelled" : "error");
  GenerateEvent event;
  event.status = status;
  Push(std::move(event));
}

void Sequence::Push(GenerateEvent event) {
  event.index = index_;
  event.cached = std::exchange(cached_, -1);
  event.cached = std::max<int64_t>(event.cached, 0);
  generation_->Push(std::move(event));
}

void Sequence::Observe(const std::string& outcome) {
  if (shared_.metrics == nullptr) return;
  shared_.metrics->RequestSeconds(outcome).Observe(absl::ToDoubleSeconds(absl::Now() - arrival_));
}

}  // namespace shiftadd
