#include "services/packaging/packager.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/base/digest.h"
#include "services/base/fail_point.h"
#include "services/base/logging.h"
#include "services/base/status_macros.h"
#include "services/packaging/package_format.h"
#include "services/packaging/reference.h"

namespace shiftadd::packaging {
namespace {

using nlohmann::json;

constexpr int kDefaultPageSize = 50, kMaxPageSize = 100;
constexpr size_t kMaxNamed = 8;  // of missing blobs in one message
constexpr size_t kMaxOwner = 256;
constexpr uint64_t kVerifyBytes = 4 << 20;  // read at once
constexpr absl::Duration kDefaultPin = absl::Hours(7 * 24);

const Clock& RealClock() {
  static const SystemClock clock;
  return clock;
}

absl::StatusOr<PackageInfo> ToInfo(const PackageRow& row, const TagRow& tag) {
  SA_ASSIGN_OR_RETURN(ParsedManifest manifest, ParseManifest(row.manifest_json));
  return PackageInfo{row.name,
                     tag.tag,
                     row.digest,
                     tag.owner,
                     row.bytes,
                     row.publish_time,
                     std::move(manifest.config),
                     std::move(manifest.layers)};
}

// What a document of this type is called; null for one that is not about packages.
const char* TitleOf(const std::string& media_type) {
  if (media_type == kSignatureArtifactType) return "signature.json";
  if (media_type == kProvenanceArtifactType) return "provenance.json";
  if (media_type == kEvaluationArtifactType) return "evaluation.json";
  return nullptr;
}

json PackageDescriptor(const PackageRow& row) {
  json descriptor = ToJson({kManifestMediaType, row.digest, row.manifest_json.size(), {}});
  descriptor["artifactType"] = kPackageArtifactType;
  return descriptor;
}

std::string MakePageToken(const TagRow& last) {
  return absl::WebSafeBase64Escape(absl::StrCat(last.name, ":", last.tag));
}

absl::StatusOr<Reference> ReadPageToken(const std::string& token) {
  std::string text;
  if (absl::WebSafeBase64Unescape(token, &text)) {
    auto reference = ParseTagReference(text);
    if (reference.ok()) return reference;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("page_token: expected one from an earlier page, found \"", token, "\""));
}

}  // namespace

Packager::Packager(PackageStore* store, BlobStore* blobs, const PackagerOptions& options)
    : store_(store), blobs_(blobs), options_(options) {}

absl::StatusOr<std::unique_ptr<Packager>> Packager::Start(PackageStore* store, BlobStore* blobs,
                                                          const PackagerOptions& options) {
  std::unique_ptr<Packager> packager(new Packager(store, blobs, options));
  SA_RETURN_IF_ERROR(packager->Reconcile());
  return packager;
}

absl::Time Packager::Now() const {
  return (options_.clock != nullptr ? *options_.clock : RealClock()).Now();
}

absl::Status Packager::Reach(const char* step) const {
  ReachFailPoint(absl::StrCat("publish.", step));
  return options_.fail_at ? options_.fail_at(step) : absl::OkStatus();
}

absl::StatusOr<bool> Packager::IsSound(const std::string& digest, uint64_t size) {
  Sha256 hash;
  for (uint64_t offset = 0; offset < size; offset += kVerifyBytes) {
    SA_ASSIGN_OR_RETURN(const std::string part, blobs_->ReadRange(digest, offset, kVerifyBytes));
    hash.Update(part.data(), part.size());
  }
  return hash.Finish() == digest;
}

absl::Status Packager::CheckBlobs(const std::vector<Descriptor>& layers) {
  std::vector<std::string> faults;
  size_t more = 0;
  for (const Descriptor& layer : layers) {
    const absl::StatusOr<uint64_t> size = blobs_->Stat(layer.digest);
    std::string fault;
    if (absl::IsNotFound(size.status())) {
      fault = "is not in the store";
    } else if (!size.ok()) {
      return size.status();
    } else if (*size != layer.size) {
      fault = absl::StrCat("size: expected ", layer.size, ", found ", *size);
    } else if (options_.verify_layers) {
      SA_ASSIGN_OR_RETURN(const bool sound, IsSound(layer.digest, *size));
      // Of no use to anybody; once it is gone its maker can be asked for it again.
      if (!sound) {
        SA_RETURN_IF_ERROR(blobs_->Delete(layer.digest));
        fault = "was damaged on disk, and has been deleted";
      }
    }
    if (fault.empty()) continue;
    if (faults.size() == kMaxNamed) {
      ++more;
      continue;
    }
    const auto title = layer.annotations.find(kTitleAnnotation);
    faults.push_back(absl::StrCat(title == layer.annotations.end() ? "layer" : title->second,
                                  ": blob ", layer.digest, ": ", fault));
  }
  if (faults.empty()) return absl::OkStatus();
  if (more > 0) faults.push_back(absl::StrCat("and ", more, " more"));
  return absl::FailedPreconditionError(absl::StrJoin(faults, "; "));
}

absl::StatusOr<Descriptor> Packager::PutDocument(const std::string& media_type,
                                                 const std::string& text) {
  SA_ASSIGN_OR_RETURN(const std::string digest, blobs_->Put(text));
  return Descriptor{media_type, digest, text.size(), {}};
}

absl::StatusOr<ProvenanceRow> Packager::PutReferrer(const PackageRow& package,
                                                    const std::string& media_type,
                                                    const std::string& document_json) {
  SA_ASSIGN_OR_RETURN(Descriptor document,
                      PutDocument(media_type, json::parse(document_json).dump()));
  document.annotations[kTitleAnnotation] = TitleOf(media_type);
  SA_RETURN_IF_ERROR(PutDocument(kEmptyMediaType, kEmptyBlob).status());
  SA_ASSIGN_OR_RETURN(
      const Descriptor manifest,
      PutDocument(
          kManifestMediaType,
          ReferrerManifest({kManifestMediaType, package.digest, package.manifest_json.size(), {}},
                           document)));
  return ProvenanceRow{package.name, package.digest, manifest.digest, manifest.size};
}

absl::StatusOr<std::vector<ProvenanceRow>> Packager::PutReferrers(const PackageRow& package,
                                                                  const PublishSpec& spec) {
  std::vector<ProvenanceRow> rows;
  const auto put = [&](const char* type, const std::string& document) -> absl::Status {
    SA_ASSIGN_OR_RETURN(ProvenanceRow row, PutReferrer(package, type, document));
    rows.push_back(std::move(row));
    return absl::OkStatus();
  };
  if (!spec.provenance_json.empty()) {
    SA_RETURN_IF_ERROR(put(kProvenanceArtifactType, spec.provenance_json));
  }
  for (const std::string& signature : spec.signatures_json) {
    SA_RETURN_IF_ERROR(put(kSignatureArtifactType, signature));
  }
  for (const std::string& evaluation : spec.evaluations_json) {
    SA_RETURN_IF_ERROR(put(kEvaluationArtifactType, evaluation));
  }
  return rows;
}

absl::StatusOr<std::string> Packager::Attach(const std::string& reference,
                                             const std::string& media_type,
                                             const std::string& document_json) {
  if (TitleOf(media_type) == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("media_type: expected ", kSignatureArtifactType, ", ", kProvenanceArtifactType,
                     " or ", kEvaluationArtifactType, ", found \"", media_type, "\""));
  }
  if (!ParseJson(document_json).is_object()) {
    return absl::InvalidArgumentError("document_json: expected a JSON object");
  }
  const std::shared_lock<std::shared_mutex> no_collection(garbage_mutex_);
  TagRow unused;
  SA_ASSIGN_OR_RETURN(const PackageRow package, Find(reference, &unused));
  SA_ASSIGN_OR_RETURN(const ProvenanceRow row, PutReferrer(package, media_type, document_json));
  const std::lock_guard<std::mutex> lock(tag_mutex_);
  SA_RETURN_IF_ERROR(store_->AddProvenance(row).status());
  SA_RETURN_IF_ERROR(MirrorReferrers(package.name, package.digest));
  return row.digest;
}

