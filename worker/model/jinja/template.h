// Runs the part of Jinja that chat templates are written in, as transformers runs it: trim_blocks,
// lstrip_blocks, undefined values that print nothing, loop controls, raise_exception, strftime_now,
// tojson without escapes. Statements: if, for (with a filter and else, not recursive), set (names,
// members of a namespace, blocks), macro, break, continue, generation. Filters, tests and methods:
// filters.cc. No attribute of the host is reachable, and a run is bounded in steps and output.
#ifndef SHIFTADD_WORKER_MODEL_JINJA_TEMPLATE_H_
#define SHIFTADD_WORKER_MODEL_JINJA_TEMPLATE_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "worker/model/jinja/syntax.h"
#include "worker/model/jinja/value.h"

namespace shiftadd::jinja {

// Immutable, thread-safe.
class Template {
 public:
  // INVALID_ARGUMENT: no template; UNIMPLEMENTED: a construct that is not supported, by name. Both
  // name the line.
  static absl::StatusOr<std::shared_ptr<const Template>> Parse(absl::string_view source);

  // `variables`: what the program knows; `now`: what strftime_now tells, in UTC. INVALID_ARGUMENT:
  // the program fails, or refuses by raise_exception; RESOURCE_EXHAUSTED: it does not end, or
  // prints without end.
  absl::StatusOr<std::string> Render(const Dict& variables, absl::Time now) const;

 private:
  explicit Template(Block program) : program_(std::move(program)) {}
  const Block program_;
};

}  // namespace shiftadd::jinja

#endif  // SHIFTADD_WORKER_MODEL_JINJA_TEMPLATE_H_
