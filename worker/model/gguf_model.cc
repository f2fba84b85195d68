// A model in one GGUF file.
#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/model/checked_model.h"
#include "worker/model/gguf_metadata.h"
#include "worker/model/gguf_tokenizer.h"

namespace shiftadd {

absl::StatusOr<std::unique_ptr<ModelSource>> OpenGgufModel(const std::string& path) {
  ModelParts parts;
  parts.path = path;
  parts.format = SourceFormat::kGguf;
  SA_ASSIGN_OR_RETURN(parts.tensors, OpenGguf(path));
  const GgufMetadata meta(parts.tensors->metadata(), path);
  SA_ASSIGN_OR_RETURN(const std::string architecture,
                      meta.String("general.architecture", std::nullopt));
  auto family = FamilyByGgufName(architecture);
  if (!family.ok()) return Annotate(family.status(), path);
  parts.family = *family;
  SA_ASSIGN_OR_RETURN(parts.spec, parts.family->from_gguf(*parts.tensors, path));
  SA_ASSIGN_OR_RETURN(parts.tokenizer_json, TokenizerJsonFromGguf(meta, &parts.spec));
  return MakeCheckedModel(std::move(parts));
}

}  // namespace shiftadd
