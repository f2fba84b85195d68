#include "services/blob/registry_store.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "services/base/digest.h"
#include "services/base/logging.h"
#include "services/base/status_macros.h"
#include "services/blob/checks.h"
#include "services/blob/held_repository.h"

namespace shiftadd {
namespace {

using blob::HeldRepository;
using nlohmann::json;

constexpr char kTagTag[] = "tag-";
constexpr char kReference[] = "org.opencontainers.image.ref.name";
constexpr char kDescriptor[] = "vnd.shiftadd.descriptor";

std::string HashOf(const std::string& text, size_t digits) {
  return Sha256Digest(text).substr(sizeof("sha256:") - 1, digits);
}

bool IsPlain(char c) {
  return absl::ascii_islower(static_cast<unsigned char>(c)) ||
         absl::ascii_isdigit(static_cast<unsigned char>(c));
}

// Lower-case letters and digits with separators between them, as registries want.
bool IsRepositoryName(absl::string_view name) {
  for (const absl::string_view part : absl::StrSplit(name, '/')) {
    if (part.empty() || !IsPlain(part.front()) || !IsPlain(part.back())) return false;
    for (size_t i = 0; i < part.size(); ++i) {
      const size_t begin = i;
      while (!IsPlain(part[i])) ++i;  // the last is plain
      const absl::string_view separator = part.substr(begin, i - begin);
      const bool dashes = separator.find_first_not_of('-') == absl::string_view::npos;
      if (!dashes && separator != "." && separator != "_" && separator != "__") return false;
    }
  }
  return true;
}

class RegistryStore : public BlobStore {
 public:
  RegistryStore(const std::string& base, std::string prefix, const blob::RegistryOptions& options)
      : client_(base, options),
        chunk_bytes_(options.chunk_bytes),
        prefix_(std::move(prefix)),
        blobs_(&client_, prefix_) {}

  absl::StatusOr<std::string> Put(absl::string_view data) override {
    std::string digest = Sha256Digest(data);
    SA_RETURN_IF_ERROR(blobs_.Put(digest, data));
    return digest;
  }

  absl::StatusOr<std::unique_ptr<BlobWriter>> NewWriter() override;

  absl::StatusOr<std::string> Get(const std::string& digest) override {
    SA_RETURN_IF_ERROR(ValidateDigest(digest));
    return blobs_.Get(digest);
  }

  absl::StatusOr<uint64_t> Stat(const std::string& digest) override {
    SA_RETURN_IF_ERROR(ValidateDigest(digest));
    SA_ASSIGN_OR_RETURN(const BlobInfo info, blobs_.Info(digest));
    return info.bytes;
  }

  absl::StatusOr<uint64_t> Renew(const std::string& digest) override {
    SA_ASSIGN_OR_RETURN(const uint64_t bytes, Stat(digest));
    SA_RETURN_IF_ERROR(blobs_.Hold(digest, bytes, /*again=*/true));
    return bytes;
  }

  absl::StatusOr<std::string> ReadRange(const std::string& digest, uint64_t offset,
                                        uint64_t length) override {
    SA_ASSIGN_OR_RETURN(const uint64_t size, Stat(digest));
    if (offset > size) {
      return absl::OutOfRangeError(absl::StrCat("blob ", digest, ": offset: expected at most ",
                                                size, " (its size), found ", offset));
    }
    length = std::min(length, size - offset);
    if (length == 0) return std::string();
    return client_.GetBlobRange(prefix_, digest, offset, length);
  }

  absl::Status Delete(const std::string& digest) override {
    return DeleteIfOlder(digest, absl::InfiniteFuture()).status();
  }

  absl::StatusOr<bool> DeleteIfOlder(const std::string& digest, absl::Time cutoff) override {
    SA_RETURN_IF_ERROR(ValidateDigest(digest));
    return blobs_.Release(digest, cutoff);
  }

  absl::StatusOr<std::vector<std::string>> List() override { return blobs_.List(); }

  absl::StatusOr<std::vector<BlobInfo>> ListInfo() override {
    SA_ASSIGN_OR_RETURN(const std::vector<std::string> digests, List());
    std::vector<BlobInfo> infos;
    for (const std::string& digest : digests) {
      absl::StatusOr<BlobInfo> info = blobs_.Info(digest);
      if (absl::IsNotFound(info.status())) continue;  // it went while we listed
      if (!info.ok()) return info.status();
      infos.push_back(*std::move(info));
    }
    return infos;
  }

  absl::StatusOr<std::string> PutScratch(const std::string& job, absl::string_view data) override {
    SA_ASSIGN_OR_RETURN(HeldRepository * repository, Scratch(job));
    std::string digest = Sha256Digest(data);
    SA_RETURN_IF_ERROR(repository->Put(digest, data));
    return digest;
  }

