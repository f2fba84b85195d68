#include "services/coordinator/publish.h"

#include "services/base/status_macros.h"
#include "services/coordinator/package_config.h"
#include "services/packaging/package_format.h"

namespace shiftadd::coordinator {
namespace {

absl::Status AddLayer(const std::string& digest, const char* media_type, const std::string& title,
                      Publisher* publisher, v1::PublishPackageRequest* request) {
  if (digest.empty()) return absl::OkStatus();  // a document that the source does not have
  auto size = publisher->BlobSize(digest);
  if (!size.ok()) return Annotate(size.status(), title);
  v1::Descriptor* layer = request->add_layers();
  layer->set_media_type(media_type);
  layer->set_digest(digest);
  layer->set_size(*size);
  (*layer->mutable_annotations())[kTitleAnnotation] = title;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<v1::PublishPackageRequest> ComposePublish(const JobView& view,
                                                         Publisher* publisher) {
  const std::vector<v1::Variant> variants = view.Variants();
  const v1::Variant* chosen = view.Chosen(variants);
  if (chosen == nullptr) return absl::InternalError("packaging: nothing was evaluated");
  v1::PublishPackageRequest request;
  request.set_reference(view.job().spec().output());
  SA_ASSIGN_OR_RETURN(*request.mutable_config_json(),
                      ComposeConfig(view, *chosen, &view.job().quality()));
  request.set_provenance_json(ComposeProvenance(view));
  for (const v1::VariantLayer& layer : chosen->layers()) {
    SA_RETURN_IF_ERROR(
        AddLayer(layer.digest(), kWeightsMediaType, layer.layer(), publisher, &request));
  }
  const v1::Plan& plan = view.job().plan();
  const struct {
    std::string digest;
    const char* media_type;
    const char* title;
  } rest[] = {{view.Ends().head_digest(), kWeightsMediaType, "head"},
              {view.Ends().unquantized_digest(), kWeightsMediaType, "unquantized"},
              {plan.tokenizer_digest(), kDocumentMediaType, "tokenizer.json"},
              {plan.config_digest(), kDocumentMediaType, "config.json"},
              {plan.generation_config_digest(), kDocumentMediaType, "generation_config.json"}};
  for (const auto& item : rest) {
    SA_RETURN_IF_ERROR(AddLayer(item.digest, item.media_type, item.title, publisher, &request));
  }
  return request;
}

uint64_t PackageBytes(const v1::PublishPackageRequest& request) {
  uint64_t bytes = request.config_json().size();
  for (const v1::Descriptor& layer : request.layers()) bytes += layer.size();
  return bytes;
}

}  // namespace shiftadd::coordinator
