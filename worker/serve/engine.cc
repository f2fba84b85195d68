#include "worker/serve/engine.h"

#include <algorithm>
#include <map>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/base/fail_point.h"
#include "services/base/logging.h"
#include "services/base/memory_room.h"
#include "services/base/status_macros.h"

namespace shiftadd {
namespace {

// Prompt tokens of one step: as many as the model likes when nobody waits for the next token, fewer
// when somebody does.
int64_t PromptRows(const PackedModel& model, bool decoding) {
  return decoding ? model.step_rows() * 3 / 8 : model.step_rows();
}

constexpr char kModelPoint[] = "serve.model";  // fails: what computes is lost

// For what a step computes with, beside the cache.
constexpr int64_t kSpareBytes = int64_t{8} << 20;

// To ask for the room takes a fifth of a millisecond: not each time where there is so much.
constexpr int64_t kPlentyBytes = int64_t{2} << 30;
constexpr absl::Duration kRoomHolds = absl::Milliseconds(100);

absl::Status NoMemory() {
  return absl::UnavailableError("the server has no memory for this request now; try again later");
}

int64_t Pages(int64_t tokens) { return (tokens + kCachePageTokens - 1) / kCachePageTokens; }
int64_t WholePages(int64_t tokens) { return tokens / kCachePageTokens; }
int64_t Size(const std::vector<int32_t>& tokens) { return static_cast<int64_t>(tokens.size()); }

EngineOptions Completed(EngineOptions options) {
  const int64_t context = Pages(options.context);
  if (options.cache_pages <= 0) options.cache_pages = context * options.sequences;
  options.cache_pages = std::max(options.cache_pages, context);
  if (options.client_queue <= 0) options.client_queue = std::max(options.queue / 2, 1);
  return options;
}

}  // namespace

absl::Status ContextExceeded(int64_t prompt_tokens, int64_t context) {
  absl::Status status = absl::OutOfRangeError(absl::StrCat("the prompt has ", prompt_tokens,
                                                           " tokens or more, the context holds ",
                                                           context, " with the answer"));
  status.SetPayload(kPromptTokensPayload, absl::Cord(absl::StrCat(prompt_tokens)));
  status.SetPayload(kContextPayload, absl::Cord(absl::StrCat(context)));
  return status;
}

Engine::Engine(PackedModel* model, const Tokenizer* tokenizer, const EngineOptions& options,
               ServerMetrics* metrics)
    : model_(model), tokenizer_(tokenizer), options_(Completed(options)), metrics_(metrics) {
  for (const int64_t id : model->spec().eos_tokens) eos_.insert(static_cast<int32_t>(id));
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

absl::Status Engine::CheckQueue(const std::string& client) const {
  // A free slot is no place in the queue.
  const int64_t free = options_.sequences - static_cast<int64_t>(running_.size());
  const int64_t waiting = static_cast<int64_t>(queue_.size());
  if (waiting >= options_.queue + free) {
    return absl::ResourceExhaustedError(absl::StrCat("the queue is full: ", waiting - free,
                                                     " requests wait (limit ", options_.queue,
                                                     "); try again later"));
  }
  const int64_t own = std::count_if(queue_.begin(), queue_.end(), [&](const Request& request) {
    return request.front()->generation().client() == client;
  });
  if (own >= options_.client_queue + free) {
    return absl::ResourceExhaustedError(
        absl::StrCat("this client's share of the queue is full: ", own - free,
                     " of its requests wait (limit ", options_.client_queue, "); try again later"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<Generation>> Engine::Submit(std::vector<GenerateParams> request,
                                                           const std::string& client) {
  for (const GenerateParams& params : request) SA_RETURN_IF_ERROR(Check(params));
  const Sequence::Shared shared{tokenizer_,
                                &eos_,
                                &VectorOpsFor(model_->isa()),
                                metrics_,
                                options_.context,
                                model_->spec().vocab,
                                model_->can_sample()};
  const auto generation = std::make_shared<Generation>(std::move(request), client);
  Request sequences;
  for (size_t i = 0; i < generation->sequences().size(); ++i) {
    sequences.push_back(std::make_unique<Sequence>(shared, generation, i));
  }
  std::lock_guard<std::mutex> lock(mutex_);
  if (draining_) return absl::UnavailableError(why_cancelled_);
  SA_RETURN_IF_ERROR(CheckQueue(client));
  if (!sequences.empty()) queue_.push_back(std::move(sequences));
  changed_.notify_all();
  return generation;
}

void Engine::Admit() {
  while (running_.size() < static_cast<size_t>(options_.sequences) && AdmitOne()) {
  }
}

std::vector<Engine::Queue::iterator> Engine::Due() {
  std::map<std::string, int64_t> running;
  for (const auto& sequence : running_) ++running[sequence->generation().client()];
  std::vector<std::pair<int64_t, Queue::iterator>> due;
  for (auto it = queue_.begin(); it != queue_.end(); ++it) {
    const Sequence& next = *it->front();
    // What has begun and had to give up its pages goes on first.
    due.emplace_back(next.started() ? -1 : running[next.generation().client()], it);
  }
  std::stable_sort(due.begin(), due.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<Queue::iterator> out;
  out.reserve(due.size());
  for (const auto& [rank, it] : due) out.push_back(it);
  return out;
}

bool Engine::AdmitOne() {
  if (queue_.empty()) return false;
  for (const Queue::iterator& it : Due()) {
    Sequence* const next = it->front().get();
    const std::string client = next->generation().client();
    next->FinishIfNothingToDo();
    const Admission admission = next->finished() ? Admission::kStarted : Start(next);
    // Who needs many pages is not overtaken by those who need few.
    if (admission == Admission::kNoPages) return false;
    if (admission == Admission::kPrefixToCome) continue;
    next->SetStarted();
    if (!next->finished()) running_.push_back(std::move(it->front()));
    Request rest = std::move(*it);
    rest.pop_front();
    queue_.erase(it);
    if (!rest.empty()) queue_.push_back(std::move(rest));  // behind the others
    // And so are this client's other requests: clients take turns.
    std::stable_partition(queue_.begin(), queue_.end(), [&](const Request& request) {
      return request.front()->generation().client() != client;
    });
    return true;
  }
  return false;
}

Engine::Admission Engine::Start(Sequence* sequence) {
  const std::vector<int32_t>& tokens = sequence->tokens();
  const int64_t reusable = options_.reuse_prefixes ? sequence->Reusable() : 0;
  PrefixStore::Match best;
  if (reusable >= kCachePageTokens) {
    best = kept_.Find(tokens);
    int64_t to_come = 0;
    for (const auto& other : running_) {
      const int64_t common = std::min(CommonPrefix(other->tokens(), tokens), reusable);
      const int64_t there = std::min(common, other->position());
      if (there > best.tokens) best = {other->cache(), there};
      if (other->in_prompt()) to_come = std::max(to_come, common);
    }
    best.tokens = std::min(best.tokens, reusable);
    if (WholePages(to_come) > WholePages(best.tokens)) return Admission::kPrefixToCome;
  }
  sequence->Start(*model_, best.cache, best.tokens);
  const int64_t reused = sequence->position();
  // Room for a page of each running sequence: else the first of them to need one would preempt.
  const int64_t need = Pages(Size(tokens) + 1) - WholePages(reused) + PromisedPages() +
                       static_cast<int64_t>(running_.size());
  const auto free = [this] { return options_.cache_pages - model_->cache_pages(); };
  while (free() < need && kept_.EvictOldest()) {
  }
  if (free() < need && !running_.empty()) {
    sequence->TakeCache();
    return Admission::kNoPages;
  }
  bool memory = HasMemory(need, kSpareBytes);
  while (!memory && kept_.EvictOldest()) memory = HasMemory(need, kSpareBytes);
  if (!memory) {
    sequence->TakeCache();
    if (!running_.empty()) return Admission::kNoPages;
    spdlog::error("a prompt of {} tokens is refused: no memory for its cache", Size(tokens));
    sequence->Fail(NoMemory());
    return Admission::kStarted;
  }
  totals_.reused_tokens += reused;
  if (metrics_ != nullptr) metrics_->reused_tokens->Increment(static_cast<double>(reused));
  return Admission::kStarted;
}

int64_t Engine::PromisedPages() const {
  int64_t pages = 0;
  for (const auto& sequence : running_) {
    pages += Pages(Size(sequence->tokens())) - Pages(sequence->position());
  }
  return pages;
}

int64_t Engine::MakeRoom(int64_t pages, int64_t planned, size_t index) {
  const auto free = [&] { return options_.cache_pages - model_->cache_pages() - planned; };
  while (free() < pages) {
    if (kept_.EvictOldest()) continue;
    if (running_.size() <= index + 1) break;
    Preempt();
  }
  return std::clamp<int64_t>(free(), 0, pages);
}

void Engine::Preempt() {
  std::unique_ptr<Sequence> sequence = std::move(running_.back());
  running_.pop_back();
  sequence->TakeCache();
  Request alone;
  alone.push_back(std::move(sequence));
  queue_.push_front(std::move(alone));
  ++totals_.preemptions;
  if (metrics_ != nullptr) metrics_->preemptions->Increment();
}

bool Engine::HasMemory(int64_t pages, int64_t spare) {
  if (!options_.memory_room || pages <= 0) return true;
  const int64_t taken = pages * model_->cache_page_bytes();
  const auto fits = [&] { return room_ >= taken + spare; };
  const absl::Time now = absl::Now();
  if (room_ < kPlentyBytes || now - room_asked_ > kRoomHolds) {
    room_asked_ = now;
    room_ = options_.memory_room();
  }
  if (!fits()) {
    ReturnFreeMemory();  // what was freed since counts
    room_ = options_.memory_room();
  }
  if (!fits()) return false;
  room_ -= taken;
  return true;
}

int64_t Engine::TakeMemory(int64_t tokens, size_t index) {
  Sequence* const sequence = running_[index].get();
  const int64_t pages = Pages(tokens) - Pages(sequence->position());
  while (true) {
    const int64_t before = model_->cache_pages();
    if (HasMemory(pages, 0) && sequence->MakeRoom(tokens)) return model_->cache_pages() - before;
    if (kept_.EvictOldest()) continue;
    if (index == 0 && running_.size() == 1) break;
    const bool itself = running_.size() == index + 1;
    Preempt();
    if (itself) return -1;
  }
  spdlog::error("a sequence of {} tokens ends: no memory for its cache", tokens);
  sequence->Fail(NoMemory());
  return -1;
}

void Engine::DropCancelled() {
  const auto drop = [this](std::unique_ptr<Sequence>& sequence) {
    if (cancel_all_) sequence->Fail(absl::UnavailableError(why_cancelled_));
    if (sequence->generation().cancelled()) sequence->Fail(absl::CancelledError("cancelled"));
    return sequence->finished();
  };
  std::erase_if(running_, drop);
  for (Request& request : queue_) std::erase_if(request, drop);
  std::erase_if(queue_, [](const Request& request) { return request.empty(); });
}

EngineStats Engine::Stats() const {
  std::lock_guard<std::mutex> lock(mutex_);
  EngineStats stats = totals_;
  stats.waiting = static_cast<int64_t>(queue_.size());
  stats.running = static_cast<int64_t>(running_.size());
  stats.pages_used = model_->cache_pages();
  stats.pages_total = options_.cache_pages;
  return stats;
}

void Engine::Loop() {
  while (true) {
    try {
      if (!Turn()) return;
    } catch (const std::bad_alloc&) {
      // Where not even a step can be planned. The next turn begins anew, with more memory.
      const std::lock_guard<std::mutex> lock(mutex_);
      kept_.Clear();
      if (!running_.empty()) {
        running_.back()->Fail(NoMemory());
        running_.pop_back();
      }
      ReturnFreeMemory();
    }
  }
}

bool Engine::Turn() {
  {
    std::unique_lock<std::mutex> lock(mutex_);
    DropCancelled();
    Admit();
    if (running_.empty()) {
      changed_.notify_all();
      if (stop_) return false;
      // A queued sequence whose client left is noticed at the next turn at the latest.
      if (queue_.empty()) changed_.wait_for(lock, std::chrono::milliseconds(500));
      return true;
    }
  }
  Step();
  return true;
}

void Engine::Plan(std::vector<BatchRow>* rows, std::vector<Part>* parts) {
  bool decoding = false;
  for (const auto& sequence : running_) decoding |= !sequence->in_prompt();
  int64_t prompt_rows = PromptRows(*model_, decoding);
  int64_t planned = 0, logits = 0, sampled = 0;
  for (size_t i = 0; i < running_.size(); ++i) {  // making room may shorten it
    Sequence* const sequence = running_[i].get();
    const bool in_prompt = sequence->in_prompt();
    int64_t count =
        std::min(in_prompt ? prompt_rows : 1, Size(sequence->tokens()) - sequence->position());
    if (count <= 0) continue;
    const int64_t held = Pages(sequence->position());
    const int64_t room = MakeRoom(Pages(sequence->position() + count) - held, planned, i) + held;
    count = std::min(count, room * kCachePageTokens - sequence->position());
    if (count <= 0) continue;
    const int64_t taken = TakeMemory(sequence->position() + count, i);
    if (taken < 0) continue;
    planned += Pages(sequence->position() + count) - held - taken;
    parts->push_back({sequence, logits, sampled});
    sequence->AddRows(count, rows);
    for (auto row = rows->end() - count; row != rows->end(); ++row) {
      logits += row->logits && !row->sample;
      sampled += row->sample;
    }
    if (in_prompt) prompt_rows -= count;
  }
  totals_.computed_tokens += static_cast<int64_t>(rows->size());
}

absl::Status Engine::CallModel(const std::vector<BatchRow>& rows) {
  if (ReachFailPoint(kModelPoint)) return absl::InternalError("the device does not answer");
  try {
    return model_->can_sample() ? model_->ForwardSample(rows, &logits_, &sampled_)
                                : model_->ForwardBatch(rows, &logits_);
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("out of memory");
  }
}

void Engine::CheckModel() {
  const std::unique_ptr<KvCache> cache = model_->NewCache(1);
  const absl::Status status = CallModel({{0, cache.get(), /*logits=*/true}});
  if (!absl::IsInternal(status)) return;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (draining_) return;
    draining_ = true;
    why_cancelled_ = absl::StrCat("the model is lost: ", status.message());
    cancel_all_ = true;
  }
  spdlog::error("the model is lost: {}", std::string(status.message()));
  if (options_.on_lost) options_.on_lost(status);
}

void Engine::Forward(const std::vector<BatchRow>& rows, const std::vector<Part>& parts) {
  absl::Status status = CallModel(rows);
  // The queue is not what was full.
  if (absl::IsResourceExhausted(status)) status = absl::UnavailableError(status.message());
  if (!status.ok()) {
    spdlog::error("forward pass of {} tokens failed: {}", rows.size(),
                  std::string(status.message()));
    for (const Part& part : parts) {
      part.sequence->Fail(status);
      part.sequence->TakeCache();  // half a step may stand in it
    }
    if (absl::IsUnavailable(status)) kept_.Clear();
    if (absl::IsInternal(status)) CheckModel();
    return;
  }
  model_->ForEach(static_cast<int64_t>(parts.size()), [&](int64_t i) {
    const Part& part = parts[static_cast<size_t>(i)];
    try {
      if (part.sequence->sampled_by_model()) {
        part.sequence->AcceptSampled(sampled_[static_cast<size_t>(part.sampled)]);
      } else {
        part.sequence->Accept(logits_.data() + part.logits * model_->spec().vocab);
      }
    } catch (const std::bad_alloc&) {  // one's alone, on whatever thread
      part.sequence->Fail(NoMemory());
    }
  });
}

// Takes finished sequences out; their caches are kept.
void Engine::Retire() {
  for (const auto& sequence : running_) {
    if (!options_.reuse_prefixes || !sequence->finished() || sequence->cache() == nullptr) continue;
    kept_.Add(sequence->tokens(), sequence->TakeCache());
  }
  std::erase_if(running_, [](const auto& sequence) { return sequence->finished(); });
}

void Engine::Step() {
  std::vector<BatchRow> rows;
  std::vector<Part> parts;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    Plan(&rows, &parts);
  }
  if (!rows.empty()) {  // memory may have ended the only one
    if (metrics_ != nullptr) metrics_->batch_size->Observe(static_cast<double>(rows.size()));
    Forward(rows, parts);
  }
  std::lock_guard<std::mutex> lock(mutex_);
  Retire();
}

bool Engine::draining() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return draining_;
}

void Engine::Drain(absl::Duration grace, const std::string& why) {
  const auto idle = [this] { return running_.empty() && queue_.empty(); };
  std::unique_lock<std::mutex> lock(mutex_);
  draining_ = true;
  why_cancelled_ = why;
  const auto deadline = absl::ToChronoTime(absl::Now() + grace);
  if (changed_.wait_until(lock, deadline, idle)) return;
  cancel_all_ = true;
  changed_.wait(lock, idle);
}

}  // namespace shiftadd
