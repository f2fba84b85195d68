// Gemma 1, 2 and 3 (text): scaled embeddings, gated GELU, norms by 1 + w. Gemma 2: norms before and
// behind, soft caps, every second block local. Gemma 3: norms of queries and keys in place of the
// caps, five local blocks of six, with a RoPE base of their own.
#ifndef SHIFTADD_WORKER_MODEL_GEMMA_FAMILY_H_
#define SHIFTADD_WORKER_MODEL_GEMMA_FAMILY_H_

#include "worker/model/families.h"

namespace shiftadd {

Family GemmaFamily();
Family Gemma2Family();
Family Gemma3Family();

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_MODEL_GEMMA_FAMILY_H_
