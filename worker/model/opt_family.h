// OPT: learned positions that start at row 2, layer norms, ReLU, biases everywhere. The 350M model
// has its norms behind the residual sum and an embedding narrower than its stream. GGUF has no OPT.
#ifndef SHIFTADD_WORKER_MODEL_OPT_FAMILY_H_
#define SHIFTADD_WORKER_MODEL_OPT_FAMILY_H_

#include "worker/model/families.h"

namespace shiftadd {

Family OptFamily();

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_MODEL_OPT_FAMILY_H_
