// push and pull: a package between the packager and an OCI registry or image layout.
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "services/base/digest.h"
#include "services/base/status_macros.h"
#include "services/cli/clients.h"
#include "services/cli/commands.h"
#include "services/cli/reference.h"
#include "services/cli/transfer.h"
#include "services/cli/units.h"
#include "services/packaging/manifest.h"
#include "services/packaging/package_format.h"
#include "services/packaging/reference.h"
#include "services/packaging/remote_package.h"

namespace shiftadd::cli {
namespace {

using nlohmann::json;
namespace pk = packaging;

struct TransferFlags {
  std::string package, remote;
  bool verify = false;  // push
  int parallel = 4;
};

// One line that is redrawn on a terminal, one at the end elsewhere.
void Show(Context& context, const TransferState& state, bool end) {
  if (!context.terminal && !end) return;
  constexpr int kBar = 24;
  const int filled =
      state.bytes == 0 ? kBar : static_cast<int>(state.done_bytes * kBar / state.bytes);
  if (context.terminal) context.out << "\r\x1b[2K";
  if (!end) {
    context.out << "[" << std::string(filled, '#') << std::string(kBar - filled, '.') << "] ";
  }
  context.out << state.done_blobs << " of " << state.blobs << " blobs, "
              << FormatBytes(state.done_bytes) << " of " << FormatBytes(state.bytes);
  if (end) context.out << ", " << state.there_blobs << " were there\n";
  context.out << std::flush;
}

// `damaged`: what helps if a blob is not what its digest says.
absl::Status Move(Context& context, const std::vector<BlobToMove>& blobs, const TransferEnds& ends,
                  int parallel, const char* damaged) {
  const auto state = MoveBlobs(blobs, ends, parallel, [&](const TransferState& s) {
    if (s.done_blobs < s.blobs) Show(context, s, false);
  });
  if (!state.ok()) {
    if (context.terminal) context.out << "\n";
    const char* advice = absl::IsDataLoss(state.status())
                             ? damaged
                             : "what was moved stays; the same command goes on from there";
    return Annotate(state.status(), advice);
  }
  Show(context, *state, true);
  return absl::OkStatus();
}

// Packages are moved by tag: what comes of it has to be named.
absl::StatusOr<std::string> TaggedReference(const std::string& package) {
  SA_ASSIGN_OR_RETURN(const std::string reference, NormalizeReference(package));
  if (absl::StrContains(reference, "@")) {
    return absl::InvalidArgumentError(
        absl::StrCat("package \"", reference, "\": expected NAME[:TAG]"));
  }
  return reference;
}

std::vector<BlobToMove> BlobsOf(const pk::ParsedManifest& manifest) {
  std::vector<BlobToMove> blobs = {{manifest.config.digest, manifest.config.size}};
  for (const pk::Descriptor& layer : manifest.layers) blobs.push_back({layer.digest, layer.size});
  return blobs;
}

// What refers to the package at the target already: others' signatures are theirs to keep.
absl::StatusOr<std::vector<pk::Referrer>> ReferrersThere(Context& context,
                                                         const std::string& digest,
                                                         pk::RemotePackage* remote) {
  const auto index = remote->ReadManifest(pk::ReferrersTag(digest));
  if (absl::IsNotFound(index.status())) return std::vector<pk::Referrer>{};
  if (absl::IsDataLoss(index.status())) {
    context.err << "shiftadd: what referred to the package at the target is lost: "
                << index.status().message() << "\n";
    return std::vector<pk::Referrer>{};
  }
  if (!index.ok()) return index.status();
  return pk::ReferrersIn(*index);
}

// Provenance, signatures and evaluations, as the packager has them, added to those that are behind
// the tag sha256-HEX.
absl::Status PushReferrers(Context& context, const v1::Package& package,
                           pk::RemotePackage* remote) {
  const pk::Descriptor subject{
      kManifestMediaType, package.digest(), package.manifest_json().size(), {}};
  SA_ASSIGN_OR_RETURN(std::vector<pk::Referrer> referrers,
                      ReferrersThere(context, package.digest(), remote));
  const auto add = [&](const std::string& text, const char* type,
                       const char* title) -> absl::Status {
    const pk::Descriptor document{
        type, Sha256Digest(text), text.size(), {{kTitleAnnotation, title}}};
    SA_RETURN_IF_ERROR(remote->Write(document.digest, text));
    SA_RETURN_IF_ERROR(remote->Write(Sha256Digest(pk::kEmptyBlob), pk::kEmptyBlob));
    const std::string manifest = pk::ReferrerManifest(subject, document);
    SA_RETURN_IF_ERROR(remote->WriteManifest(manifest, ""));
    const std::string digest = Sha256Digest(manifest);
    const bool known = std::any_of(referrers.begin(), referrers.end(),
                                   [&](const auto& r) { return r.manifest.digest == digest; });
    if (!known) {
      referrers.push_back({{kManifestMediaType, digest, manifest.size(), {}}, type});
    }
    return absl::OkStatus();
  };
  if (!package.provenance_json().empty()) {
    SA_RETURN_IF_ERROR(add(package.provenance_json(), kProvenanceArtifactType, "provenance.json"));
  }
  for (const std::string& signature : package.signature_json()) {
    SA_RETURN_IF_ERROR(add(signature, kSignatureArtifactType, "signature.json"));
  }
  for (const std::string& evaluation : package.evaluation_json()) {
    SA_RETURN_IF_ERROR(add(evaluation, kEvaluationArtifactType, "evaluation.json"));
  }
  if (referrers.empty()) return absl::OkStatus();
  return remote->WriteManifest(pk::ReferrersIndex(referrers), pk::ReferrersTag(package.digest()));
}

absl::Status Push(Context& context, const TransferFlags& flags) {
  SA_ASSIGN_OR_RETURN(const std::string reference, TaggedReference(flags.package));
  SA_RETURN_IF_ERROR(pk::RemotePackage::CheckPlace(flags.remote));
  SA_ASSIGN_OR_RETURN(const auto client, ConnectPackages(context));
  SA_ASSIGN_OR_RETURN(const v1::Package package, client->Get(reference));
  SA_ASSIGN_OR_RETURN(const pk::ParsedManifest manifest,
                      pk::ParseManifest(package.manifest_json()));
  // A folder is made only for a package that there is.
  SA_ASSIGN_OR_RETURN(const auto remote, pk::RemotePackage::Open(flags.remote, reference,
                                                                 pk::RemotePackage::Use::kTarget));
  TransferEnds ends;
  ends.has = [&](const BlobToMove& blob) {
    return remote->Has(blob.digest, blob.bytes, flags.verify);
  };
  ends.read = [&](const std::string& digest) { return client->ReadBlob(digest); };
  ends.write = [&](const BlobToMove& blob, const std::string& data) {
    return remote->Write(blob.digest, data);
  };
  SA_RETURN_IF_ERROR(Move(context, BlobsOf(manifest), ends, flags.parallel,
                          "a blob is damaged, and no further attempt mends it"));
  SA_RETURN_IF_ERROR(PushReferrers(context, package, remote.get()));
  SA_RETURN_IF_ERROR(remote->WriteManifest(package.manifest_json(), remote->tag()));
  context.out << "pushed " << reference << " to " << remote->name() << " (" << package.digest()
              << ")\n";
  return absl::OkStatus();
}

absl::StatusOr<v1::PublishPackageRequest> MakeRequest(const std::string& reference,
                                                      const pk::ParsedManifest& manifest,
                                                      const std::string& config,
                                                      pk::Referring documents) {
  v1::PublishPackageRequest request;
  request.set_reference(reference);
  request.set_config_json(config);
  const std::vector<std::string>& provenance = documents[kProvenanceArtifactType];
  if (!provenance.empty()) request.set_provenance_json(provenance.back());
  for (const std::string& signature : documents[kSignatureArtifactType]) {
    request.add_signature_json(signature);
  }
  for (const std::string& evaluation : documents[kEvaluationArtifactType]) {
    request.add_evaluation_json(evaluation);
  }
  for (const pk::Descriptor& layer : manifest.layers) {
    v1::Descriptor* out = request.add_layers();
    out->set_media_type(layer.media_type);
    out->set_digest(layer.digest);
    out->set_size(layer.size);
    for (const auto& [key, value] : layer.annotations) (*out->mutable_annotations())[key] = value;
  }
  return request;
}

// The packager writes the manifest anew from what it is told. Whether the same one comes out is
// known before anything is published, so that no tag moves to another package.
absl::Status CheckComesOut(const std::string& manifest_text, const std::string& config_text,
                           const pk::ParsedManifest& manifest, const std::string& name) {
  const json config = pk::ParseJson(config_text);
  const json version = config.is_object() ? config.value("quantizer_version", json()) : json();
  if (!version.is_string()) return absl::OkStatus();  // the packager says all that is wrong with it
  const std::string canonical = config.dump();
  const std::string found = Sha256Digest(pk::PackageManifest(
      {kConfigMediaType, Sha256Digest(canonical), canonical.size(), {}}, manifest.layers, version));
  const std::string expected = Sha256Digest(manifest_text);
  if (found == expected) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(name, ": expected to publish ", expected, ", found ",
                                          found, ": another version's manifest?"));
}

// A packager compares every layer's digest before it publishes, where blobs are on its own disk,
// and deletes what is damaged: then that is moved too.
absl::StatusOr<v1::Package> MoveAndPublish(Context& context, const std::vector<BlobToMove>& blobs,
                                           const TransferEnds& ends, int parallel,
                                           const v1::PublishPackageRequest& request,
                                           PackageClient* client) {
  constexpr char kDamaged[] =
      "the source is damaged: push the package there again, with --verify, from a packager that "
      "has it whole";
  SA_RETURN_IF_ERROR(Move(context, blobs, ends, parallel, kDamaged));
  absl::StatusOr<v1::Package> published = client->Publish(request);
  if (!absl::IsFailedPrecondition(published.status())) return published;
  context.err << "shiftadd: " << published.status().message() << "; moved again\n";
  SA_RETURN_IF_ERROR(Move(context, blobs, ends, parallel, kDamaged));
  return client->Publish(request);
}

absl::Status Pull(Context& context, const TransferFlags& flags) {
  SA_ASSIGN_OR_RETURN(const std::string reference, TaggedReference(flags.package));
  SA_ASSIGN_OR_RETURN(const auto remote, pk::RemotePackage::Open(flags.remote, reference,
                                                                 pk::RemotePackage::Use::kSource));
  SA_ASSIGN_OR_RETURN(const std::string text, remote->ReadManifest(remote->tag()));
  if (pk::ArtifactTypeOf(text) != kPackageArtifactType) {
    return absl::InvalidArgumentError(absl::StrCat(remote->name(), ": expected artifactType ",
                                                   kPackageArtifactType, ", found \"",
                                                   pk::ArtifactTypeOf(text), "\""));
  }
  SA_ASSIGN_OR_RETURN(const pk::ParsedManifest manifest, pk::ParseManifest(text));
  SA_ASSIGN_OR_RETURN(const std::string config, remote->Read(manifest.config.digest));
  SA_RETURN_IF_ERROR(CheckComesOut(text, config, manifest, remote->name()));
  const std::string digest = Sha256Digest(text);
  SA_ASSIGN_OR_RETURN(const pk::Referring documents,
                      pk::ReadReferring(remote.get(), digest,
                                        {kProvenanceArtifactType, kSignatureArtifactType,
                                         kEvaluationArtifactType}));
  SA_ASSIGN_OR_RETURN(const v1::PublishPackageRequest request,
                      MakeRequest(reference, manifest, config, documents));
  SA_ASSIGN_OR_RETURN(const auto client, ConnectPackages(context));
  TransferEnds ends;
  ends.has = [&](const BlobToMove& blob) -> absl::StatusOr<bool> {
    const absl::StatusOr<uint64_t> size = client->StatBlob(blob.digest);
    if (absl::IsNotFound(size.status())) return false;
    if (!size.ok()) return size.status();
    return *size == blob.bytes;
  };
  ends.read = [&](const std::string& blob) -> absl::StatusOr<std::string> {
    if (blob == manifest.config.digest) return config;
    return remote->Read(blob);
  };
  ends.write = [&](const BlobToMove&, const std::string& data) {
    return client->WriteBlob(data).status();
  };
  SA_ASSIGN_OR_RETURN(
      const v1::Package published,
      MoveAndPublish(context, BlobsOf(manifest), ends, flags.parallel, request, client.get()));
  if (published.digest() != digest) {
    return absl::DataLossError(absl::StrCat(remote->name(), ": expected to publish ", digest,
                                            ", found ", published.digest(),
                                            ": another version's manifest?"));
  }
  context.out << "pulled " << remote->name() << " as " << reference << " (" << digest << ")\n";
  return absl::OkStatus();
}

}  // namespace

