// OCI manifests as bytes: canonical JSON, a function of what they describe.
#ifndef SHIFTADD_SERVICES_PACKAGING_MANIFEST_H_
#define SHIFTADD_SERVICES_PACKAGING_MANIFEST_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace shiftadd::packaging {

inline constexpr char kIndexMediaType[] = "application/vnd.oci.image.index.v1+json";
inline constexpr char kEmptyMediaType[] = "application/vnd.oci.empty.v1+json";
// The blob that an empty config descriptor names.
inline constexpr char kEmptyBlob[] = "{}";

struct Descriptor {
  std::string media_type, digest;
  uint64_t size = 0;
  std::map<std::string, std::string> annotations;
};

// Discarded if it is not JSON, or nested more deeply than anything we write: printing recurses.
nlohmann::json ParseJson(const std::string& text);

nlohmann::json ToJson(const Descriptor& descriptor);

// The OCI image manifest (v1.1) of a package. No time, no host, no name.
std::string PackageManifest(const Descriptor& config, const std::vector<Descriptor>& layers,
                            const std::string& quantizer_version);
// The manifest of one document about the manifest `subject`; its artifact type is the document's
// media type.
std::string ReferrerManifest(const Descriptor& subject, const Descriptor& document);
// A manifest about a package, and its artifact type.
struct Referrer {
  Descriptor manifest;
  std::string artifact_type;
};
// The index behind the tag sha256-HEX: every manifest about a package, in order of digest.
std::string ReferrersIndex(const std::vector<Referrer>& referrers);
// What such an index names; entries that are no descriptors are left out.
std::vector<Referrer> ReferrersIn(const std::string& index);
// The artifact type that a manifest names; "" if none.
std::string ArtifactTypeOf(const std::string& manifest_json);

struct ParsedManifest {
  Descriptor config;
  std::vector<Descriptor> layers;
  uint64_t bytes = 0;  // config and layers
};
// DATA_LOSS: not a package manifest.
absl::StatusOr<ParsedManifest> ParseManifest(const std::string& manifest_json);

// Digests that an OCI manifest or index names directly, with their media types; empty for other
// documents.
std::vector<Descriptor> DescriptorsIn(const std::string& document);

// Whether blobs of this type are manifests or indexes, which name others.
bool NamesOthers(const std::string& media_type);

}  // namespace shiftadd::packaging

#endif  // SHIFTADD_SERVICES_PACKAGING_MANIFEST_H_
