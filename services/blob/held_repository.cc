#include "services/blob/held_repository.h"

#include <unistd.h>

#include <utility>

#include "absl/random/random.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "services/base/digest.h"
#include "services/base/status_macros.h"
#include "services/blob/checks.h"

namespace shiftadd::blob {
namespace {

using nlohmann::json;

constexpr char kManifest[] = "application/vnd.oci.image.manifest.v1+json";
constexpr char kEmptyType[] = "application/vnd.oci.empty.v1+json";
constexpr char kEmpty[] = "{}";
constexpr char kHeldType[] = "application/octet-stream";
constexpr char kHoldTag[] = "blob-";
// What docker-registry says of a blob that was there a moment ago, while another client uploads it
// too: of the empty one, which every manifest names, in a fresh repository.
constexpr char kBlobUnknown[] = "MANIFEST_BLOB_UNKNOWN";
constexpr int kAttempts = 5;
constexpr absl::Duration kPause = absl::Milliseconds(100);
constexpr char kPutTime[] = "vnd.shiftadd.put-time";  // nanoseconds since 1970
constexpr char kSha256[] = "sha256:";

std::string HoldTag(const std::string& digest) {
  return absl::StrCat(kHoldTag, digest.substr(sizeof(kSha256) - 1));
}

absl::Status NoHold(const std::string& where) {
  return absl::DataLossError(
      absl::StrCat(where, ": expected a manifest with one layer and the annotation ", kPutTime));
}

absl::StatusOr<BlobInfo> ParseHold(const std::string& manifest, const std::string& where) {
  const json document = ParseJson(manifest);
  const json layers = document.is_object() ? document.value("layers", json()) : json();
  if (!layers.is_array() || layers.size() != 1 || !layers[0].is_object()) return NoHold(where);
  const json annotations = document.value("annotations", json());
  const json time = annotations.is_object() ? annotations.value(kPutTime, json()) : json();
  const json size = layers[0].value("size", json()), digest = layers[0].value("digest", json());
  int64_t nanoseconds = 0;
  if (!time.is_string() || !absl::SimpleAtoi(time.get<std::string>(), &nanoseconds) ||
      !size.is_number_unsigned() || !digest.is_string()) {
    return NoHold(where);
  }
  return BlobInfo{digest.get<std::string>(), size.get<uint64_t>(),
                  absl::FromUnixNanos(nanoseconds)};
}

}  // namespace

absl::Status HeldRepository::NotFound(const std::string& digest) const {
  return absl::NotFoundError(
      absl::StrCat("blob ", digest, " is not in ", client_->base(), "/", name_));
}

absl::Status HeldRepository::NeedEmptyBlob() {
  const std::lock_guard<std::mutex> lock(empty_blob_mutex_);
  if (has_empty_blob_) return absl::OkStatus();
  SA_RETURN_IF_ERROR(client_->PutBlob(name_, Sha256Digest(kEmpty), kEmpty).status());
  has_empty_blob_ = true;
  return absl::OkStatus();
}

absl::Status HeldRepository::PutTagged(const std::string& tag, const json& layers,
                                       const std::map<std::string, std::string>& annotations) {
  SA_RETURN_IF_ERROR(NeedEmptyBlob());
  const json empty = {
      {"mediaType", kEmptyType}, {"digest", Sha256Digest(kEmpty)}, {"size", sizeof(kEmpty) - 1}};
  json manifest = {
      {"schemaVersion", 2}, {"mediaType", kManifest}, {"config", empty}, {"layers", layers}};
  // The specification wants a layer.
  if (layers.empty()) manifest["layers"] = json::array({empty});
  manifest["annotations"] = annotations;
  absl::Status status;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    if (attempt > 0) absl::SleepFor(kPause);
    status = client_->PutManifest(name_, tag, kManifest, manifest.dump());
    if (!absl::StrContains(status.message(), kBlobUnknown)) break;
  }
  return status;
}

absl::Status HeldRepository::Put(const std::string& digest, absl::string_view data) {
  SA_ASSIGN_OR_RETURN(const bool there, client_->PutBlob(name_, digest, data));
  return Hold(digest, data.size(), there);
}

absl::Status HeldRepository::Hold(const std::string& digest, uint64_t bytes, bool again) {
  std::string before;
  if (again) {
    absl::StatusOr<std::string> manifest = client_->GetManifest(name_, HoldTag(digest));
    if (manifest.ok()) before = *std::move(manifest);
  }
  const json layer = {{"mediaType", kHeldType}, {"digest", digest}, {"size", bytes}};
  SA_RETURN_IF_ERROR(PutTagged(HoldTag(digest), json::array({layer}),
                               {{kPutTime, absl::StrCat(absl::ToUnixNanos(absl::Now()))}}));
  // Without its tag it would hold the blob for ever. Where the registry does not delete, it does.
  if (!before.empty()) client_->DeleteManifest(name_, Sha256Digest(before)).IgnoreError();
  return absl::OkStatus();
}

