// How deeply JSON is nested, before it is parsed: copying and printing a document recurse.
#ifndef SHIFTADD_SERVICES_BASE_JSON_DEPTH_H_
#define SHIFTADD_SERVICES_BASE_JSON_DEPTH_H_

#include "absl/strings/string_view.h"

namespace shiftadd {

// The most brackets that are open at once outside of strings. Exact for JSON; about other text the
// parser complains anyway.
inline int JsonDepth(absl::string_view text) {
  int depth = 0, deepest = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string && c == '\\') {
      ++i;
    } else if (c == '"') {
      in_string = !in_string;
    } else if (!in_string && (c == '{' || c == '[')) {
      deepest = ++depth > deepest ? depth : deepest;
    } else if (!in_string && (c == '}' || c == ']')) {
      --depth;
    }
  }
  return deepest;
}

}  // namespace shiftadd

#endif  // SHIFTADD_SERVICES_BASE_JSON_DEPTH_H_
