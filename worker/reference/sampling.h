// What decides the tokens of self-written text, whatever decodes it.
#ifndef SHIFTADD_WORKER_REFERENCE_SAMPLING_H_
#define SHIFTADD_WORKER_REFERENCE_SAMPLING_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "worker/model/architecture_spec.h"

namespace shiftadd::reference {

// Token 0 of a sequence: BOS, or, without one, drawn evenly from the vocabulary.
int32_t FirstToken(const ArchitectureSpec& spec, uint64_t seed, int64_t sequence);

// Token t >= 1, of logits [spec.vocab]. INVALID_ARGUMENT, naming both: logits that are not finite.
absl::StatusOr<int32_t> NextToken(const ArchitectureSpec& spec, const float* logits, uint64_t seed,
                                  int64_t sequence, int64_t t);

}  // namespace shiftadd::reference

#endif  // SHIFTADD_WORKER_REFERENCE_SAMPLING_H_
