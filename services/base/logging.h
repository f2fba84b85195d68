// Process-wide logging through spdlog: one line an event, to stderr.
//
// As text: time, level, process, message. As JSON: an object a line with "time", "level", "process"
// and "message", and whatever fields are in force where it was logged: "job", "task", "epoch",
// "worker", "request_id", "trace_id", "method". All values are strings.
#ifndef SHIFTADD_SERVICES_BASE_LOGGING_H_
#define SHIFTADD_SERVICES_BASE_LOGGING_H_

#include <spdlog/spdlog.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

namespace shiftadd {

// Call once at the start of main. `level`: trace, debug, info, warn, error; anything else is info.
// `format`: text or json; anything else is text.
void InitLogging(absl::string_view process, absl::string_view level = "info",
                 absl::string_view format = "text");

// Names and values.
using LogFields = std::vector<std::pair<std::string, std::string>>;

// Fields of every line that this thread logs while it lives. An inner one's value wins. Objects of
// one thread must end in the reverse order of their making.
class LogScope {
 public:
  explicit LogScope(LogFields fields);
  ~LogScope();
  LogScope(const LogScope&) = delete;
  LogScope& operator=(const LogScope&) = delete;

 private:
  const size_t before_;
};

}  // namespace shiftadd

#endif  // SHIFTADD_SERVICES_BASE_LOGGING_H_
