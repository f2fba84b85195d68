#include "tests/load/load.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <iterator>
#include <memory>
#include <mutex>
#include <random>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "nlohmann/json.hpp"
#include "tests/http_client.h"

namespace shiftadd::testing {
namespace {

using nlohmann::json;

constexpr absl::Duration kPatience = absl::Minutes(5);  // for the next byte

int64_t ResidentBytes(pid_t pid) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/statm"));
  int64_t all = 0, resident = 0;
  file >> all >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

// User and system time that a process has used.
double CpuSeconds(pid_t pid) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/stat"));
  std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const size_t name = text.rfind(')');  // the name may hold anything
  if (name == std::string::npos) return 0;
  const std::vector<std::string> fields = absl::StrSplit(text.substr(name + 2), ' ');
  int64_t user = 0, system = 0;
  if (fields.size() < 13 || !absl::SimpleAtoi(fields[11], &user) ||
      !absl::SimpleAtoi(fields[12], &system)) {
    return 0;
  }
  return static_cast<double>(user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

// What the server's key/value caches hold, by its own metrics; 0 if it does not say.
int64_t CacheBytes(int port) {
  const std::string text = HttpClient(port).Get("/metrics").body;
  std::map<std::string, double> used, bytes;  // by labels
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    const std::pair<absl::string_view, absl::string_view> parts =
        absl::StrSplit(line, absl::MaxSplits(' ', 1));
    const std::pair<absl::string_view, std::string> series =
        absl::StrSplit(parts.first, absl::MaxSplits('{', 1));
    double value = 0;
    if (!absl::SimpleAtod(parts.second, &value)) continue;
    if (series.first == "shiftadd_kv_blocks_used") used[series.second] = value;
    if (series.first == "shiftadd_kv_block_bytes") bytes[series.second] = value;
  }
  double sum = 0;
  for (const auto& [labels, pages] : used) sum += pages * bytes[labels];
  return static_cast<int64_t>(sum);
}

std::string Prompt(std::mt19937_64* random, int words) {
  static constexpr const char* kWords[] = {"the",   "river", "a",    "small",  "house", "and",
                                           "why",   "green", "some", "people", "walk",  "under",
                                           "rain",  "where", "old",  "stones", "tell",  "of",
                                           "bread", "stars", "it",   "was",    "many",  "years"};
  std::string text = "Once upon a time";
  for (int i = 0; i < words; ++i)
    absl::StrAppend(&text, " ", kWords[(*random)() % std::size(kWords)]);
  return text;
}

// What one stream was.
struct Stream {
  std::string fault;  // empty: whole
  bool refused = false;
  double wait = 1;  // after a refusal, seconds
  double first_token = 0, output_token = 0;
  int64_t tokens = 0;
};

class Client {
 public:
  Client(const LoadOptions& options, int index)
      : options_(options), random_(options.seed * 1'000'003 + static_cast<uint64_t>(index)) {}

  Stream Ask() {
    if (http_ == nullptr) http_ = std::make_unique<HttpClient>(options_.port, kPatience);
    Stream out;
    const absl::Time start = absl::Now();
    absl::Time first, last;
    bool done = false;
    std::string text;
    size_t offset = 0;
    const HttpAnswer answer =
        http_->Post("/v1/completions", Body().dump(), "", [&](absl::string_view piece) {
          absl::StrAppend(&text, piece);
          ForEachEvent(text, &offset, [&](absl::string_view event) {
            last = absl::Now();
            if (first == absl::Time()) first = last;
            if (event == "[DONE]") done = true;
            const json chunk = json::parse(event, nullptr, false);
            if (!chunk.is_object()) return;
            if (chunk.contains("error")) out.fault = "error within a stream";
            const json usage = chunk.value("usage", json());
            if (usage.is_object()) out.tokens = usage.value("completion_tokens", int64_t{0});
          });
        });
    if (!answer.fault.empty() || answer.headers.count("connection") > 0) http_.reset();
    Judge(answer, done, &out);
    if (first == absl::Time()) return out;
    out.first_token = absl::ToDoubleSeconds(first - start);
    out.output_token = absl::ToDoubleSeconds(last - first) /
                       static_cast<double>(std::max<int64_t>(1, out.tokens - 1));
    return out;
  }

 private:
  json Body() {
    json body = {{"prompt", Prompt(&random_, options_.prompt_words)},
                 {"max_tokens", options_.max_tokens},
                 {"ignore_eos", true},
                 {"seed", random_() % 1000},
                 {"stream", true},
                 {"stream_options", {{"include_usage", true}}}};
    if (!options_.model.empty()) body["model"] = options_.model;
    return body;
  }

