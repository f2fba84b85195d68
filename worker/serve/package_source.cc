#include "worker/serve/package_source.h"

#include <algorithm>
#include <filesystem>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "nlohmann/json.hpp"
#include "services/base/digest.h"
#include "services/base/status_macros.h"
#include "services/blob/blob_store.h"
#include "services/packaging/package_client.h"
#include "services/packaging/package_format.h"
#include "services/packaging/signature.h"

namespace shiftadd {
namespace {

using nlohmann::json;

absl::StatusOr<std::shared_ptr<BlobStore>> OpenExisting(const std::string& dir) {
  if (IsRegistry(dir)) {
    SA_ASSIGN_OR_RETURN(std::unique_ptr<BlobStore> registry, OpenBlobStore(dir));
    return std::shared_ptr<BlobStore>(std::move(registry));
  }
  // Opening would make an empty layout, which a mistyped path does not deserve.
  std::error_code ignored;
  if (!std::filesystem::exists(std::filesystem::path(dir) / "index.json", ignored)) {
    return absl::NotFoundError(absl::StrCat(dir, ": no OCI image layout is there (index.json)"));
  }
  SA_ASSIGN_OR_RETURN(std::unique_ptr<BlobStore> store, OpenOciLayout(dir));
  return std::shared_ptr<BlobStore>(std::move(store));
}

absl::Status NotFound(const std::string& reference, const std::string& where,
                      const std::vector<std::string>& there) {
  return absl::NotFoundError(absl::StrCat(
      "package ", reference, " is not in ", where, "; ",
      there.empty() ? "no package is there" : "there are: " + absl::StrJoin(there, ", ")));
}

// The digest of the config blob that a manifest names.
absl::StatusOr<std::string> ConfigDigest(const std::string& manifest_text) {
  const json manifest = json::parse(manifest_text, nullptr, false);
  if (!manifest.is_object() || !manifest.contains("config") || !manifest["config"].is_object()) {
    return absl::InvalidArgumentError("manifest: config: is missing");
  }
  const json digest = manifest["config"].value("digest", json());
  if (!digest.is_string()) return absl::InvalidArgumentError("manifest: config.digest: is missing");
  SA_RETURN_IF_ERROR(
      Annotate(ValidateDigest(digest.get<std::string>()), "manifest: config.digest"));
  return digest.get<std::string>();
}

// Signed means: the key vouches for the manifest's digest, the manifest has that digest and names
// the config, and the config is the one it names. Every other blob is verified when it is read.
absl::Status CheckSigned(const std::string& signer_pem, const std::string& reference,
                         const std::string& digest, const std::string& manifest,
                         const std::string& config, const std::vector<std::string>& signatures) {
  if (signer_pem.empty()) return absl::OkStatus();
  if (Sha256Digest(manifest) != digest) {
    return absl::DataLossError(absl::StrCat("package ", reference, ": manifest: expected digest ",
                                            digest, ", found ", Sha256Digest(manifest)));
  }
  SA_ASSIGN_OR_RETURN(const std::string config_digest, ConfigDigest(manifest));
  if (Sha256Digest(config) != config_digest) {
    return absl::DataLossError(absl::StrCat("package ", reference, ": config: expected digest ",
                                            config_digest, ", found ", Sha256Digest(config)));
  }
  return Annotate(packaging::VerifySignatures(signatures, digest, signer_pem),
                  absl::StrCat("package ", reference));
}

// The signature documents behind a package's referrers' tag; none if there is no such tag.
absl::StatusOr<std::vector<std::string>> SignaturesInStore(BlobStore* store,
                                                           const std::map<std::string, json>& tags,
                                                           const std::string& reference,
                                                           const std::string& digest) {
  std::vector<std::string> signatures;
  const auto tag = tags.find(absl::StrCat(reference.substr(0, reference.find_first_of("@:")),
                                          ":sha256-", digest.substr(sizeof("sha256:") - 1)));
  if (tag == tags.end()) return signatures;
  SA_ASSIGN_OR_RETURN(const std::string text, store->Get(tag->second.value("digest", "")));
  const json index = json::parse(text, nullptr, false);
  for (const json& entry : index.is_object() ? index.value("manifests", json::array()) : json()) {
    if (!entry.is_object() || entry.value("artifactType", json()) != kSignatureArtifactType)
      continue;
    SA_ASSIGN_OR_RETURN(const std::string manifest_text, store->Get(entry.value("digest", "")));
    const json manifest = json::parse(manifest_text, nullptr, false);
    if (!manifest.is_object()) continue;
    for (const json& layer : manifest.value("layers", json::array())) {
      SA_ASSIGN_OR_RETURN(std::string document, store->Get(layer.value("digest", "")));
      signatures.push_back(std::move(document));
    }
  }
  return signatures;
}

// What a reference names in a layout, and the names that are there.
absl::StatusOr<std::string> DigestInLayout(BlobStore* store, const std::string& reference,
                                           std::vector<std::string>* names) {
  SA_ASSIGN_OR_RETURN(const auto tags, store->ListTags());
  std::string digest;
  for (const auto& [tag, descriptor] : tags) {
    // Tags of provenance manifests (sha256-…) are no packages.
    if (absl::StrContains(tag, ":sha256-") || absl::StartsWith(tag, "sha256-")) continue;
    names->push_back(tag);
    if (tag == reference) digest = descriptor.value("digest", "");
  }
  const size_t at = reference.find('@');
  if (at != std::string::npos) digest = reference.substr(at + 1);
  return digest;
}

// The bytes of all blobs that a manifest names.
int64_t ManifestBytes(const std::string& manifest_text) {
  const json manifest = json::parse(manifest_text, nullptr, false);
  int64_t bytes = 0;
  if (!manifest.is_object() || !manifest.contains("layers")) return bytes;
  for (const json& layer : manifest["layers"]) {
    const json size = layer.is_object() ? layer.value("size", json()) : json();
    if (size.is_number_integer()) bytes += std::max<int64_t>(0, size.get<int64_t>());
  }
  return bytes;
}

absl::StatusOr<ResolvedPackage> FromLayout(const std::string& reference,
                                           const PackageLocation& location) {
  const std::string& dir = location.package_dir;
  SA_ASSIGN_OR_RETURN(const std::shared_ptr<BlobStore> store, OpenExisting(dir));
  ResolvedPackage package;
  package.name = reference;
  std::vector<std::string> names;
  SA_ASSIGN_OR_RETURN(package.digest, DigestInLayout(store.get(), reference, &names));
  if (!location.digest.empty()) package.digest = location.digest;
  if (package.digest.empty()) return NotFound(reference, dir, names);
  const absl::StatusOr<std::string> manifest = store->Get(package.digest);
  if (absl::IsNotFound(manifest.status())) return NotFound(reference, dir, names);
  if (!manifest.ok()) return manifest.status();
  SA_ASSIGN_OR_RETURN(const std::string config, ConfigDigest(*manifest));
  package.bytes = ManifestBytes(*manifest);
  package.read = [store](const std::string& digest) { return store->Get(digest); };
  SA_ASSIGN_OR_RETURN(package.config_json, package.read(config));
  if (!location.signer_pem.empty()) {
    SA_ASSIGN_OR_RETURN(const auto tags, store->ListTags());
    SA_ASSIGN_OR_RETURN(const auto signatures,
                        SignaturesInStore(store.get(), tags, reference, package.digest));
    SA_RETURN_IF_ERROR(CheckSigned(location.signer_pem, reference, package.digest, *manifest,
                                   package.config_json, signatures));
  }
  return package;
}

absl::StatusOr<ResolvedPackage> FromPackager(const std::string& reference,
                                             const PackageLocation& location) {
  const std::shared_ptr<PackageClient> client = PackageClient::Connect(location.packager);
  const std::string name = reference.substr(0, reference.find_first_of(":@"));
  const absl::StatusOr<v1::Package> found =
      client->Get(location.digest.empty() ? reference : absl::StrCat(name, "@", location.digest));
  if (absl::IsNotFound(found.status())) {
    SA_ASSIGN_OR_RETURN(const std::vector<v1::Package> packages, client->List());
    std::vector<std::string> names;
    for (const v1::Package& p : packages) names.push_back(absl::StrCat(p.name(), ":", p.tag()));
    return NotFound(reference, "the packager at " + location.packager, names);
  }
  if (!found.ok()) return found.status();
  std::shared_ptr<BlobStore> local;
  if (!location.blobs.empty()) {
    SA_ASSIGN_OR_RETURN(local, OpenExisting(location.blobs));
  }
  ResolvedPackage package;
  package.name = reference;
  package.digest = found->digest();
  package.created = found->publish_time().seconds();
  package.bytes = static_cast<int64_t>(found->bytes());
  package.read = [client, local](const std::string& digest) -> absl::StatusOr<std::string> {
    if (local != nullptr) {
      absl::StatusOr<std::string> blob = local->Get(digest);
      if (blob.ok()) return blob;
    }
    return client->ReadBlob(digest);
  };
  package.config_json = found->config_json();
  if (package.config_json.empty()) {
    SA_ASSIGN_OR_RETURN(package.config_json, package.read(found->config().digest()));
  }
  SA_RETURN_IF_ERROR(CheckSigned(location.signer_pem, reference, package.digest,
                                 found->manifest_json(), package.config_json,
                                 {found->signature_json().begin(), found->signature_json().end()}));
  return package;
}

bool AllOf(absl::string_view text, absl::string_view more) {
  for (const char c : text) {
    const bool letter =
        (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
    if (!letter && !absl::StrContains(more, absl::string_view(&c, 1))) return false;
  }
  return !text.empty();
}

}  // namespace

absl::StatusOr<std::string> NormalReference(absl::string_view reference) {
  const auto malformed = [&](absl::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat("package reference \"", reference, "\": ", what,
                                                   "; expected name:tag or name@sha256:…"));
  };
  const size_t at = reference.find('@');
  const size_t colon = at == absl::string_view::npos ? reference.rfind(':') : at;
  const absl::string_view name = reference.substr(0, colon);
  if (!AllOf(name, "/")) return malformed("the name holds what is not allowed");
  if (at != absl::string_view::npos) {
    if (!ValidateDigest(reference.substr(at + 1)).ok()) return malformed("the digest is malformed");
    return std::string(reference);
  }
  if (colon == absl::string_view::npos) return absl::StrCat(name, ":latest");
  const absl::string_view tag = reference.substr(colon + 1);
  if (tag.size() > 128 || !AllOf(tag, "ABCDEFGHIJKLMNOPQRSTUVWXYZ")) {
    return malformed("the tag holds what is not allowed");
  }
  return std::string(reference);
}

absl::StatusOr<ResolvedPackage> ResolvePackage(const PackageLocation& location) {
  SA_ASSIGN_OR_RETURN(const std::string reference, NormalReference(location.reference));
  return location.package_dir.empty() ? FromPackager(reference, location)
                                      : FromLayout(reference, location);
}

absl::StatusOr<std::string> ResolveDigest(const PackageLocation& location) {
  SA_ASSIGN_OR_RETURN(const std::string reference, NormalReference(location.reference));
  if (location.package_dir.empty()) {
    return PackageClient::Connect(location.packager)->Resolve(reference);
  }
  SA_ASSIGN_OR_RETURN(const std::shared_ptr<BlobStore> store, OpenExisting(location.package_dir));
  std::vector<std::string> names;
  SA_ASSIGN_OR_RETURN(std::string digest, DigestInLayout(store.get(), reference, &names));
  if (digest.empty()) return NotFound(reference, location.package_dir, names);
  return digest;
}

}  // namespace shiftadd