  absl::StatusOr<std::string> GetScratch(const std::string& job,
                                         const std::string& digest) override {
    SA_ASSIGN_OR_RETURN(HeldRepository * repository, Scratch(job));
    SA_RETURN_IF_ERROR(ValidateDigest(digest));
    return repository->Get(digest);
  }

  absl::Status DeleteScratchBlob(const std::string& job, const std::string& digest) override {
    SA_ASSIGN_OR_RETURN(HeldRepository * repository, Scratch(job));
    SA_RETURN_IF_ERROR(ValidateDigest(digest));
    return repository->Release(digest, absl::InfiniteFuture()).status();
  }

  absl::Status DeleteScratch(const std::string& job) override {
    SA_ASSIGN_OR_RETURN(HeldRepository * repository, Scratch(job));
    return repository->ReleaseAll();
  }

  absl::Status PutTag(const std::string& reference, const json& descriptor) override {
    if (reference.empty()) {
      return absl::InvalidArgumentError("reference: expected name:tag, found \"\"");
    }
    SA_RETURN_IF_ERROR(blob::CheckDescriptor(descriptor));
    SA_RETURN_IF_ERROR(Mirror(reference, descriptor));
    return blobs_.PutNote(TagOf(reference),
                          {{kReference, reference}, {kDescriptor, descriptor.dump()}});
  }

  absl::Status DeleteTag(const std::string& reference) override {
    if (reference.empty()) {
      return absl::InvalidArgumentError("reference: expected name:tag, found \"\"");
    }
    SA_RETURN_IF_ERROR(blobs_.RemoveTag(TagOf(reference), /*and_manifest=*/false));
    const auto [name, tag] = SplitReference(reference);
    if (!IsRepositoryName(name) || tag.empty()) return absl::OkStatus();
    HeldRepository package(&client_, absl::StrCat(prefix_, "/", name));
    return package.RemoveTag(tag, /*and_manifest=*/true);
  }

  absl::StatusOr<std::map<std::string, json>> ListTags() override {
    SA_ASSIGN_OR_RETURN(const std::vector<std::string> tags, client_.ListTags(prefix_));
    std::map<std::string, json> out;
    for (const std::string& tag : tags) {
      if (!absl::StartsWith(tag, kTagTag)) continue;
      const absl::StatusOr<json> notes = blobs_.GetNote(tag);
      if (absl::IsNotFound(notes.status())) continue;  // it went while we listed
      if (!notes.ok()) return notes.status();
      const json reference = notes->value(kReference, json());
      if (!reference.is_string()) continue;  // one that is being removed
      const json noted = notes->value(kDescriptor, json());
      const json descriptor =
          noted.is_string() ? blob::ParseJson(noted.get<std::string>()) : json();
      SA_RETURN_IF_ERROR(Annotate(blob::CheckDescriptor(descriptor), tag));
      out[reference.get<std::string>()] = descriptor;
    }
    return out;
  }

  blob::RegistryClient& client() { return client_; }
  HeldRepository& blobs() { return blobs_; }
  size_t chunk_bytes() const { return chunk_bytes_; }

 private:
  static std::string TagOf(const std::string& reference) { return kTagTag + HashOf(reference, 64); }

  static std::pair<std::string, std::string> SplitReference(const std::string& reference) {
    const size_t colon = reference.rfind(':');
    if (colon == std::string::npos) return {reference, ""};
    return {reference.substr(0, colon), reference.substr(colon + 1)};
  }

  absl::StatusOr<HeldRepository*> Scratch(const std::string& job) {
    SA_RETURN_IF_ERROR(blob::ValidateJob(job));
    const std::lock_guard<std::mutex> lock(mutex_);
    std::unique_ptr<HeldRepository>& repository = scratch_[job];
    if (repository == nullptr) {
      repository = std::make_unique<HeldRepository>(
          &client_, absl::StrCat(prefix_, "/scratch/", HashOf(job, 32)));
    }
    return repository.get();
  }

  // Makes `digest` one of the blobs of `repository`.
  absl::Status Bring(const std::string& repository, const std::string& digest) {
    SA_ASSIGN_OR_RETURN(const bool there, client_.HasBlob(repository, digest));
    if (there) return absl::OkStatus();
    SA_ASSIGN_OR_RETURN(const bool mounted, client_.MountBlob(repository, prefix_, digest));
    if (mounted) return absl::OkStatus();
    SA_ASSIGN_OR_RETURN(const std::string data, client_.GetBlob(prefix_, digest));
    return client_.PutBlob(repository, digest, data).status();
  }

  // Pushes the manifest that `descriptor` names, and before it what it names itself, to
  // PREFIX/NAME. What is not in the store, or is no manifest, is left alone: a mirror owes other
  // tools no more.
  absl::Status Mirror(const std::string& reference, const json& descriptor) {
    const auto [name, tag] = SplitReference(reference);
    if (!IsRepositoryName(name) || tag.empty()) return absl::OkStatus();
    const absl::Status pushed =
        Push(absl::StrCat(prefix_, "/", name), tag, descriptor["digest"].get<std::string>(),
             descriptor["mediaType"].get<std::string>());
    return absl::IsNotFound(pushed) ? absl::OkStatus() : pushed;
  }

