// Mistral: LLaMA with a sliding window in every block. Its GGUF files call themselves llama.
#ifndef SHIFTADD_WORKER_MODEL_MISTRAL_FAMILY_H_
#define SHIFTADD_WORKER_MODEL_MISTRAL_FAMILY_H_

#include "worker/model/families.h"

namespace shiftadd {

Family MistralFamily();

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_MODEL_MISTRAL_FAMILY_H_
