// Parallel streaming clients against one server, and what they saw.
#ifndef SHIFTADD_TESTS_LOAD_LOAD_H_
#define SHIFTADD_TESTS_LOAD_LOAD_H_

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace shiftadd::testing {

struct LoadOptions {
  int port = 0;                                 // of 127.0.0.1
  std::string model;                            // empty: the server's first
  int clients = 16;                             // each has one connection and one request at a time
  absl::Duration duration = absl::Seconds(10);  // after it, requests that run still end
  int max_tokens = 32;
  int prompt_words = 24;  // no two prompts are alike beyond their first words
  uint64_t seed = 1;
  pid_t pid = 0;  // whose resident memory is read every second; 0: nobody's
};

struct LoadReport {
  int64_t answered = 0;  // whole streams with all their tokens
  int64_t refused = 0;   // 429 with Retry-After: the client waits that long and asks again
  std::map<std::string, int64_t> failures;  // by kind
  int64_t tokens = 0;                       // of whole streams
  double seconds = 0;                       // until the last answer
  // Seconds, one a whole stream, ascending. From the request's first byte sent to the first text;
  // and from there to the end, a token.
  std::vector<double> first_token, output_token;
  std::vector<int64_t> rss;    // bytes, one a second
  std::vector<int64_t> cache;  // of which the most that key/value caches have held so far
  double cpu_seconds = 0;      // of `pid`: on a busy machine tokens a second say little, these more

  int64_t failed() const;
  double tokens_per_second() const {
    return seconds > 0 ? static_cast<double>(tokens) / seconds : 0;
  }
  // Bytes: the mean of the last quarter of the time over that of the second quarter, caches left
  // out: they may fill up to their limit all the while.
  int64_t rss_growth() const;
  // For people; several lines.
  std::string ToString() const;
};

// The value below which `share` of them lie; 0 for none.
double Percentile(const std::vector<double>& ascending, double share);

LoadReport RunLoad(const LoadOptions& options);

}  // namespace shiftadd::testing

#endif  // SHIFTADD_TESTS_LOAD_LOAD_H_
