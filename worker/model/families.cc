#include "worker/model/families.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "worker/model/bloom_family.h"
#include "worker/model/gemma_family.h"
#include "worker/model/llama_family.h"
#include "worker/model/mistral_family.h"
#include "worker/model/opt_family.h"
#include "worker/model/qwen_family.h"

namespace shiftadd {
namespace {

using NamesOf = std::vector<std::string> (*)(const Family&);

absl::StatusOr<const Family*> Find(const std::string& name, NamesOf names_of) {
  std::vector<std::string> all;
  for (const Family& family : Families()) {
    const std::vector<std::string> names = names_of(family);
    if (std::find(names.begin(), names.end(), name) != names.end()) return &family;
    all.insert(all.end(), names.begin(), names.end());
  }
  return absl::UnimplementedError(absl::StrCat(
      "architecture '", name, "' is not supported, supported are: ", absl::StrJoin(all, ", ")));
}

}  // namespace

std::vector<int64_t> FamilyTensor::SourceShape() const {
  std::vector<int64_t> source = shape;
  source[0] *= fused_parts;
  return source;
}

const std::vector<Family>& Families() {
  static const std::vector<Family>* const families = new std::vector<Family>{
      LlamaFamily(),  MistralFamily(), Qwen2Family(), Qwen3Family(), GemmaFamily(),
      Gemma2Family(), Gemma3Family(),  OptFamily(),   BloomFamily()};
  return *families;
}

absl::StatusOr<const Family*> FamilyByHuggingFaceName(const std::string& architecture) {
  return Find(architecture, [](const Family& f) { return f.hugging_face; });
}

absl::StatusOr<const Family*> FamilyByGgufName(const std::string& architecture) {
  return Find(architecture, [](const Family& f) { return f.gguf; });
}

absl::StatusOr<const Family*> FamilyByName(const std::string& family) {
  return Find(family, [](const Family& f) { return std::vector<std::string>{f.name}; });
}

}  // namespace shiftadd
