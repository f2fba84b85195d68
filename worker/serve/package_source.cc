#include "worker/serve/package_source.h"

#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "nlohmann/json.hpp"
#include "services/base/digest.h"
#include "services/base/status_macros.h"
#include "services/blob/blob_store.h"
#include "services/packaging/agreement.h"
#include "services/packaging/manifest.h"
#include "services/packaging/package_client.h"
#include "services/packaging/package_format.h"
#include "services/packaging/remote_package.h"
#include "services/packaging/signature.h"

namespace shiftadd {
namespace {

using nlohmann::json;

absl::Status NotFound(const std::string& reference, const std::string& where,
                      const std::vector<std::string>& there) {
  return absl::NotFoundError(absl::StrCat(
      "package ", reference, " is not in ", where, "; ",
      there.empty() ? "no package is there" : "there are: " + absl::StrJoin(there, ", ")));
}

// The digest of the config blob that a manifest names.
absl::StatusOr<std::string> ConfigDigest(const std::string& manifest_text) {
  const json manifest = packaging::ParseJson(manifest_text);
  if (!manifest.is_object() || !manifest.contains("config") || !manifest["config"].is_object()) {
    return absl::InvalidArgumentError("manifest: config: is missing");
  }
  const json digest = manifest["config"].value("digest", json());
  if (!digest.is_string()) return absl::InvalidArgumentError("manifest: config.digest: is missing");
  SA_RETURN_IF_ERROR(
      Annotate(ValidateDigest(digest.get<std::string>()), "manifest: config.digest"));
  return digest.get<std::string>();
}

absl::Status CheckDigest(const std::string& what, const std::string& digest,
                         const std::string& bytes) {
  const std::string found = Sha256Digest(bytes);
  if (found == digest) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(what, ": expected digest ", digest, ", found ", found));
}

// The manifest has the package's digest and names the config. Every other blob is named by the
// config and verified when it is read.
absl::Status CheckDigests(const ResolvedPackage& package, const std::string& manifest) {
  const std::string name = absl::StrCat("package ", package.name);
  SA_RETURN_IF_ERROR(CheckDigest(name + ": manifest", package.digest, manifest));
  const absl::StatusOr<std::string> config = ConfigDigest(manifest);
  if (!config.ok()) return Annotate(config.status(), name);
  return CheckDigest(name + ": config", *config, package.config_json);
}

// Signed means: the key vouches for the manifest's digest, and so for all that CheckDigests finds.
absl::Status CheckSigned(const std::string& signer_pem, const ResolvedPackage& package,
                         const std::vector<std::string>& signatures) {
  if (signer_pem.empty()) return absl::OkStatus();
  return Annotate(packaging::VerifySignatures(signatures, package.digest, signer_pem),
                  absl::StrCat("package ", package.name));
}

// Where a package may lie outside the packager. Of a registry: the repository PREFIX/NAME, as a
// packager keeps it there and as `push` names it, or the repository PREFIX itself.
absl::StatusOr<std::vector<std::string>> Places(const std::string& dir,
                                                const std::string& reference) {
  if (IsRegistry(dir)) {
    SA_RETURN_IF_ERROR(OpenBlobStore(dir).status());  // its form
    const std::string prefix(absl::StripSuffix(dir, "/"));
    return std::vector<std::string>{
        absl::StrCat(prefix, "/", reference.substr(0, reference.find_first_of("@:"))), prefix};
  }
  SA_RETURN_IF_ERROR(packaging::RemotePackage::CheckPlace(dir));
  return std::vector<std::string>{dir};
}

// What is there, for who asked for something else; as far as it can be told.
std::vector<std::string> NamesIn(const std::string& dir, const std::vector<std::string>& places,
                                 const std::string& reference) {
  std::set<std::string> names;
  const auto store = OpenBlobStore(dir, StoreUse::kRead);
  const auto kept = store.ok() ? (*store)->ListTags() : store.status();
  if (kept.ok()) {
    for (const auto& [name, descriptor] : *kept) names.insert(name);
  }
  const std::string name = reference.substr(0, reference.find_first_of("@:"));
  for (const std::string& place : places) {
    const auto remote =
        packaging::RemotePackage::Open(place, reference, packaging::RemotePackage::Use::kSource);
    const auto tags = remote.ok() ? (*remote)->ListTags() : remote.status();
    if (!tags.ok()) continue;
    for (const std::string& tag : *tags) {
      // A packager's own notes, in the repository PREFIX.
      if (absl::StartsWith(tag, "blob-") || absl::StartsWith(tag, "tag-")) continue;
      names.insert(absl::StrCat(name, ":", tag));
    }
  }
  std::vector<std::string> out;
  for (const std::string& one : names) {
    // Tags of what refers to packages (sha256-…) are no packages.
    if (!absl::StrContains(one, ":sha256-") && !absl::StartsWith(one, "sha256-"))
      out.push_back(one);
  }
  return out;
}

struct FoundPackage {
  std::shared_ptr<packaging::RemotePackage> place;
  std::string manifest, digest;
};

// The manifest that `reference`, or `digest` in its place, names in a layout or a registry.
absl::StatusOr<FoundPackage> Find(const std::string& dir, const std::string& reference,
                                  const std::string& digest) {
  SA_ASSIGN_OR_RETURN(const std::vector<std::string> places, Places(dir, reference));
  absl::Status denied, missing;
  for (const std::string& place : places) {
    SA_ASSIGN_OR_RETURN(
        std::shared_ptr<packaging::RemotePackage> remote,
        packaging::RemotePackage::Open(place, reference, packaging::RemotePackage::Use::kSource));
    const auto manifest = remote->ReadManifest(digest.empty() ? remote->tag() : digest);
    if (manifest.ok()) return FoundPackage{remote, *manifest, Sha256Digest(*manifest)};
    // Some registries deny what they do not have.
    const bool may_be_elsewhere = absl::IsNotFound(manifest.status()) ||
                                  absl::IsPermissionDenied(manifest.status()) ||
                                  absl::IsUnauthenticated(manifest.status());
    if (!may_be_elsewhere) return manifest.status();
    if (!absl::IsNotFound(manifest.status())) denied.Update(manifest.status());
    missing.Update(manifest.status());
  }
  if (!denied.ok()) return denied;
  const std::vector<std::string> names = NamesIn(dir, places, reference);
  // A name whose manifest is lost.
  if (std::count(names.begin(), names.end(), reference) > 0) return Annotate(missing, dir);
  return NotFound(reference, dir, names);
}

// Reads blobs, and compares their sizes with what the manifest says.
BlobReader SizedReader(std::shared_ptr<packaging::RemotePackage> place,
                       const packaging::ParsedManifest& manifest) {
  std::map<std::string, uint64_t> sizes = {{manifest.config.digest, manifest.config.size}};
  for (const packaging::Descriptor& layer : manifest.layers) sizes[layer.digest] = layer.size;
  return [place = std::move(place),
          sizes = std::move(sizes)](const std::string& digest) -> absl::StatusOr<std::string> {
    absl::StatusOr<std::string> blob = place->Read(digest);
    const auto expected = sizes.find(digest);
    if (!blob.ok() || expected == sizes.end() || blob->size() == expected->second) return blob;
    return absl::DataLossError(absl::StrCat(place->name(), ": blob ", digest, ": size: expected ",
                                            expected->second, " (in the manifest), found ",
                                            blob->size()));
  };
}

// The packager checks the same before it publishes.
absl::Status CheckAgrees(const std::string& config_json,
                         const std::vector<packaging::Descriptor>& layers) {
  const json config = packaging::ParseJson(config_json);
  if (!config.is_object()) return absl::InvalidArgumentError("config: expected a JSON object");
  std::vector<packaging::Fault> faults = packaging::CheckAgreement(config, layers);
  if (faults.empty()) return absl::OkStatus();
  packaging::KeepFirst(&faults);
  return absl::InvalidArgumentError(packaging::Joined(faults));
}

absl::StatusOr<ResolvedPackage> FromPlace(const std::string& reference,
                                          const PackageLocation& location) {
  SA_ASSIGN_OR_RETURN(const FoundPackage found,
                      Find(location.package_dir, reference, location.digest));
  const std::string type = packaging::ArtifactTypeOf(found.manifest);
  if (type != kPackageArtifactType) {
    return absl::InvalidArgumentError(absl::StrCat(found.place->name(), ": expected artifactType ",
                                                   kPackageArtifactType, ", found \"", type, "\""));
  }
  ResolvedPackage package;
  package.name = reference;
  package.digest = found.digest;
  const auto manifest = packaging::ParseManifest(found.manifest);
  if (!manifest.ok()) return Annotate(manifest.status(), found.place->name() + ": manifest");
  package.bytes = static_cast<int64_t>(manifest->bytes - manifest->config.size);
  package.read = SizedReader(found.place, *manifest);
  SA_ASSIGN_OR_RETURN(package.config_json, package.read(manifest->config.digest));
  SA_RETURN_IF_ERROR(
      Annotate(CheckAgrees(package.config_json, manifest->layers), found.place->name()));
  SA_RETURN_IF_ERROR(CheckDigests(package, found.manifest));
  if (!location.signer_pem.empty()) {
    SA_ASSIGN_OR_RETURN(
        packaging::Referring documents,
        packaging::ReadReferring(found.place.get(), package.digest, {kSignatureArtifactType}));
    SA_RETURN_IF_ERROR(
        CheckSigned(location.signer_pem, package, documents[kSignatureArtifactType]));
  }
  return package;
}

absl::StatusOr<ResolvedPackage> FromPackager(const std::string& reference,
                                             const PackageLocation& location) {
  const std::shared_ptr<PackageClient> client = PackageClient::Connect(location.packager);
  const std::string name = reference.substr(0, reference.find_first_of(":@"));
  const std::string asked =
      location.digest.empty() ? reference : absl::StrCat(name, "@", location.digest);
  const absl::StatusOr<v1::Package> found = client->Get(asked);
  if (absl::IsNotFound(found.status())) {
    SA_ASSIGN_OR_RETURN(const std::vector<v1::Package> packages, client->List());
    std::vector<std::string> names;
    for (const v1::Package& p : packages) names.push_back(absl::StrCat(p.name(), ":", p.tag()));
    return NotFound(reference, "the packager at " + location.packager, names);
  }
  if (!found.ok()) return found.status();
  std::shared_ptr<BlobStore> local;
  if (!location.blobs.empty()) {
    SA_ASSIGN_OR_RETURN(local, OpenBlobStore(location.blobs, StoreUse::kRead));
  }
  ResolvedPackage package;
  package.name = reference;
  package.digest = found->digest();
  const size_t at = asked.find('@');
  if (at != std::string::npos && asked.substr(at + 1) != package.digest) {
    return absl::DataLossError(
        absl::StrCat("package ", asked, ": the packager answers with ", package.digest));
  }
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
  SA_RETURN_IF_ERROR(CheckDigests(package, found->manifest_json()));
  SA_RETURN_IF_ERROR(CheckSigned(location.signer_pem, package,
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
                                      : FromPlace(reference, location);
}

absl::StatusOr<std::string> ResolveDigest(const PackageLocation& location) {
  SA_ASSIGN_OR_RETURN(const std::string reference, NormalReference(location.reference));
  if (location.package_dir.empty()) {
    return PackageClient::Connect(location.packager)->Resolve(reference);
  }
  SA_ASSIGN_OR_RETURN(const FoundPackage found, Find(location.package_dir, reference, ""));
  return found.digest;
}

}  // namespace shiftadd
