// Runs sequences through the model: queue, slots, batches of tokens, sampling, text.
#ifndef SHIFTADD_WORKER_SERVE_ENGINE_H_
#define SHIFTADD_WORKER_SERVE_ENGINE_H_

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "worker/model/tokenizer.h"
#include "worker/serve/generation.h"
#include "worker/serve/packed_model.h"
#include "worker/serve/prefix_store.h"
#include "worker/serve/sequence.h"
#include "worker/serve/server_metrics.h"

namespace shiftadd {

// OUT_OF_RANGE; the payloads carry the number of prompt tokens and the context's length.
inline constexpr char kPromptTokensPayload[] = "shiftadd/n_prompt_tokens";
inline constexpr char kContextPayload[] = "shiftadd/n_ctx";
absl::Status ContextExceeded(int64_t prompt_tokens, int64_t context);

struct EngineOptions {
  int64_t context = 8192;  // tokens of prompt and answer together
  int queue = 64;          // requests that may wait
  int sequences = 4;       // slots: sequences that run together
  // Cache pages for all sequences together, kept prefixes among them; at least one whole context.
  // 0: a whole context for every slot.
  int64_t cache_pages = 0;
  bool reuse_prefixes = true;  // keep caches for prompts that begin alike
  int client_queue = 0;        // of the requests that may wait, one client's; 0: half, at least one
  // Bytes that may be taken for cache pages now; null: as many as there are pages.
  std::function<int64_t()> memory_room;
  // Called once, from the engine's thread, when the model computes nothing any more: a step failed,
  // and then a single token too, as on a GPU that is lost. From then on requests are refused.
  std::function<void(const absl::Status&)> on_lost;
};

struct EngineStats {
  int64_t waiting = 0;  // requests with sequences that wait for a slot
  int64_t running = 0;  // sequences
  int64_t pages_used = 0, pages_total = 0;
  int64_t preemptions = 0;      // since the start
  int64_t computed_tokens = 0;  // that went through the model since the start
  int64_t reused_tokens = 0;    // prompt tokens that kept caches gave since the start
};

// Every step takes one token of each running sequence and part of a prompt, so that a long prompt
// holds nobody up for long. A free slot goes to the client with the fewest running sequences, and
// among the requests of one client they take turns, one sequence each: neither a client of a
// hundred requests nor a request of a hundred prompts keeps others waiting.
//
// Memory: a sequence starts once the pages of its prompt are free. When the running ones outgrow
// the cache, kept prefixes go first, oldest first; then the sequence that started last gives up its
// pages and waits, and later computes its tokens again: the oldest always goes on, and no text
// changes by it. The same steps are taken where memory itself is short, as others than this server
// may take it: a sequence starts once there is memory for its prompt, and what is left with nobody
// to give way ends with UNAVAILABLE. A prompt that begins like one that is being computed waits for
// those pages rather than compute them too.
//
// Thread-safe. `model`, `tokenizer` and `metrics` (may be null) must outlive the engine; the model
// is called from the engine's thread only.
class Engine {
 public:
  Engine(PackedModel* model, const Tokenizer* tokenizer, const EngineOptions& options,
         ServerMetrics* metrics);
  // Cancels what runs.
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Takes all sequences of a request or none. `client`: whose it is; requests of nobody in
  // particular ("") are one client's. RESOURCE_EXHAUSTED: the queue is full, or the client's share;
  // UNAVAILABLE: draining; OUT_OF_RANGE: a prompt does not fit the context; INVALID_ARGUMENT: a
  // token id outside the vocabulary, an empty prompt.
  absl::StatusOr<std::shared_ptr<Generation>> Submit(std::vector<GenerateParams> request,
                                                     const std::string& client = "");

  // Refuses new requests, lets what is there end for `grace`, then ends it with UNAVAILABLE, which
  // says why. Returns when nothing runs.
  void Drain(absl::Duration grace, const std::string& why = "the server is shutting down");
  bool draining() const;
  EngineStats Stats() const;

  const EngineOptions& options() const { return options_; }

 private:
  using Request = std::deque<std::unique_ptr<Sequence>>;
  using Queue = std::deque<Request>;

  enum class Admission { kStarted, kNoPages, kPrefixToCome };
  // A sequence in a step, and which of the step's logits are the first of its own, which of the
  // tokens that the model draws is its.
  struct Part {
    Sequence* sequence;
    int64_t logits, sampled;
  };

  absl::Status Check(const GenerateParams& params) const;
  void Loop();
  // Admits, then takes a step or waits; false: it is over.
  bool Turn();
  // Fills free slots. Under mutex_.
  void Admit();
  bool AdmitOne();
  // The requests that wait, in the order in which they are due.
  std::vector<Queue::iterator> Due();
  // Whether one more request may wait.
  absl::Status CheckQueue(const std::string& client) const;
  // Gives the sequence its cache, or says why not now. Under mutex_.
  Admission Start(Sequence* sequence);
  // Pages that running sequences will still take for tokens they have.
  int64_t PromisedPages() const;
  // Frees pages until `pages` are free, of kept prefixes and of running sequences behind `index`;
  // gives how many of `pages` are free. `planned` are taken by the step that is being planned.
  int64_t MakeRoom(int64_t pages, int64_t planned, size_t index);
  void Preempt();
  // Whether there is memory for so many more pages and `spare` bytes.
  bool HasMemory(int64_t pages, int64_t spare);
  // Takes memory for the first `tokens` tokens of running sequence `index`, which kept prefixes and
  // sequences behind it give back if there is none; gives how many pages that added to those in
  // use, or -1: it was preempted or failed.
  int64_t TakeMemory(int64_t tokens, size_t index);
  // One forward pass over the running sequences.
  void Step();
  // What goes through the model in the next step, in the order of `parts`.
  void Plan(std::vector<BatchRow>* rows, std::vector<Part>* parts);
  void Forward(const std::vector<BatchRow>& rows, const std::vector<Part>& parts);
  absl::Status CallModel(const std::vector<BatchRow>& rows);  // to logits_ and sampled_
  // After a step that failed for a fault of the model: whether it is lost.
  void CheckModel();
  void Retire();
  void DropCancelled();

  PackedModel* const model_;
  const Tokenizer* const tokenizer_;
  const EngineOptions options_;
  ServerMetrics* const metrics_;
  std::set<int32_t> eos_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  Queue queue_;
  bool draining_ = false;
  bool cancel_all_ = false;
  std::string why_cancelled_ = "the server is shutting down";
  bool stop_ = false;
  std::vector<std::unique_ptr<Sequence>> running_;  // oldest first; the loop's, under mutex_
  EngineStats totals_;                              // its counters; the loop's, under mutex_
  PrefixStore kept_;                                // the loop's
  int64_t room_ = 0;                                // what memory_room said; the loop's
  absl::Time room_asked_ = absl::InfinitePast();
  std::vector<float> logits_;
  std::vector<int32_t> sampled_;
  std::thread thread_;
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_SERVE_ENGINE_H_
