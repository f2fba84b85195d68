#include "services/base/trace.h"

#include <algorithm>
#include <cstdlib>
#include <utility>
#include <vector>

#include "absl/random/random.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "services/base/ids.h"

namespace shiftadd {
namespace {

thread_local const CallTrace* current = nullptr;

bool IsHex(absl::string_view text, size_t size) {
  return text.size() == size && std::all_of(text.begin(), text.end(), [](unsigned char c) {
           return absl::ascii_isdigit(c) || (c >= 'a' && c <= 'f');
         });
}

bool IsTraceId(absl::string_view text) {
  return IsHex(text, 32) && text.find_first_not_of('0') != absl::string_view::npos;
}

std::string RandomHex(int words) {
  thread_local absl::BitGen random;
  std::string text;
  for (int i = 0; i < words; ++i) {
    absl::StrAppendFormat(&text, "%016x", absl::Uniform<uint64_t>(random) | 1);  // never all zero
  }
  return text;
}

LogFields FieldsOf(const CallTrace& trace) {
  return {{"trace_id", trace.trace_id}, {"request_id", trace.request_id}};
}

}  // namespace

std::string TraceIdOf(absl::string_view traceparent) {
  const std::vector<absl::string_view> parts = absl::StrSplit(traceparent, '-');
  if (parts.size() < 4 || !IsHex(parts[0], 2) || parts[0] == "ff" || !IsTraceId(parts[1]) ||
      !IsHex(parts[2], 16) || !IsHex(parts[3], 2)) {
    return "";
  }
  return std::string(parts[1]);
}

CallTrace NewCallTrace() {
  CallTrace trace;
  if (const char* parent = std::getenv("TRACEPARENT")) trace.trace_id = TraceIdOf(parent);
  if (trace.trace_id.empty()) trace.trace_id = RandomHex(2);
  trace.request_id = NewId("request");
  return trace;
}

CallTrace CallTraceOf(absl::string_view trace_id) {
  CallTrace trace = NewCallTrace();
  if (IsTraceId(trace_id)) trace.trace_id = std::string(trace_id);
  return trace;
}

std::string ThisTraceId() {
  const CallTrace* trace = TraceScope::Current();
  return trace != nullptr ? trace->trace_id : NewCallTrace().trace_id;
}

std::string TraceParent(const CallTrace& trace) {
  return absl::StrCat("00-", trace.trace_id, "-", RandomHex(1), "-01");
}

TraceScope::TraceScope(CallTrace trace)
    : trace_(std::move(trace)), outer_(current), fields_(FieldsOf(trace_)) {
  current = &trace_;
}
TraceScope::~TraceScope() { current = outer_; }
const CallTrace* TraceScope::Current() { return current; }

}  // namespace shiftadd
