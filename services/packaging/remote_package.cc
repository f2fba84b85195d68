#include "services/packaging/remote_package.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "nlohmann/json.hpp"
#include "services/base/digest.h"
#include "services/base/status_macros.h"
#include "services/blob/blob_store.h"
#include "services/blob/registry_client.h"
#include "services/blob/registry_store.h"
#include "services/packaging/manifest.h"
#include "services/packaging/reference.h"

namespace shiftadd::packaging {
namespace {

using nlohmann::json;

absl::StatusOr<std::string> MediaTypeOf(const std::string& manifest) {
  const json document = ParseJson(manifest);
  const json type = document.is_object() ? document.value("mediaType", json()) : json();
  if (type.is_string()) return type.get<std::string>();
  return absl::InvalidArgumentError("manifest: expected an object with a mediaType");
}

bool IsDigest(const std::string& tag) { return absl::StartsWith(tag, "sha256:"); }

const char* Separator(const std::string& tag) { return IsDigest(tag) ? "@" : ":"; }

class RegistryPackage : public RemotePackage {
 public:
  RegistryPackage(const std::string& base, std::string repository, std::string tag,
                  const blob::RegistryOptions& options)
      : client_(base, options),
        repository_(std::move(repository)),
        tag_(std::move(tag)),
        name_(absl::StrCat(base, "/", repository_, Separator(tag_), tag_)) {}

  absl::StatusOr<bool> Has(const std::string& digest, uint64_t, bool verify) override {
    SA_ASSIGN_OR_RETURN(const bool there, client_.HasBlob(repository_, digest));
    if (there && verify) SA_RETURN_IF_ERROR(Read(digest).status());
    return there;
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
    if (IsDigest(tag) && Sha256Digest(manifest) != tag) {
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
  absl::StatusOr<std::vector<std::string>> ListTags() override {
    return client_.ListTags(repository_);
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
        name_(absl::StrCat(dir, ":", package_, Separator(tag_), tag_)) {}

  absl::StatusOr<bool> Has(const std::string& digest, uint64_t size, bool verify) override {
    const absl::StatusOr<uint64_t> found = store_->Stat(digest);
    if (absl::IsNotFound(found.status())) return false;
    if (!found.ok()) return found.status();
    if (*found != size || !verify) return *found == size;
    const absl::Status sound = store_->Get(digest).status();
    if (absl::IsDataLoss(sound)) return false;
    SA_RETURN_IF_ERROR(sound);
    return true;
  }
  absl::StatusOr<std::string> Read(const std::string& digest) override {
    return store_->Get(digest);
  }
  absl::Status Write(const std::string&, const std::string& data) override {
    return store_->Put(data).status();
  }
  absl::StatusOr<std::string> ReadManifest(const std::string& tag) override {
    if (IsDigest(tag)) return store_->Get(tag);
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
    const std::string artifact = ArtifactTypeOf(manifest);
    if (!artifact.empty()) descriptor["artifactType"] = artifact;
    return store_->PutTag(absl::StrCat(package_, ":", tag), descriptor);
  }
  absl::StatusOr<std::vector<std::string>> ListTags() override {
    SA_ASSIGN_OR_RETURN(const auto all, store_->ListTags());
    std::vector<std::string> tags;
    for (const auto& [reference, descriptor] : all) {
      absl::string_view tag = reference;
      if (absl::ConsumePrefix(&tag, absl::StrCat(package_, ":"))) tags.emplace_back(tag);
    }
    return tags;
  }
  const std::string& tag() const override { return tag_; }
  const std::string& name() const override { return name_; }

 private:
  const std::unique_ptr<BlobStore> store_;
  const std::string package_, tag_, name_;
};

// Of a registry: http[s]://HOST[:PORT], REPOSITORY, TAG. The last two may be empty.
struct SplitPlace {
  std::string base, repository, tag;
};

SplitPlace Split(const std::string& place) {
  const size_t slash = std::min(place.find('/', place.find("://") + 3), place.size());
  SplitPlace split{place.substr(0, slash), "", ""};
  if (slash < place.size()) split.repository = place.substr(slash + 1);
  if (const size_t at = split.repository.find(':'); at != std::string::npos) {
    split.tag = split.repository.substr(at + 1);
    split.repository.resize(at);
  }
  return split;
}

}  // namespace

absl::Status RemotePackage::CheckPlace(const std::string& place) {
  SA_RETURN_IF_ERROR(CheckLocation(place));
  if (!IsRegistry(place)) return absl::OkStatus();
  const std::string repository = Split(place).repository;
  if (repository.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("registry \"", place, "\": expected http[s]://HOST[:PORT]/REPOSITORY[:TAG]"));
  }
  return CheckRepositoryName(repository);
}

absl::StatusOr<std::unique_ptr<RemotePackage>> RemotePackage::Open(const std::string& place,
                                                                   const std::string& reference,
                                                                   Use use) {
  SA_ASSIGN_OR_RETURN(const Reference parsed, ParseReference(reference));
  const std::string& tag = parsed.digest.empty() ? parsed.tag : parsed.digest;
  SA_RETURN_IF_ERROR(CheckPlace(place));
  if (!IsRegistry(place)) {
    SA_ASSIGN_OR_RETURN(
        std::unique_ptr<BlobStore> layout,
        OpenOciLayout(place, use == Use::kSource ? StoreUse::kRead : StoreUse::kReadAndWrite));
    return std::unique_ptr<RemotePackage>(
        std::make_unique<LayoutPackage>(std::move(layout), place, parsed.name, tag));
  }
  SplitPlace split = Split(place);
  const std::string remote_tag = split.tag.empty() ? tag : split.tag;
  SA_ASSIGN_OR_RETURN(const blob::RegistryOptions options, RegistryOptionsFromEnvironment());
  return std::unique_ptr<RemotePackage>(
      std::make_unique<RegistryPackage>(split.base, split.repository, remote_tag, options));
}

absl::StatusOr<Referring> ReadReferring(RemotePackage* remote, const std::string& digest,
                                        const std::vector<std::string>& types) {
  Referring documents;
  const absl::StatusOr<std::string> index = remote->ReadManifest(ReferrersTag(digest));
  if (absl::IsNotFound(index.status())) return documents;
  if (!index.ok()) return index.status();
  for (const Descriptor& entry : DescriptorsIn(*index)) {
    SA_ASSIGN_OR_RETURN(const std::string text, remote->ReadManifest(entry.digest));
    const std::string type = ArtifactTypeOf(text);
    if (std::find(types.begin(), types.end(), type) == types.end()) continue;
    SA_ASSIGN_OR_RETURN(const ParsedManifest manifest, ParseManifest(text));
    for (const Descriptor& layer : manifest.layers) {
      SA_ASSIGN_OR_RETURN(std::string document, remote->Read(layer.digest));
      documents[type].push_back(std::move(document));
    }
  }
  return documents;
}

}  // namespace shiftadd::packaging