absl::StatusOr<PackageInfo> Packager::Publish(const PublishSpec& spec) {
  if (const std::vector<Fault> faults = CheckPublish(spec); !faults.empty()) {
    return absl::InvalidArgumentError(Joined(faults));
  }
  SA_ASSIGN_OR_RETURN(const Reference reference, ParseTagReference(spec.reference));
  const std::shared_lock<std::shared_mutex> no_collection(garbage_mutex_);
  SA_RETURN_IF_ERROR(CheckBlobs(spec.layers));

  // Canonical whatever the caller's serializer: the digest depends on the content alone.
  const json config_json = json::parse(spec.config_json);
  SA_RETURN_IF_ERROR(Reach("start"));
  SA_ASSIGN_OR_RETURN(const Descriptor config, PutDocument(kConfigMediaType, config_json.dump()));
  SA_RETURN_IF_ERROR(Reach("config"));
  PackageRow package;
  package.name = reference.name;
  package.manifest_json =
      PackageManifest(config, spec.layers, config_json["quantizer_version"].get<std::string>());
  SA_ASSIGN_OR_RETURN(const Descriptor manifest,
                      PutDocument(kManifestMediaType, package.manifest_json));
  package.digest = manifest.digest;
  package.bytes = config.size;
  for (const Descriptor& layer : spec.layers) package.bytes += layer.size;
  package.publish_time = Now();
  SA_RETURN_IF_ERROR(Reach("manifest"));
  SA_ASSIGN_OR_RETURN(const std::vector<ProvenanceRow> provenance, PutReferrers(package, spec));
  SA_RETURN_IF_ERROR(Reach("provenance"));

  const std::lock_guard<std::mutex> lock(tag_mutex_);
  ReachFailPoint("tag.move.before");
  SA_ASSIGN_OR_RETURN(const bool changed, store_->Publish(package, reference.tag, provenance,
                                                          spec.expected_digest, spec.mover));
  ReachFailPoint("tag.move.after");
  if (changed) tag_changes_.Announce();
  SA_RETURN_IF_ERROR(Reach("row"));
  if (changed && options_.metrics != nullptr) options_.metrics->published.Increment();
  // Also when nothing changed: an earlier attempt may have ended between the row and the index.
  SA_RETURN_IF_ERROR(MirrorReferrers(package.name, package.digest));
  SA_RETURN_IF_ERROR(Reach("referrers"));
  SA_RETURN_IF_ERROR(MirrorTag({reference.name, reference.tag, package.digest}));
  SA_ASSIGN_OR_RETURN(const PackageRow stored, store_->GetPackage(package.name, package.digest));
  if (changed) spdlog::info("published {} as {}", reference.ToString(), package.digest);
  SA_ASSIGN_OR_RETURN(const TagRow tag, store_->GetTag(reference.name, reference.tag));
  return ToInfo(stored, tag);
}

