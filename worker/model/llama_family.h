// The LLaMA family: LLaMA 1-3, SmolLM, SmolLM2 and others of the same form.
#ifndef SHIFTADD_WORKER_MODEL_LLAMA_FAMILY_H_
#define SHIFTADD_WORKER_MODEL_LLAMA_FAMILY_H_

#include "worker/model/families.h"

namespace shiftadd {

Family LlamaFamily();

// In GGUF files that we write, beside the divisors that everybody reads: what they were made from,
// as config.json says it (WriteRope). A small model has too few divisors to tell.
inline constexpr char kGgufRopeKey[] = "shiftadd.rope";

// GGUF side (llama_gguf.cc): see Family::from_gguf.
absl::StatusOr<ArchitectureSpec> LlamaSpecFromGguf(const TensorSource& source,
                                                   const std::string& file);

// Fills rope_scaling from GGUF's per-frequency divisors (rope_freqs.weight). UNIMPLEMENTED if no
// supported scaling gives them.
absl::Status RopeScalingFromFactors(const std::vector<float>& factors, const std::string& file,
                                    ArchitectureSpec* spec);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_MODEL_LLAMA_FAMILY_H_