void AddTransferCommands(CLI::App& app, Context& context) {
  auto flags = std::make_shared<TransferFlags>();
  const auto share = [&](CLI::App* command, absl::Status (*move)(Context&, const TransferFlags&)) {
    command->add_option("--parallel", flags->parallel, "Blobs that move at once")
        ->check(CLI::Range(1, 64))
        ->capture_default_str();
    AddPackagerFlag(command, context);
    command->callback([&context, flags, move] {
      context.action = [&context, flags, move] { return Report(context, move(context, *flags)); };
    });
  };
  const char* remote =
      "http[s]://HOST[:PORT]/REPOSITORY[:TAG] of an OCI registry, or an image "
      "layout's folder";
  CLI::App* push = app.add_subcommand("push", "Copy a package to a registry or an image layout");
  push->add_option("package", flags->package, "NAME[:TAG]")->required();
  push->add_option("target", flags->remote, remote)->required();
  push->add_flag("--verify", flags->verify,
                 "Read what is at the target already and compare its digest: what is damaged in a "
                 "layout is written again");
  share(push, &Push);
  CLI::App* pull = app.add_subcommand("pull", "Publish a package of a registry or an image layout");
  pull->add_option("source", flags->remote, remote)->required();
  pull->add_option("package", flags->package, "NAME[:TAG], here and in a layout")->required();
  share(pull, &Pull);
}

}  // namespace shiftadd::cli
