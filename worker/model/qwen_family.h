// Qwen2 and Qwen2.5 (biases of q, k and v) and Qwen3 (norms of queries and keys); both may have
// sliding windows in their last blocks.
#ifndef SHIFTADD_WORKER_MODEL_QWEN_FAMILY_H_
#define SHIFTADD_WORKER_MODEL_QWEN_FAMILY_H_

#include "worker/model/families.h"

namespace shiftadd {

Family Qwen2Family();
Family Qwen3Family();

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_MODEL_QWEN_FAMILY_H_
