#include "worker/serve/engine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>
#include <thread>

#include "absl/time/clock.h"
#include "worker/serve/testing/engine_requests.h"
#include "worker/serve/testing/tiny_server.h"

namespace {

// Allocations of so many bytes, which no other than a cache page has, and how many of them succeed
// before one fails, and how many fail then.
std::atomic<size_t> g_page_bytes{0};
std::atomic<int> g_pages_left{0}, g_pages_failing{0};

}  // namespace

// Memory that fails where a test says so: the pages', and what else has just that size.
// Not inlined: the compiler would see a new and a free.
[[gnu::noinline]] void* operator new(size_t size) {
  if (size == g_page_bytes && g_pages_left-- <= 0 && g_pages_failing-- > 0) throw std::bad_alloc();
  if (void* memory = std::malloc(std::max<size_t>(size, 1))) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace shiftadd {
namespace {

using testing::Collect;
using testing::Params;
using testing::TinyServer;
using testing::TinyServerOptions;

TEST(Engine, ABatchGivesWhatEachSequenceGivesAlone) {
  TinyServerOptions options;
  options.engine = {256, 8, 3};
  TinyServer server(options);
  std::vector<GenerateParams> request = {Params(5, 20), Params(150, 10), Params(1, 30),
                                         Params(33, 3)};
  request[2].sampling.temperature = 1;
  request[2].sampling.seed = 11;
  const auto together = Collect(server.engine->Submit(request)->get());
  for (size_t i = 0; i < request.size(); ++i) {
    const auto alone = Collect(server.engine->Submit({request[i]})->get());
    EXPECT_EQ(alone.tokens[0], together.tokens[i]) << i;
    EXPECT_EQ(alone.text[0], together.text[i]) << i;
    EXPECT_EQ(static_cast<int64_t>(alone.tokens[0].size()), request[i].max_tokens);
    EXPECT_EQ(alone.finish[0], "length");
  }
}

TEST(Engine, FillsTheContextAndNoMore) {
  TinyServer server;  // context 256
  const auto out = Collect(server.engine->Submit({Params(250, 1000)})->get());
  EXPECT_EQ(out.tokens[0].size(), 6u);
  EXPECT_EQ(out.finish[0], "length");
  EXPECT_EQ(server.engine->Submit({Params(256, 1)}).status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_TRUE(server.engine->Submit({Params(256, 0)}).ok());
  EXPECT_EQ(server.engine->Submit({Params(0, 1)}).status().code(),
            absl::StatusCode::kInvalidArgument);
  GenerateParams bad = Params(3, 1);
  bad.prompt[1] = 320;
  EXPECT_EQ(server.engine->Submit({bad}).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(Engine, EndsAtAnEndOfSequenceToken) {
  TinyServer server;
  GenerateParams params = Params(4, 50);
  params.ignore_eos = false;
  params.sampling.logit_bias[testing::kTinyImEnd] = 1e6;
  const auto out = Collect(server.engine->Submit({params})->get());
  EXPECT_EQ(out.finish[0], "stop");
  EXPECT_EQ(out.tokens[0], std::vector<int32_t>{testing::kTinyImEnd});
  EXPECT_EQ(out.text[0], "");
}

TEST(Engine, AFullQueueRefuses) {
  TinyServerOptions options;
  options.engine = {512, 2, 1};
  options.engine.client_queue = 2;
  TinyServer server(options);
  std::vector<std::shared_ptr<Generation>> accepted;
  int refused = 0;
  for (int i = 0; i < 12; ++i) {
    const auto generation = server.engine->Submit({Params(2, 400)});
    if (generation.ok()) {
      accepted.push_back(*generation);
    } else {
      EXPECT_EQ(generation.status().code(), absl::StatusCode::kResourceExhausted);
      ++refused;
    }
  }
  // One runs, two wait; at most a few could have ended meanwhile.
  EXPECT_GE(refused, 1);
  EXPECT_GE(accepted.size(), 3u);
  for (const auto& generation : accepted) generation->Cancel();
  for (const auto& generation : accepted) {
    // On a busy machine the first one may have ended by itself.
    const auto out = Collect(generation.get());
    EXPECT_TRUE(absl::IsCancelled(out.status[0]) || generation == accepted[0]);
  }
  EXPECT_TRUE(Collect(server.engine->Submit({Params(2, 2)})->get()).status[0].ok());
}

TEST(Engine, ManyPromptsOfOneRequestLeaveRoomForOthers) {
  TinyServerOptions options;
  options.engine = {512, 8, 1};
  TinyServer server(options);
  const auto many = *server.engine->Submit(std::vector<GenerateParams>(40, Params(3, 400)));
  const auto one = *server.engine->Submit({Params(3, 2)});
  EXPECT_TRUE(Collect(one.get()).status[0].ok());
  // The single prompt went through long before the forty were done.
  int ended = 0;
  while (const auto event = many->Next(absl::ZeroDuration())) ended += event->last() ? 1 : 0;
  EXPECT_LT(ended, 20);
  many->Cancel();
}

TEST(Engine, AClientFillsNoMoreThanItsShareOfTheQueue) {
  TinyServerOptions options;
  options.engine = {512, 80, 1};  // of 80 waiting requests 40 may be one client's
  TinyServer server(options);
  std::vector<std::shared_ptr<Generation>> accepted;
  int refused = 0;
  for (int i = 0; i < 200; ++i) {
    const auto generation = server.engine->Submit({Params(2, 500)}, "greedy");
    if (generation.ok()) {
      accepted.push_back(*generation);
    } else {
      EXPECT_EQ(generation.status().code(), absl::StatusCode::kResourceExhausted);
      EXPECT_NE(generation.status().message().find("this client's share"), std::string::npos);
      ++refused;
    }
  }
  EXPECT_GE(accepted.size(), 41u);  // one runs, forty wait
  EXPECT_GE(refused, 100);
  // Another client still finds room, and its turn comes before those that wait already.
  const auto other = server.engine->Submit({Params(3, 2)}, "modest");
  ASSERT_TRUE(other.ok()) << other.status();
  EXPECT_TRUE(Collect(other->get()).status[0].ok());
  int ended = 0;
  for (const auto& generation : accepted) {
    while (const auto event = generation->Next(absl::ZeroDuration())) ended += event->last();
  }
  EXPECT_LT(ended, 35);  // one or two, but this thread may have been late to look
  for (const auto& generation : accepted) generation->Cancel();
}

TEST(Engine, ClientsShareTheSlots) {
  TinyServerOptions options;
  options.engine = {512, 80, 2};
  TinyServer server(options);
  std::vector<std::shared_ptr<Generation>> many;
  for (int i = 0; i < 40; ++i) many.push_back(*server.engine->Submit({Params(2 + i, 400)}, "many"));
  std::vector<std::shared_ptr<Generation>> few;
  for (int i = 0; i < 3; ++i) few.push_back(*server.engine->Submit({Params(2 + i, 5)}, "few"));
  for (const auto& generation : few) EXPECT_TRUE(Collect(generation.get()).status[0].ok());
  // Three came and went while the forty were at their first.
  int ended = 0;
  for (const auto& generation : many) {
    while (const auto event = generation->Next(absl::ZeroDuration())) ended += event->last();
  }
  EXPECT_LT(ended, 30);
  for (const auto& generation : many) generation->Cancel();
}

TEST(Engine, ACacheSmallerThanTheContextIsMadeThatLarge) {
  TinyServerOptions options;
  options.engine = {256, 8, 2, 1};
  TinyServer server(options);
  EXPECT_EQ(server.engine->Stats().pages_total, 8);
  EXPECT_EQ(Collect(server.engine->Submit({Params(250, 6)})->get()).tokens[0].size(), 6u);
}

TEST(Engine, DrainRefusesAndThenCancels) {
  TinyServer server;
  const auto quick = *server.engine->Submit({Params(3, 5)});
  server.engine->Drain(absl::Seconds(60));
  EXPECT_EQ(Collect(quick.get()).finish[0], "length");
  EXPECT_TRUE(server.engine->draining());
  EXPECT_EQ(server.engine->Submit({Params(3, 5)}).status().code(), absl::StatusCode::kUnavailable);

  TinyServerOptions options;
  options.engine = {512, 8, 1};
  TinyServer slow(options);
  const auto long_one = *slow.engine->Submit({Params(3, 500), Params(3, 500), Params(3, 500)});
  slow.engine->Drain(absl::Milliseconds(1), "it makes room");
  const auto out = Collect(long_one.get());
  EXPECT_EQ(out.status[2], absl::UnavailableError("it makes room"));
  EXPECT_EQ(slow.engine->Submit({Params(3, 5)}).status(), absl::UnavailableError("it makes room"));
}

// Makes page allocations of a model fail while it lives.
class NoPages {
 public:
  NoPages(const PackedModel& model, int succeed, int fail)
      : NoPages(static_cast<size_t>(model.cache_page_bytes()), succeed, fail) {}
  NoPages(size_t bytes, int succeed, int fail) {
    g_pages_left = succeed;
    g_pages_failing = fail;
    g_page_bytes = bytes;
  }
  ~NoPages() { g_page_bytes = 0; }
};

TEST(Engine, WithoutMemoryForAPageTheLastGivesWay) {
  TinyServerOptions options;
  options.engine = {256, 8, 3};
  options.engine.reuse_prefixes = false;
  TinyServer server(options);
  const std::vector<GenerateParams> request = {Params(40, 100), Params(50, 100), Params(3, 100)};
  const auto plain = Collect(server.engine->Submit(request)->get());
  const int64_t before = server.engine->Stats().preemptions;
  for (int succeed = 0; succeed < 12; ++succeed) {
    const NoPages fault(*server.model, succeed, 2);
    const auto out = Collect(server.engine->Submit(request)->get());
    // Nobody fails but who is alone with the fault.
    for (size_t i = 0; i < request.size(); ++i) {
      if (out.status[i].ok()) {
        EXPECT_EQ(out.tokens[i], plain.tokens[i]) << succeed;
      } else {
        EXPECT_TRUE(absl::IsUnavailable(out.status[i])) << out.status[i];
      }
    }
    EXPECT_LE(g_pages_failing, 0) << succeed;
    EXPECT_TRUE(out.status[0].ok()) << out.status[0];
  }
  EXPECT_GT(server.engine->Stats().preemptions, before);
  // All are given back, a moment after the last answer.
  for (int i = 0; i < 2000 && server.model->cache_pages() > 0; ++i) {
    absl::SleepFor(absl::Milliseconds(5));
  }
  EXPECT_EQ(server.model->cache_pages(), 0);
}

TEST(Engine, LivesThroughMemoryThatRunsOut) {
  TinyServer server;
  const std::vector<GenerateParams> request = {Params(40, 30), Params(7, 60)};
  const auto plain = Collect(server.engine->Submit(request)->get());
  {
    const NoPages fault(*server.model, 0, 1'000'000);
    const auto out = Collect(server.engine->Submit(request)->get());
    for (const absl::Status& status : out.status) {
      EXPECT_TRUE(absl::IsUnavailable(status)) << status;
    }
  }
  {
    const NoPages fault(*server.model, 3, 1'000'000);  // in mid-flight
    const auto out = Collect(server.engine->Submit(request)->get());
    EXPECT_TRUE(absl::IsUnavailable(out.status[0])) << out.status[0];
  }
  const auto again = Collect(server.engine->Submit(request)->get());
  EXPECT_EQ(again.tokens, plain.tokens);
}

// What one sequence's sampling lacks is nothing to the others.
TEST(Engine, LivesThroughMemoryThatSamplingLacks) {
  TinyServer server;
  const size_t logits = static_cast<size_t>(server.model->spec().vocab) * sizeof(float);
  std::vector<GenerateParams> request = {Params(40, 20), Params(7, 20)};
  const auto plain = Collect(server.engine->Submit(request)->get());
  request[1].sampling.repetition_penalty = 1.1;  // takes a copy of the logits
  const auto penalized = Collect(server.engine->Submit(request)->get());
  {
    const NoPages fault(logits, 0, 1);
    const auto out = Collect(server.engine->Submit(request)->get());
    EXPECT_EQ(out.tokens[0], plain.tokens[0]);
    EXPECT_TRUE(absl::IsUnavailable(out.status[1])) << out.status[1];
    EXPECT_EQ(g_pages_failing, 0);
  }
  EXPECT_EQ(Collect(server.engine->Submit(request)->get()).tokens, penalized.tokens);
}

TEST(Engine, StartsNothingThatMemoryHasNoRoomFor) {
  std::atomic<int64_t> room{0};
  TinyServerOptions options;
  options.engine.memory_room = [&room] { return room.load(); };
  TinyServer server(options);
  auto out = Collect(server.engine->Submit({Params(40, 10)})->get());
  EXPECT_TRUE(absl::IsUnavailable(out.status[0])) << out.status[0];
  EXPECT_EQ(server.model->cache_pages(), 0);
  room = int64_t{256} << 20;
  out = Collect(server.engine->Submit({Params(40, 10)})->get());
  EXPECT_TRUE(out.status[0].ok()) << out.status[0];
  // Memory that goes while it runs: it ends at the next page, and the next is refused.
  const auto running = *server.engine->Submit({Params(40, 200)});
  ASSERT_TRUE(running->Next(absl::Seconds(60)).has_value());
  room = 0;
  EXPECT_TRUE(absl::IsUnavailable(Collect(running.get()).status[0]));
  room = int64_t{256} << 20;
  EXPECT_TRUE(Collect(server.engine->Submit({Params(40, 10)})->get()).status[0].ok());
}

}  // namespace
}  // namespace shiftadd
