#include "services/cli/remote_package.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "services/base/digest.h"
#include "services/base/status_macros.h"
#include "services/blob/blob_store.h"
#include "services/blob/registry_client.h"
#include "services/blob/registry_store.h"
#include "services/packaging/manifest.h"

namespace shiftadd::cli {
namespace {

using nlohmann::json;

absl::StatusOr<std::string> MediaTypeOf(const std::string& manifest) {
  const json document = packaging::ParseJson(manifest);
  const json type = document.is_object() ? document.value("mediaType", json()) : json();
  if (type.is_string()) return type.get<std::string>();
  return absl::InvalidArgumentError("manifest: expected an object with a mediaType");
}

class RegistryPackage : public RemotePackage {
 public:
  RegistryPackage(const std::string& base, std::string repository, std::string tag,
                  const blob::RegistryOptions& options)
      : client_(base, options),
        repository_(std::move(repository)),
        tag_(std::move(tag)),
        name_(absl::StrCat(base, "/", repository_, ":", tag_)) {}

  absl::StatusOr<bool> Has(const std::string& digest) override {
    return client_.HasBlob(repository_, digest);
  }
  absl::StatusOr<std::string> Read(const std::string& digest) override {
    SA_RETURN_IF_ERROR(ValidateDigest(digest));
    return client_.GetBlob(repository_, digest);
  }
  absl::Status Write(const std::string& digest, const std::string& data) override {
    return client_.PutBlob(repository_, digest, data).status();
  }
  absl::StatusOr<std::string> ReadManifest(const std::string& tag) override {
    SA_ASSIGN_OR_RETURN(std::string manifest, client_.GetManifest(repository_, tag));
    if (absl::StartsWith(tag, "sha256:") && Sha256Digest(manifest) != tag) {
      return absl::DataLossError(absl::StrCat(name_, ": manifest: expected digest ", tag,
                                              ", found ", Sha256Digest(manifest)));
    }
    return manifest;
  }
  absl::Status WriteManifest(const std::string& manifest, const std::string& tag) override {
    SA_ASSIGN_OR_RETURN(const std::string type, MediaTypeOf(manifest));
    return client_.PutManifest(repository_, tag.empty() ? Sha256Digest(manifest) : tag, type,
                               manifest);
  }
  const std::string& tag() const override { return tag_; }
  const std::string& name() const override { return name_; }

 private:
  blob::RegistryClient client_;
  const std::string repository_, tag_, name_;
};

class LayoutPackage : public RemotePackage {
 public:
  LayoutPackage(std::unique_ptr<BlobStore> store, const std::string& dir, std::string name,
                std::string tag)
      : store_(std::move(store)),
        package_(std::move(name)),
        tag_(std::move(tag)),
        name_(absl::StrCat(dir, ":", package_, ":", tag_)) {}

  absl::StatusOr<bool> Has(const std::string& digest) override {
    const absl::StatusOr<uint64_t> size = store_->Stat(digest);
    if (absl::IsNotFound(size.status())) return false;
    if (!size.ok()) return size.status();
    return true;
  }
  absl::StatusOr<std::string> Read(const std::string& digest) override {
    return store_->Get(digest);
  }
  absl::Status Write(const std::string&, const std::string& data) override {
    return store_->Put(data).status();
  }
  absl::StatusOr<std::string> ReadManifest(const std::string& tag) override {
    if (absl::StartsWith(tag, "sha256:")) return store_->Get(tag);
    SA_ASSIGN_OR_RETURN(const auto tags, store_->ListTags());
    const auto found = tags.find(absl::StrCat(package_, ":", tag));
    if (found == tags.end()) return absl::NotFoundError(absl::StrCat(name_, ": no such tag"));
    return store_->Get(found->second.value("digest", ""));
  }
  absl::Status WriteManifest(const std::string& manifest, const std::string& tag) override {
    SA_ASSIGN_OR_RETURN(const std::string type, MediaTypeOf(manifest));
    SA_ASSIGN_OR_RETURN(const std::string digest, store_->Put(manifest));
    if (tag.empty()) return absl::OkStatus();
    json descriptor = {{"mediaType", type}, {"digest", digest}, {"size", manifest.size()}};
    const std::string artifact = packaging::ArtifactTypeOf(manifest);
    if (!artifact.empty()) descriptor["artifactType"] = artifact;
    return store_->PutTag(absl::StrCat(package_, ":", tag), descriptor);
  }
  const std::string& tag() const override { return tag_; }
  const std::string& name() const override { return name_; }

 private:
  const std::unique_ptr<BlobStore> store_;
  const std::string package_, tag_, name_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<RemotePackage>> RemotePackage::Open(const std::string& place,
                                                                   const std::string& reference) {
  if (absl::StrContains(reference, "@")) {
    return absl::InvalidArgumentError(
        absl::StrCat("package \"", reference, "\": expected NAME[:TAG]"));
  }
  const size_t colon = reference.rfind(':');
  const std::string name = reference.substr(0, colon), tag = reference.substr(colon + 1);
  if (!IsRegistry(place)) {
    SA_ASSIGN_OR_RETURN(std::unique_ptr<BlobStore> layout, OpenOciLayout(place));
    return std::unique_ptr<RemotePackage>(
        std::make_unique<LayoutPackage>(std::move(layout), place, name, tag));
  }
  const size_t slash = place.find('/', place.find("://") + 3);
  if (slash == std::string::npos || slash + 1 == place.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("registry \"", place, "\": expected http[s]://HOST[:PORT]/REPOSITORY[:TAG]"));
  }
  std::string repository = place.substr(slash + 1), remote_tag = tag;
  if (const size_t at = repository.find(':'); at != std::string::npos) {
    remote_tag = repository.substr(at + 1);
    repository.resize(at);
  }
  SA_ASSIGN_OR_RETURN(const blob::RegistryOptions options, RegistryOptionsFromEnvironment());
  SA_RETURN_IF_ERROR(CheckRepositoryName(repository));
  return std::unique_ptr<RemotePackage>(
      std::make_unique<RegistryPackage>(place.substr(0, slash), repository, remote_tag, options));
}

}  // namespace shiftadd::cli
