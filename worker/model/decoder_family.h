// What the families that are built like LLaMA share: field names of config.json and GGUF, tensor
// names.
#ifndef SHIFTADD_WORKER_MODEL_DECODER_FAMILY_H_
#define SHIFTADD_WORKER_MODEL_DECODER_FAMILY_H_

#include <string>
#include <vector>

#include "worker/model/families.h"
#include "worker/model/gguf_metadata.h"
#include "worker/model/hugging_face_config.h"

namespace shiftadd {

// What a config.json means that does not say.
struct DecoderDefaults {
  std::string family;
  int64_t head_dim = 0;  // 0: hidden / heads
  int64_t context = 2048;
  double norm_eps = 1e-6;
  double rope_theta = 10000.0;
  bool tied_embeddings = false;
};
// Sizes, norm, RoPE, ties, end tokens: all but biases, windows and what is special to a family.
absl::StatusOr<ArchitectureSpec> DecoderFromConfig(const HuggingFaceConfig& config,
                                                   const DecoderDefaults& defaults);
// The same as config.json. `architecture`: "LlamaForCausalLM".
nlohmann::json DecoderToConfig(const ArchitectureSpec& spec, const std::string& architecture,
                               const std::string& model_type);

// The same from GGUF metadata under "ARCHITECTURE.", ties and biases from the list of tensors.
absl::StatusOr<ArchitectureSpec> DecoderFromGguf(const TensorSource& source,
                                                 const GgufMetadata& meta,
                                                 const std::string& architecture,
                                                 const DecoderDefaults& defaults);
// What every family reads alike.
absl::StatusOr<int64_t> GgufVocabSize(const TensorSource& source, const GgufMetadata& meta,
                                      const std::string& architecture);
absl::Status ReadGgufTokens(const GgufMetadata& meta, ArchitectureSpec* spec);
bool HasTensor(const TensorSource& source, const std::string& name);

// How its tensors differ from LLaMA's.
struct DecoderNames {
  bool interleaved = false;       // GGUF keeps rows of q and k interleaved
  float hugging_face_norm = 0.0;  // is added to norms of a Hugging Face source
};
std::vector<FamilyTensor> DecoderTensors(const ArchitectureSpec& spec, const DecoderNames& names);
bool DecoderIgnored(const ArchitectureSpec& spec, const std::string& source_name);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_MODEL_DECODER_FAMILY_H_
