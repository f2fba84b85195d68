// Tokens to a syntax tree.
#ifndef SHIFTADD_WORKER_MODEL_JINJA_PARSER_H_
#define SHIFTADD_WORKER_MODEL_JINJA_PARSER_H_

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/model/jinja/syntax.h"

namespace shiftadd::jinja {

// INVALID_ARGUMENT: no template; UNIMPLEMENTED: a statement, filter or test that is not supported,
// by name. Both name the line.
absl::StatusOr<Block> Parse(absl::string_view source);

}  // namespace shiftadd::jinja

#endif  // SHIFTADD_WORKER_MODEL_JINJA_PARSER_H_
