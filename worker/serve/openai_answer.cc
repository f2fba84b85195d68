// How a generation becomes an answer: whole, or as a stream of server-sent events.
#include <algorithm>
#include <optional>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "worker/serve/openai_api.h"
#include "worker/serve/text_stream.h"

namespace shiftadd::openai {
namespace {

using http::Response;
using http::StreamWriter;
using nlohmann::json;

// How often a handler looks whether its client is still there.
constexpr absl::Duration kPoll = absl::Milliseconds(100);
// nginx's code for a client that closed the connection: nobody reads it, metrics show it.
constexpr int kClientClosed = 499;

// What has come of one sequence.
struct Choice {
  std::string text;
  std::string finish_reason;
  std::vector<TokenLogprob> logprobs;
  int64_t tokens = 0;
};

// Prompt tokens that were reused: a prompt counts once, with its first choice, as it does among the
// prompt tokens.
int64_t CachedOf(const GenerateEvent& event, int64_t choices) {
  return static_cast<int64_t>(event.index) % choices == 0 ? event.cached : 0;
}

// Cancels a generation that is left before its end.
class Guard {
 public:
  explicit Guard(Generation* generation) : generation_(generation) {}
  ~Guard() { generation_->Cancel(); }

 private:
  Generation* const generation_;
};

// Looks at most every kPoll whether the client is there: asking costs a system call.
class Presence {
 public:
  explicit Presence(StreamWriter* writer) : writer_(writer) {}
  bool Gone() {
    const absl::Time now = absl::Now();
    if (now - asked_ < kPoll) return false;
    asked_ = now;
    return !writer_->Connected();
  }

 private:
  StreamWriter* const writer_;
  absl::Time asked_ = absl::InfinitePast();
};

// Who only ended his own side over HTTP/1.0 (StreamWriter::Connected) may yet read it.
Response ClientClosed() {
  return http::JsonError(kClientClosed,
                         "the client has gone; one that ends its side of the connection and reads "
                         "on is waited for over HTTP/1.1 only",
                         "", "client_closed_request");
}

}  // namespace

TextOffsets Api::OffsetsOf(const Job& job, size_t i) {
  const Tokenizer* const tokenizer = job.model->tokenizer.get();
  if (!job.echo) return {tokenizer, "", 0};
  const int64_t tokens = static_cast<int64_t>(job.sequences[i].prompt.size());
  return {tokenizer, job.prompt_texts[i / job.fields.n], tokens};
}

Response Api::Answer(const Job& job, Generation* generation, StreamWriter* writer) {
  const Guard guard(generation);
  Presence presence(writer);
  std::vector<Choice> choices(job.sequences.size());
  size_t left = choices.size();
  int64_t cached = 0;
  const Tokenizer& tokenizer = *job.model->tokenizer;
  while (left > 0) {
    std::optional<GenerateEvent> event = generation->Next(kPoll);
    if (presence.Gone()) return ClientClosed();
    if (!event.has_value()) continue;
    if (!event->status.ok()) return ErrorResponse(event->status);
    cached += CachedOf(*event, job.fields.n);
    Choice& choice = choices[event->index];
    choice.text += event->text;
    choice.finish_reason = event->finish_reason;
    choice.tokens += static_cast<int64_t>(event->tokens.size());
    std::move(event->logprobs.begin(), event->logprobs.end(), std::back_inserter(choice.logprobs));
    if (event->last()) --left;
  }
  json list = json::array();
  int64_t generated = 0;
  for (size_t i = 0; i < choices.size(); ++i) {
    const Choice& choice = choices[i];
    generated += choice.tokens;
    json entry = {{"index", i}, {"finish_reason", choice.finish_reason}, {"logprobs", nullptr}};
    const bool logprobs = job.fields.params.top_logprobs >= 0;
    if (job.chat) {
      entry["message"] = {{"role", "assistant"}, {"content", choice.text}};
      if (logprobs) entry["logprobs"] = ChatLogprobs(tokenizer, choice.logprobs);
    } else {
      entry["text"] =
          (job.echo ? ToValidUtf8(job.prompt_texts[i / job.fields.n]) : "") + choice.text;
      TextOffsets offsets = OffsetsOf(job, i);
      if (logprobs) entry["logprobs"] = LegacyLogprobs(tokenizer, choice.logprobs, &offsets);
    }
    list.push_back(std::move(entry));
  }
  json body = job.envelope.Wrap(std::move(list));
  body["usage"] = Usage(job.prompt_tokens, generated, cached);
  return JsonResponse(200, body);
}

namespace {

// Writes the chunks of a stream. Every method is false once the client has gone.
class ChunkWriter {
 public:
  ChunkWriter(const Envelope& envelope, bool usage, StreamWriter* writer)
      : envelope_(envelope), usage_(usage), writer_(writer) {}