absl::StatusOr<BlobInfo> HeldRepository::Info(const std::string& digest) {
  const absl::StatusOr<std::string> manifest = client_->GetManifest(name_, HoldTag(digest));
  if (absl::IsNotFound(manifest.status())) return NotFound(digest);
  if (!manifest.ok()) return manifest.status();
  return ParseHold(*manifest, absl::StrCat(client_->base(), "/", name_, ":", HoldTag(digest)));
}

absl::StatusOr<std::string> HeldRepository::Get(const std::string& digest) {
  SA_RETURN_IF_ERROR(Info(digest).status());
  absl::StatusOr<std::string> data = client_->GetBlob(name_, digest);
  if (absl::IsNotFound(data.status())) return NotFound(digest);
  return data;
}

absl::StatusOr<bool> HeldRepository::Release(const std::string& digest, absl::Time cutoff) {
  const absl::StatusOr<std::string> manifest = client_->GetManifest(name_, HoldTag(digest));
  if (absl::IsNotFound(manifest.status())) return false;
  if (!manifest.ok()) return manifest.status();
  SA_ASSIGN_OR_RETURN(const BlobInfo info, ParseHold(*manifest, HoldTag(digest)));
  if (info.modified >= cutoff) return false;
  // By its own digest: a Put that came in between has another time, so another manifest, and stays.
  SA_RETURN_IF_ERROR(client_->DeleteManifest(name_, Sha256Digest(*manifest)));
  return true;
}

absl::StatusOr<std::vector<std::string>> HeldRepository::List() {
  SA_ASSIGN_OR_RETURN(const std::vector<std::string> tags, client_->ListTags(name_));
  std::vector<std::string> digests;
  for (const std::string& tag : tags) {
    absl::string_view hex = tag;
    if (!absl::ConsumePrefix(&hex, kHoldTag)) continue;
    std::string digest = absl::StrCat(kSha256, hex);
    if (ValidateDigest(digest).ok()) digests.push_back(std::move(digest));
  }
  return digests;
}

absl::Status HeldRepository::ReleaseAll() {
  SA_ASSIGN_OR_RETURN(const std::vector<std::string> digests, List());
  for (const std::string& digest : digests) {
    SA_RETURN_IF_ERROR(Release(digest, absl::InfiniteFuture()).status());
  }
  return absl::OkStatus();
}

absl::Status HeldRepository::PutNote(const std::string& tag,
                                     const std::map<std::string, std::string>& notes) {
  return PutTagged(tag, json::array(), notes);
}

absl::StatusOr<json> HeldRepository::GetNote(const std::string& tag) {
  SA_ASSIGN_OR_RETURN(const std::string manifest, client_->GetManifest(name_, tag));
  const json document = ParseJson(manifest);
  const json notes = document.is_object() ? document.value("annotations", json()) : json();
  if (!notes.is_object()) {
    return absl::DataLossError(
        absl::StrCat(client_->base(), "/", name_, ":", tag, ": expected annotations"));
  }
  return notes;
}

absl::StatusOr<bool> HeldRepository::IsTagged(const std::string& manifest_digest) {
  SA_ASSIGN_OR_RETURN(const std::vector<std::string> tags, client_->ListTags(name_));
  for (const std::string& tag : tags) {
    const absl::StatusOr<std::string> manifest = client_->GetManifest(name_, tag);
    if (absl::IsNotFound(manifest.status())) continue;
    if (!manifest.ok()) return manifest.status();
    if (Sha256Digest(*manifest) == manifest_digest) return true;
  }
  return false;
}

// Registries delete manifests, and every tag of one with it. So the tag first moves to a manifest
// that no other tag names.
absl::Status HeldRepository::RemoveTag(const std::string& tag, bool and_manifest) {
  const absl::StatusOr<std::string> before = client_->GetManifest(name_, tag);
  if (absl::IsNotFound(before.status())) return absl::OkStatus();
  if (!before.ok()) return before.status();
  absl::BitGen random;
  SA_RETURN_IF_ERROR(PutNote(
      tag, {{"vnd.shiftadd.removed", absl::StrCat(absl::ToUnixNanos(absl::Now()), "-", getpid(),
                                                  "-", absl::Uniform<uint64_t>(random))}}));
  SA_ASSIGN_OR_RETURN(const std::string manifest, client_->GetManifest(name_, tag));
  SA_RETURN_IF_ERROR(client_->DeleteManifest(name_, Sha256Digest(manifest)));
  if (!and_manifest) return absl::OkStatus();
  SA_ASSIGN_OR_RETURN(const bool tagged, IsTagged(Sha256Digest(*before)));
  return tagged ? absl::OkStatus() : client_->DeleteManifest(name_, Sha256Digest(*before));
}

}  // namespace shiftadd::blob
