#include "services/packaging/manifest.h"

#include <algorithm>

#include "services/base/digest.h"
#include "services/base/json_depth.h"
#include "services/base/status_macros.h"
#include "services/packaging/package_format.h"

namespace shiftadd::packaging {
namespace {

using nlohmann::json;

constexpr int kMaxDepth = 64;

bool IsString(const json& object, const char* key) {
  return object.contains(key) && object[key].is_string();
}

absl::StatusOr<Descriptor> FromJson(const json& object) {
  if (!object.is_object() || !IsString(object, "mediaType") || !IsString(object, "digest") ||
      !object.contains("size") || !object["size"].is_number_integer() || object["size"] < 0) {
    return absl::DataLossError("not an OCI descriptor: expected mediaType, digest and size");
  }
  Descriptor descriptor{object["mediaType"], object["digest"], object["size"], {}};
  SA_RETURN_IF_ERROR(ValidateDigest(descriptor.digest));
  if (object.contains("annotations") && object["annotations"].is_object()) {
    for (const auto& [key, value] : object["annotations"].items()) {
      if (value.is_string()) descriptor.annotations[key] = value;
    }
  }
  return descriptor;
}

}  // namespace

json ParseJson(const std::string& text) {
  if (JsonDepth(text) > kMaxDepth) return json(json::value_t::discarded);
  return json::parse(text, nullptr, false);
}

json ToJson(const Descriptor& descriptor) {
  json object = {{"mediaType", descriptor.media_type},
                 {"digest", descriptor.digest},
                 {"size", descriptor.size}};
  if (!descriptor.annotations.empty()) object["annotations"] = descriptor.annotations;
  return object;
}

std::string PackageManifest(const Descriptor& config, const std::vector<Descriptor>& layers,
                            const std::string& quantizer_version) {
  json manifest = {
      {"schemaVersion", 2},
      {"mediaType", kManifestMediaType},
      {"artifactType", kPackageArtifactType},
      {"config", ToJson(config)},
      {"layers", json::array()},
      {"annotations",
       {{"org.opencontainers.image.description", "A language model packed by shiftadd"},
        {"vnd.shiftadd.quantizer-version", quantizer_version}}}};
  for (const Descriptor& layer : layers) manifest["layers"].push_back(ToJson(layer));
  return manifest.dump();
}

std::string ReferrerManifest(const Descriptor& subject, const Descriptor& document) {
  const std::string empty = kEmptyBlob;
  return json{{"schemaVersion", 2},
              {"mediaType", kManifestMediaType},
              {"artifactType", document.media_type},
              {"config", ToJson({kEmptyMediaType, Sha256Digest(empty), empty.size(), {}})},
              {"layers", {ToJson(document)}},
              {"subject", ToJson(subject)}}
      .dump();
}

std::string ReferrersIndex(const std::vector<Referrer>& referrers) {
  std::vector<Referrer> sorted = referrers;
  std::sort(sorted.begin(), sorted.end(), [](const Referrer& a, const Referrer& b) {
    return a.manifest.digest < b.manifest.digest;
  });
  json manifests = json::array();
  for (const Referrer& r : sorted) {
    json entry = ToJson(r.manifest);
    if (!r.artifact_type.empty()) entry["artifactType"] = r.artifact_type;
    manifests.push_back(std::move(entry));
  }
  return json{{"schemaVersion", 2}, {"mediaType", kIndexMediaType}, {"manifests", manifests}}
      .dump();
}

std::vector<Referrer> ReferrersIn(const std::string& index) {
  std::vector<Referrer> referrers;
  const json parsed = ParseJson(index);
  if (!parsed.is_object() || !parsed.contains("manifests") || !parsed["manifests"].is_array()) {
    return referrers;
  }
  for (const json& entry : parsed["manifests"]) {
    absl::StatusOr<Descriptor> manifest = FromJson(entry);
    if (!manifest.ok()) continue;
    referrers.push_back(
        {*std::move(manifest), IsString(entry, "artifactType") ? entry["artifactType"] : json("")});
  }
  return referrers;
}

std::string ArtifactTypeOf(const std::string& manifest_json) {
  const json manifest = ParseJson(manifest_json);
  return manifest.is_object() && IsString(manifest, "artifactType")
             ? manifest["artifactType"].get<std::string>()
             : "";
}

absl::StatusOr<ParsedManifest> ParseManifest(const std::string& manifest_json) {
  const json manifest = ParseJson(manifest_json);
  if (!manifest.is_object() || !manifest.contains("config") || !manifest.contains("layers") ||
      !manifest["layers"].is_array()) {
    return absl::DataLossError("not an OCI image manifest: expected config and layers");
  }
  ParsedManifest parsed;
  SA_ASSIGN_OR_RETURN(parsed.config, FromJson(manifest["config"]));
  parsed.bytes = parsed.config.size;
  for (const json& entry : manifest["layers"]) {
    SA_ASSIGN_OR_RETURN(Descriptor layer, FromJson(entry));
    parsed.bytes += layer.size;
    parsed.layers.push_back(std::move(layer));
  }
  return parsed;
}

std::vector<Descriptor> DescriptorsIn(const std::string& document) {
  std::vector<Descriptor> found;
  const json parsed = ParseJson(document);
  if (!parsed.is_object()) return found;
  const auto add = [&found](const json& entry) {
    if (auto descriptor = FromJson(entry); descriptor.ok()) found.push_back(*std::move(descriptor));
  };
  if (parsed.contains("config")) add(parsed["config"]);
  for (const char* list : {"layers", "manifests"}) {
    if (!parsed.contains(list) || !parsed[list].is_array()) continue;
    for (const json& entry : parsed[list]) add(entry);
  }
  return found;
}

bool NamesOthers(const std::string& media_type) {
  return media_type == kManifestMediaType || media_type == kIndexMediaType ||
         media_type == "application/vnd.docker.distribution.manifest.v2+json" ||
         media_type == "application/vnd.docker.distribution.manifest.list.v2+json";
}

}  // namespace shiftadd::packaging
