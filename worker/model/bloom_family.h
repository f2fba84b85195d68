// Bloom: ALiBi, layer norms (also of the embedding), GELU, biases everywhere; queries, keys and
// values of a Hugging Face source are one tensor, interleaved by head.
#ifndef SHIFTADD_WORKER_MODEL_BLOOM_FAMILY_H_
#define SHIFTADD_WORKER_MODEL_BLOOM_FAMILY_H_

#include "worker/model/families.h"

namespace shiftadd {

Family BloomFamily();

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_MODEL_BLOOM_FAMILY_H_