  bool Choice(json choice) {
    json chunk = envelope_.Wrap(json::array({std::move(choice)}));
    if (usage_) chunk["usage"] = nullptr;
    return Send(chunk);
  }
  bool Usage(json usage) {
    json chunk = envelope_.Wrap(json::array());
    chunk["usage"] = std::move(usage);
    return Send(chunk);
  }
  bool Send(const json& data) { return writer_->Write("data: " + Dump(data) + "\n\n"); }
  bool Done() { return writer_->Write("data: [DONE]\n\n"); }

 private:
  const Envelope& envelope_;
  const bool usage_;
  StreamWriter* const writer_;
};

}  // namespace

Response Api::Stream(const Job& job, Generation* generation, StreamWriter* writer) {
  const Guard guard(generation);
  Presence presence(writer);
  Response head;
  head.content_type = "text/event-stream";
  head.headers["Cache-Control"] = "no-cache";
  if (!writer->Start(head)) return ClientClosed();
  ChunkWriter chunks(job.envelope, job.fields.include_usage, writer);
  const auto choice = [&](size_t index, const std::string& text) {
    json entry = {{"index", index}, {"finish_reason", nullptr}, {"logprobs", nullptr}};
    if (job.chat) {
      entry["delta"] = {{"content", text}};
    } else {
      entry["text"] = text;
    }
    return entry;
  };
  const size_t count = job.sequences.size();
  for (size_t i = 0; i < count; ++i) {
    json first = choice(i, job.chat ? "" : ToValidUtf8(job.prompt_texts[i / job.fields.n]));
    if (job.chat) first["delta"]["role"] = "assistant";
    if ((job.chat || job.echo) && !chunks.Choice(std::move(first))) return ClientClosed();
  }
  std::vector<TextOffsets> offsets;
  for (size_t i = 0; i < count && !job.chat; ++i) offsets.push_back(OffsetsOf(job, i));
  int64_t generated = 0, cached = 0;
  const Tokenizer& tokenizer = *job.model->tokenizer;
  for (size_t left = count; left > 0;) {
    std::optional<GenerateEvent> event = generation->Next(kPoll);
    if (presence.Gone()) return ClientClosed();
    if (!event.has_value()) continue;
    if (!event->status.ok()) {
      chunks.Send(ErrorBody(event->status));
      return head;
    }
    generated += static_cast<int64_t>(event->tokens.size());
    cached += CachedOf(*event, job.fields.n);
    const bool logprobs = job.fields.params.top_logprobs >= 0 && !event->logprobs.empty();
    if (!event->text.empty() || logprobs || (event->last() && !job.chat)) {
      json entry = choice(event->index, event->text);
      if (logprobs && job.chat) {
        entry["logprobs"] = ChatLogprobs(tokenizer, event->logprobs);
      } else if (logprobs) {
        entry["logprobs"] = LegacyLogprobs(tokenizer, event->logprobs, &offsets[event->index]);
      }
      if (event->last() && !job.chat) entry["finish_reason"] = event->finish_reason;
      if (!chunks.Choice(std::move(entry))) return ClientClosed();
    }
    if (!event->last()) continue;
    --left;
    if (job.chat) {
      json end = choice(event->index, "");
      end["delta"] = json::object();
      end["finish_reason"] = event->finish_reason;
      if (!chunks.Choice(std::move(end))) return ClientClosed();
    }
  }
  if (job.fields.include_usage && !chunks.Usage(Usage(job.prompt_tokens, generated, cached))) {
    return ClientClosed();
  }
  chunks.Done();
  return head;
}

}  // namespace shiftadd::openai
