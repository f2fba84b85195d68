#include "services/base/logging.h"

#include <spdlog/formatter.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_sinks.h>

#include <memory>

#include "absl/time/time.h"
#include "nlohmann/json.hpp"
#include "services/base/call_notes.h"
#include "services/base/printable.h"

namespace shiftadd {
namespace {

// The sink formats on the thread that logs.
LogFields& FieldsOfThread() {
  thread_local LogFields fields;
  return fields;
}

struct Notes {
  bool kept = false;
  LogFields fields;
};
Notes& NotesOfThread() {
  thread_local Notes notes;
  return notes;
}

absl::string_view View(const spdlog::string_view_t& text) { return {text.data(), text.size()}; }

// The message, its control characters escaped: what it quotes of others must not look like a line
// of its own.
class OneLine : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg& line, const std::tm&,
              spdlog::memory_buf_t& out) override {
    const std::string text = EscapeControls(View(line.payload));
    out.append(text.data(), text.data() + text.size());
  }
  std::unique_ptr<spdlog::custom_flag_formatter> clone() const override {
    return std::make_unique<OneLine>();
  }
};

std::unique_ptr<spdlog::formatter> TextFormatter() {
  auto formatter = std::make_unique<spdlog::pattern_formatter>();
  formatter->add_flag<OneLine>('*').set_pattern("%Y-%m-%dT%H:%M:%S.%e %L %n %*");
  return formatter;
}

class JsonFormatter : public spdlog::formatter {
 public:
  void format(const spdlog::details::log_msg& line, spdlog::memory_buf_t& out) override {
    nlohmann::ordered_json object;
    object["time"] =
        absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::FromChrono(line.time), absl::UTCTimeZone());
    object["level"] = std::string(View(spdlog::level::to_string_view(line.level)));
    object["process"] = std::string(View(line.logger_name));
    object["message"] = std::string(View(line.payload));
    for (const LogFields* fields : {&NotesOfThread().fields, &FieldsOfThread()}) {
      for (const auto& [name, value] : *fields) object[name] = value;
    }
    // A message may quote bytes that are no UTF-8.
    const std::string text =
        object.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
    out.append(text.data(), text.data() + text.size());
  }
  std::unique_ptr<spdlog::formatter> clone() const override {
    return std::make_unique<JsonFormatter>();
  }
};

}  // namespace

void InitLogging(absl::string_view process, absl::string_view level, absl::string_view format) {
  auto logger = std::make_shared<spdlog::logger>(std::string(process),
                                                 std::make_shared<spdlog::sinks::stderr_sink_mt>());
  if (format == "json") {
    logger->set_formatter(std::make_unique<JsonFormatter>());
  } else {
    logger->set_formatter(TextFormatter());
  }
  const std::string name(level);
  auto parsed = spdlog::level::from_str(name);
  if (parsed == spdlog::level::off && name != "off") parsed = spdlog::level::info;
  logger->set_level(parsed);
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
}

LogScope::LogScope(LogFields fields) : before_(FieldsOfThread().size()) {
  for (auto& field : fields) FieldsOfThread().push_back(std::move(field));
}

LogScope::~LogScope() { FieldsOfThread().resize(before_); }

void NoteInCall(LogFields fields) {
  Notes& notes = NotesOfThread();
  if (!notes.kept) return;
  for (auto& field : fields) notes.fields.push_back(std::move(field));
}

CallNotes::CallNotes() { NotesOfThread() = {/*kept=*/true, {}}; }
CallNotes::~CallNotes() { NotesOfThread() = {}; }

}  // namespace shiftadd
