#include "services/coordinator/evaluated_package.h"

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "services/base/digest.h"
#include "services/base/status_macros.h"

namespace shiftadd::coordinator {
namespace {

using nlohmann::json;

absl::Status Fault(absl::string_view field, absl::string_view expected) {
  return absl::DataLossError(
      absl::StrCat("the package's config: ", field, ": expected ", expected));
}

absl::StatusOr<std::string> DigestField(const json& object, const char* key,
                                        absl::string_view where) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_string() ||
      !ValidateDigest(found->get<std::string>()).ok()) {
    return Fault(absl::StrCat(where, key), "a digest");
  }
  return found->get<std::string>();
}

absl::Status ReadLayers(const json& layers, v1::Variant* variant) {
  variant->set_name("package");
  for (size_t i = 0; i < layers.size(); ++i) {
    const json& layer = layers[i];
    const std::string where = absl::StrCat("layers[", i, "].");
    if (!layer.is_object() || !layer.contains("name") || !layer["name"].is_string()) {
      return Fault(where + "name", "a string");
    }
    if (!layer.contains("bits") || !layer["bits"].is_number_unsigned()) {
      return Fault(where + "bits", "a whole number");
    }
    v1::VariantLayer* out = variant->add_layers();
    out->set_layer(layer["name"].get<std::string>());
    out->set_bits(layer["bits"].get<uint32_t>());
    SA_ASSIGN_OR_RETURN(*out->mutable_digest(), DigestField(layer, "digest", where));
  }
  return absl::OkStatus();
}

absl::Status ReadSource(const json& config, v1::Plan* plan) {
  const json none = json::object();
  const json& inputs = config.contains("inputs") ? config["inputs"] : none;
  if (!inputs.is_object() || !inputs.contains("source") || !inputs["source"].is_array() ||
      inputs["source"].empty()) {
    return Fault("inputs.source", "the files that it was made from");
  }
  for (const json& file : inputs["source"]) {
    if (!file.is_object() || !file.contains("path") || !file["path"].is_string() ||
        !file.contains("bytes") || !file["bytes"].is_number_unsigned()) {
      return Fault("inputs.source", "files with path, bytes and digest");
    }
    v1::SourceFile* out = plan->add_source_files();
    out->set_path(file["path"].get<std::string>());
    out->set_bytes(file["bytes"].get<uint64_t>());
    SA_ASSIGN_OR_RETURN(*out->mutable_digest(), DigestField(file, "digest", "inputs.source."));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<EvaluatedPackage> ReadEvaluatedPackage(const v1::Package& package) {
  const json config = json::parse(package.config_json(), nullptr, false);
  if (!config.is_object()) return Fault("all of it", "a JSON object");
  EvaluatedPackage out;
  if (!config.contains("architecture") || !config["architecture"].is_object()) {
    return Fault("architecture", "an object");
  }
  const json& architecture = config["architecture"];
  out.plan.set_architecture_spec_json(
      architecture.dump(-1, ' ', false, json::error_handler_t::replace));
  const auto family = architecture.find("family");
  if (family != architecture.end() && family->is_string()) {
    out.plan.set_architecture(family->get<std::string>());
  }
  const auto blocks = architecture.find("blocks");
  if (blocks != architecture.end() && blocks->is_number_unsigned()) {
    out.plan.set_blocks(blocks->get<uint32_t>());
  }
  const auto context = architecture.find("context");
  if (context != architecture.end() && context->is_number_unsigned()) {
    out.context = context->get<uint64_t>();
  }
  if (!config.contains("layers") || !config["layers"].is_array() || config["layers"].empty()) {
    return Fault("layers", "a list with a layer at least");
  }
  SA_RETURN_IF_ERROR(ReadLayers(config["layers"], &out.variant));
  SA_ASSIGN_OR_RETURN(out.head_digest, DigestField(config, "head", ""));
  SA_ASSIGN_OR_RETURN(out.unquantized_digest, DigestField(config, "unquantized", ""));
  SA_ASSIGN_OR_RETURN(*out.plan.mutable_tokenizer_digest(), DigestField(config, "tokenizer", ""));
  SA_RETURN_IF_ERROR(ReadSource(config, &out.plan));
  const json provenance = json::parse(package.provenance_json(), nullptr, false);
  if (provenance.is_object() && provenance.contains("source") && provenance["source"].is_string()) {
    out.source = provenance["source"].get<std::string>();
  }
  return out;
}

std::vector<std::string> PackageBlobs(const v1::Package& package) {
  std::vector<std::string> digests = {package.config().digest()};
  for (const v1::Descriptor& layer : package.layers()) digests.push_back(layer.digest());
  return digests;
}

}  // namespace shiftadd::coordinator