  absl::Status Push(const std::string& repository, const std::string& reference,
                    const std::string& digest, const std::string& media_type) {
    SA_ASSIGN_OR_RETURN(const std::string manifest, blobs_.Get(digest));
    const json document = blob::ParseJson(manifest);
    if (!document.is_object() || document.value("schemaVersion", json()) != 2) {
      return absl::NotFoundError(absl::StrCat("blob ", digest, " is no manifest"));
    }
    json named = document.value("layers", json::array());
    const json manifests = document.value("manifests", json::array());
    if (!named.is_array() || !manifests.is_array()) {
      return absl::InvalidArgumentError(
          absl::StrCat(digest, ": expected lists in \"layers\" and \"manifests\""));
    }
    for (const json& inner : manifests) {
      SA_RETURN_IF_ERROR(Annotate(blob::CheckDescriptor(inner), digest));
      SA_RETURN_IF_ERROR(Push(repository, inner["digest"], inner["digest"], inner["mediaType"]));
    }
    if (document.contains("config")) named.push_back(document["config"]);
    for (const json& blob : named) {
      SA_RETURN_IF_ERROR(Annotate(blob::CheckDescriptor(blob), digest));
      SA_RETURN_IF_ERROR(Bring(repository, blob["digest"]));
    }
    return client_.PutManifest(repository, reference, media_type, manifest);
  }

  blob::RegistryClient client_;
  const size_t chunk_bytes_;
  const std::string prefix_;
  HeldRepository blobs_;
  std::mutex mutex_;
  std::map<std::string, std::unique_ptr<HeldRepository>> scratch_;
};

// Small blobs go at once, larger ones in chunks as they come.
class RegistryWriter : public BlobWriter {
 public:
  explicit RegistryWriter(RegistryStore* store) : store_(store) {}
  ~RegistryWriter() override {
    if (!session_.url.empty()) store_->client().DropUpload(session_);
  }

  absl::Status Append(absl::string_view data) override {
    hash_.Update(data.data(), data.size());
    bytes_ += data.size();
    buffer_.append(data.data(), data.size());
    while (buffer_.size() > store_->chunk_bytes()) {
      if (session_.url.empty()) {
        SA_ASSIGN_OR_RETURN(session_, store_->client().BeginUpload(store_->blobs().name()));
      }
      SA_RETURN_IF_ERROR(store_->client().SendChunk(
          absl::string_view(buffer_).substr(0, store_->chunk_bytes()), &session_));
      buffer_.erase(0, store_->chunk_bytes());
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::string> Commit(const std::string& expected_digest) override {
    std::string digest = hash_.Finish();
    if (!expected_digest.empty() && expected_digest != digest) {
      return absl::DataLossError(
          absl::StrCat("blob: expected digest ", expected_digest, ", found ", digest));
    }
    if (session_.url.empty()) {
      SA_RETURN_IF_ERROR(store_->blobs().Put(digest, buffer_));
      return digest;
    }
    SA_RETURN_IF_ERROR(store_->client().EndUpload(buffer_, digest, &session_));
    session_.url.clear();
    SA_RETURN_IF_ERROR(store_->blobs().Hold(digest, bytes_, /*again=*/true));
    return digest;
  }

 private:
  RegistryStore* const store_;
  Sha256 hash_;
  std::string buffer_;
  uint64_t bytes_ = 0;
  blob::UploadSession session_;
};

absl::StatusOr<std::unique_ptr<BlobWriter>> RegistryStore::NewWriter() {
  return std::unique_ptr<BlobWriter>(new RegistryWriter(this));
}

}  // namespace

absl::StatusOr<std::unique_ptr<BlobStore>> OpenRegistry(const std::string& url,
                                                        const blob::RegistryOptions& options) {
  const size_t host = url.find("://") == std::string::npos ? url.size() : url.find("://") + 3;
  const size_t slash = std::min(url.find('/', host), url.size());
  std::string prefix = slash < url.size() ? url.substr(slash + 1) : "";
  while (!prefix.empty() && prefix.back() == '/') prefix.pop_back();
  if (slash == host || !IsRepositoryName(prefix)) {
    return absl::InvalidArgumentError(
        absl::StrCat("registry \"", url,
                     "\": expected http[s]://HOST[:PORT]/PREFIX, the prefix of lower-case "
                     "letters, digits and . _ - /"));
  }
  return std::unique_ptr<BlobStore>(
      std::make_unique<RegistryStore>(url.substr(0, slash), prefix, options));
}

absl::Status CheckRepositoryName(const std::string& name) {
  if (IsRepositoryName(name)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "repository \"", name, "\": expected lower-case letters and digits with . _ - / inside"));
}

}  // namespace shiftadd
