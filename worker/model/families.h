// The families of architectures, as data: what they are called in each source format, how their
// configuration reads, which tensors they have. To add one, write its functions and a row of the
// table in families.cc.
#ifndef SHIFTADD_WORKER_MODEL_FAMILIES_H_
#define SHIFTADD_WORKER_MODEL_FAMILIES_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "worker/model/architecture_spec.h"
#include "worker/tensor/tensor_source.h"

namespace shiftadd {

// One tensor of a model: its canonical name, its names in the sources, its shape.
struct FamilyTensor {
  std::string canonical;
  std::string hugging_face;
  std::string gguf;
  std::vector<int64_t> shape;
  // Above 0: GGUF keeps the rows of each of so many heads interleaved (pairs (2j, 2j+1) instead of
  // (j, j + d/2)).
  int64_t interleaved_heads = 0;
  float hugging_face_plus = 0;  // is added to what a Hugging Face source has
  // Above 1: the source has one tensor of so many times as many rows, and this is part `fused_part`
  // of it: one run of rows, but in a Hugging Face source a run in the rows of each of so many
  // heads.
  int64_t fused_parts = 1;
  int64_t fused_part = 0;
  int64_t hugging_face_fused_heads = 1;

  // The shape in the source.
  std::vector<int64_t> SourceShape() const;
};

struct Family {
  std::string name;                       // ArchitectureSpec::family
  std::vector<std::string> hugging_face;  // config.json: architectures
  std::vector<std::string> gguf;          // general.architecture
  // Reads a Hugging Face config.json. Token ids are filled if they stand there. Errors start with
  // `file`.
  absl::StatusOr<ArchitectureSpec> (*from_config)(const nlohmann::json& config,
                                                  const std::string& file);
  // Reads a GGUF file's metadata and, where metadata are silent, its list of tensors. Errors start
  // with `file`.
  absl::StatusOr<ArchitectureSpec> (*from_gguf)(const TensorSource& source,
                                                const std::string& file);
  // The canonical config.json: from_config(to_config(s)) == s, but for add_bos.
  nlohmann::json (*to_config)(const ArchitectureSpec& spec);
  // Every tensor that a model with this spec has, in canonical order.
  std::vector<FamilyTensor> (*tensors)(const ArchitectureSpec& spec);
  // True for tensors that a source may hold and that say nothing new (stored frequencies, a tied
  // head).
  bool (*ignored)(const ArchitectureSpec& spec, const std::string& source_name);
  // Hugging Face tensors may stand without this, where only the body of the model was saved.
  std::string optional_prefix;
  // How Hugging Face tensors begin where the language model is part of a larger one: instead of the
  // first, the second.
  std::vector<std::pair<std::string, std::string>> nested;
  // How the tensors of the larger model's other parts begin: they are not read, and the log says
  // so.
  std::vector<std::string> left_out;
};

const std::vector<Family>& Families();
// UNIMPLEMENTED, listing what is supported, if there is none.
absl::StatusOr<const Family*> FamilyByHuggingFaceName(const std::string& architecture);
absl::StatusOr<const Family*> FamilyByGgufName(const std::string& architecture);
absl::StatusOr<const Family*> FamilyByName(const std::string& family);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_MODEL_FAMILIES_H_