absl::Status Packager::MirrorTag(const TagRow& tag) {
  SA_ASSIGN_OR_RETURN(const PackageRow package, store_->GetPackage(tag.name, tag.digest));
  return blobs_->PutTag(absl::StrCat(tag.name, ":", tag.tag), PackageDescriptor(package));
}

absl::Status Packager::MirrorReferrers(const std::string& name, const std::string& digest) {
  SA_ASSIGN_OR_RETURN(const std::vector<ProvenanceRow> rows, store_->ListProvenance(name, digest));
  if (rows.empty()) return absl::OkStatus();
  std::vector<Referrer> manifests;
  for (const ProvenanceRow& row : rows) {
    SA_ASSIGN_OR_RETURN(const std::string manifest, blobs_->Get(row.digest));
    manifests.push_back({{kManifestMediaType, row.digest, row.size, {}}, ArtifactTypeOf(manifest)});
  }
  SA_ASSIGN_OR_RETURN(const Descriptor index,
                      PutDocument(kIndexMediaType, ReferrersIndex(manifests)));
  return blobs_->PutTag(absl::StrCat(name, ":", ReferrersTag(digest)), ToJson(index));
}

absl::Status Packager::Reconcile() {
  const std::lock_guard<std::mutex> lock(tag_mutex_);
  std::set<std::string> wanted;
  SA_ASSIGN_OR_RETURN(const auto mirrored, blobs_->ListTags());
  SA_ASSIGN_OR_RETURN(const std::vector<PackageRow> packages, store_->ListPackages());
  for (const PackageRow& package : packages) {
    const std::string reference = absl::StrCat(package.name, ":", ReferrersTag(package.digest));
    wanted.insert(reference);
    if (mirrored.count(reference) == 0) {
      SA_RETURN_IF_ERROR(MirrorReferrers(package.name, package.digest));
    }
  }
  SA_ASSIGN_OR_RETURN(const std::vector<TagRow> tags, store_->ListTags("", "", 0));
  for (const TagRow& tag : tags) {
    const std::string reference = absl::StrCat(tag.name, ":", tag.tag);
    wanted.insert(reference);
    const auto found = mirrored.find(reference);
    if (found == mirrored.end() || found->second.value("digest", "") != tag.digest) {
      SA_RETURN_IF_ERROR(MirrorTag(tag));
    }
  }
  for (const auto& [reference, descriptor] : mirrored) {
    // What other tools copied into the layout is theirs; ours are known by their form.
    const size_t colon = reference.rfind(':');
    const bool referrers =
        colon != std::string::npos && IsReferrersTag(reference.substr(colon + 1));
    const bool ours = referrers || descriptor.value("artifactType", "") == kPackageArtifactType;
    if (ours && wanted.count(reference) == 0) {
      SA_RETURN_IF_ERROR(blobs_->DeleteTag(reference));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<PackageRow> Packager::Find(const std::string& text, TagRow* tag) {
  SA_ASSIGN_OR_RETURN(const Reference reference, ParseReference(text));
  *tag = {reference.name, "", reference.digest};
  if (reference.digest.empty()) {
    SA_ASSIGN_OR_RETURN(*tag, store_->GetTag(reference.name, reference.tag));
  }
  return store_->GetPackage(reference.name, tag->digest);
}

absl::StatusOr<PackageDetails> Packager::Get(const std::string& reference) {
  TagRow tag;
  SA_ASSIGN_OR_RETURN(const PackageRow row, Find(reference, &tag));
  PackageDetails details;
  SA_ASSIGN_OR_RETURN(details.info, ToInfo(row, tag));
  details.manifest_json = row.manifest_json;
  SA_ASSIGN_OR_RETURN(details.config_json, blobs_->Get(details.info.config.digest));
  SA_ASSIGN_OR_RETURN(const auto provenance, store_->ListProvenance(row.name, row.digest));
  for (const ProvenanceRow& referrer : provenance) {
    SA_ASSIGN_OR_RETURN(const std::string manifest, blobs_->Get(referrer.digest));
    SA_ASSIGN_OR_RETURN(const ParsedManifest parsed, ParseManifest(manifest));
    if (parsed.layers.empty()) continue;
    SA_ASSIGN_OR_RETURN(std::string document, blobs_->Get(parsed.layers[0].digest));
    const std::string type = ArtifactTypeOf(manifest);
    if (type == kSignatureArtifactType) {
      details.signatures_json.push_back(std::move(document));
    } else if (type == kEvaluationArtifactType) {
      details.evaluations_json.push_back(std::move(document));
    } else {
      details.provenance_json = std::move(document);
    }
  }
  return details;
}

absl::StatusOr<PackagePage> Packager::List(int page_size, const std::string& page_token) {
  if (page_size < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("page_size: expected 0 to ", kMaxPageSize, ", found ", page_size));
  }
  Reference after;
  if (!page_token.empty()) {
    SA_ASSIGN_OR_RETURN(after, ReadPageToken(page_token));
  }
  const int limit = std::min(page_size == 0 ? kDefaultPageSize : page_size, kMaxPageSize);
  SA_ASSIGN_OR_RETURN(std::vector<TagRow> tags, store_->ListTags(after.name, after.tag, limit + 1));
  PackagePage page;
  if (static_cast<int>(tags.size()) > limit) {
    tags.resize(limit);
    page.next_page_token = MakePageToken(tags.back());
  }
  for (const TagRow& tag : tags) {
    const absl::StatusOr<PackageRow> row = store_->GetPackage(tag.name, tag.digest);
    if (absl::IsNotFound(row.status())) continue;  // it went while we listed
    if (!row.ok()) return row.status();
    SA_ASSIGN_OR_RETURN(PackageInfo info, ToInfo(*row, tag));
    page.packages.push_back(std::move(info));
  }
  return page;
}

absl::StatusOr<std::string> Packager::Resolve(const std::string& reference) {
  TagRow tag;
  SA_ASSIGN_OR_RETURN(const PackageRow row, Find(reference, &tag));
  return row.digest;
}

absl::StatusOr<PackageInfo> Packager::Tag(const std::string& source, const std::string& target,
                                          const std::string& expected_digest,
                                          const TagMover& mover) {
  SA_ASSIGN_OR_RETURN(const Reference to, ParseTagReference(target));
  if (!expected_digest.empty()) {
    SA_RETURN_IF_ERROR(Annotate(ValidateDigest(expected_digest), "expected_digest"));
  }
  const std::shared_lock<std::shared_mutex> no_collection(garbage_mutex_);
  TagRow unused;
  SA_ASSIGN_OR_RETURN(const PackageRow row, Find(source, &unused));
  const std::lock_guard<std::mutex> lock(tag_mutex_);
  const TagRow tag{to.name, to.tag, row.digest};
  SA_RETURN_IF_ERROR(store_->MoveTag(row.name, tag, expected_digest, mover));
  tag_changes_.Announce();
  SA_RETURN_IF_ERROR(MirrorReferrers(to.name, row.digest));
  SA_RETURN_IF_ERROR(MirrorTag(tag));
  PackageRow tagged = row;
  tagged.name = to.name;
  SA_ASSIGN_OR_RETURN(const TagRow moved, store_->GetTag(to.name, to.tag));
  return ToInfo(tagged, moved);
}

absl::Status Packager::Delete(const std::string& text) {
  SA_ASSIGN_OR_RETURN(const Reference reference, ParseTagReference(text));
  const std::lock_guard<std::mutex> lock(tag_mutex_);
  SA_RETURN_IF_ERROR(store_->DeleteTag(reference.name, reference.tag));
  tag_changes_.Announce();
  spdlog::info("deleted tag {}", reference.ToString());
  return blobs_->DeleteTag(reference.ToString());
}

absl::Status Packager::Pin(const std::string& owner, const std::vector<std::string>& digests,
                           absl::Time expire_time) {
  if (owner.empty() || owner.size() > kMaxOwner) {
    return absl::InvalidArgumentError(
        absl::StrCat("owner: expected 1 to ", kMaxOwner, " bytes, found ", owner.size()));
  }
  const std::shared_lock<std::shared_mutex> no_collection(garbage_mutex_);
  for (const std::string& digest : digests) SA_RETURN_IF_ERROR(blobs_->Stat(digest).status());
  if (expire_time == absl::InfiniteFuture()) expire_time = Now() + kDefaultPin;
  return store_->Pin(owner, digests, expire_time);
}

absl::Status Packager::Unpin(const std::string& owner) {
  if (owner.empty()) return absl::InvalidArgumentError("owner: expected a name, found \"\"");
  return store_->Unpin(owner);
}

uint64_t Packager::AwaitTagChange(uint64_t seen, absl::Duration timeout) {
  return tag_changes_.Await(seen, timeout);
}

void Packager::EndWaits() {
  waits_ended_ = true;
  tag_changes_.Stop();
}

void Packager::RefreshMetrics() {
  if (options_.metrics == nullptr) return;
  if (const auto tags = store_->ListTags("", "", 0); tags.ok()) {
    options_.metrics->packages.Set(static_cast<double>(tags->size()));
  }
  if (const auto infos = blobs_->ListInfo(); infos.ok()) {
    uint64_t bytes = 0;
    for (const BlobInfo& info : *infos) bytes += info.bytes;
    options_.metrics->blobs.Set(static_cast<double>(infos->size()));
    options_.metrics->blob_bytes.Set(static_cast<double>(bytes));
  }
}

}  // namespace shiftadd::packaging