  void Judge(const HttpAnswer& answer, bool done, Stream* out) const {
    const auto retry = answer.headers.find("retry-after");
    if (answer.status == 429 && retry != answer.headers.end() &&
        absl::SimpleAtod(retry->second, &out->wait)) {
      out->refused = true;
    } else if (answer.status != 200) {
      out->fault = answer.status == 0 ? absl::StrCat("no answer: ", answer.fault)
                                      : absl::StrCat("status ", answer.status);
    } else if (!answer.fault.empty()) {
      out->fault = absl::StrCat("a stream that ends early: ", answer.fault);
    } else if (out->fault.empty() && !done) {
      out->fault = "a stream without [DONE]";
    } else if (out->fault.empty() && out->tokens != options_.max_tokens) {
      out->fault = absl::StrCat(out->tokens, " tokens instead of ", options_.max_tokens);
    }
  }

  const LoadOptions& options_;
  std::mt19937_64 random_;
  std::unique_ptr<HttpClient> http_;
};

std::string Milliseconds(const std::vector<double>& ascending) {
  return absl::StrFormat("p50 %.1f ms, p95 %.1f ms", 1e3 * Percentile(ascending, 0.5),
                         1e3 * Percentile(ascending, 0.95));
}

}  // namespace

double Percentile(const std::vector<double>& ascending, double share) {
  if (ascending.empty()) return 0;
  const auto rank = static_cast<size_t>(share * static_cast<double>(ascending.size()));
  return ascending[std::min(rank, ascending.size() - 1)];
}

int64_t LoadReport::failed() const {
  int64_t sum = 0;
  for (const auto& [kind, count] : failures) sum += count;
  return sum;
}

int64_t LoadReport::rss_growth() const {
  const auto mean = [this](size_t from, size_t to) {
    int64_t sum = 0;
    for (size_t i = from; i < to; ++i) sum += rss[i] - cache[i];
    return sum / static_cast<int64_t>(to - from);
  };
  const size_t n = rss.size();
  return n < 8 ? 0 : mean(n - n / 4, n) - mean(n / 4, n / 2);
}

std::string LoadReport::ToString() const {
  std::string text = absl::StrFormat(
      "%d streams whole, %d refused with 429, %d failed, in %.1f s\n%d tokens, %.1f tokens/s\n"
      "time to first token: %s\ntime per output token: %s\n",
      answered, refused, failed(), seconds, tokens, tokens_per_second(), Milliseconds(first_token),
      Milliseconds(output_token));
  for (const auto& [kind, count] : failures) absl::StrAppend(&text, "  ", count, " × ", kind, "\n");
  if (cpu_seconds > 0) {
    absl::StrAppendFormat(&text, "%.1f processor seconds, %.1f tokens each\n", cpu_seconds,
                          static_cast<double>(tokens) / cpu_seconds);
  }
  if (rss.empty()) return text;
  absl::StrAppend(&text, "resident memory, MB (of which caches):");
  const size_t step = std::max<size_t>(1, rss.size() / 10);
  for (size_t i = 0; i < rss.size(); i += step) {
    absl::StrAppendFormat(&text, " %.1f (%.1f)", static_cast<double>(rss[i]) / 1e6,
                          static_cast<double>(cache[i]) / 1e6);
  }
  absl::StrAppendFormat(&text, "; without caches, last quarter less second quarter: %+.2f\n",
                        static_cast<double>(rss_growth()) / 1e6);
  return text;
}

LoadReport RunLoad(const LoadOptions& options) {
  LoadReport report;
  std::mutex mutex;
  std::atomic<bool> over{false};
  const double cpu_before = options.pid > 0 ? CpuSeconds(options.pid) : 0;
  const absl::Time start = absl::Now(), end = start + options.duration;
  const auto client = [&](int index) {
    Client me(options, index);
    while (absl::Now() < end) {
      const Stream stream = me.Ask();
      std::unique_lock<std::mutex> lock(mutex);
      if (stream.refused) {
        ++report.refused;
        lock.unlock();
        absl::SleepFor(std::min(absl::Seconds(stream.wait), end - absl::Now()));
      } else if (!stream.fault.empty()) {
        ++report.failures[stream.fault];
        lock.unlock();
        absl::SleepFor(absl::Milliseconds(100));
      } else {
        ++report.answered;
        report.tokens += stream.tokens;
        report.first_token.push_back(stream.first_token);
        report.output_token.push_back(stream.output_token);
      }
    }
  };
  std::thread memory([&] {
    int64_t most = 0;  // memory of pages that go is kept for the next ones
    while (options.pid > 0 && !over && absl::Now() < end) {
      most = std::max(most, CacheBytes(options.port));
      report.rss.push_back(ResidentBytes(options.pid));
      report.cache.push_back(most);
      absl::SleepFor(absl::Seconds(1));
    }
  });
  std::vector<std::thread> clients;
  for (int i = 0; i < options.clients; ++i) clients.emplace_back(client, i);
  for (std::thread& thread : clients) thread.join();
  report.seconds = absl::ToDoubleSeconds(absl::Now() - start);
  if (options.pid > 0) report.cpu_seconds = CpuSeconds(options.pid) - cpu_before;
  over = true;
  memory.join();
  std::sort(report.first_token.begin(), report.first_token.end());
  std::sort(report.output_token.begin(), report.output_token.end());
  return report;
}

}  // namespace shiftadd::testing
