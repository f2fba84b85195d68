#include "services/packaging/package_service.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/access/audit.h"
#include "services/access/tokens.h"
#include "services/base/digest.h"
#include "services/base/status_macros.h"
#include "services/packaging/reference_watch.h"
#include "services/packaging/replicas.h"
#include "services/rpc/security.h"
#include "services/rpc/stall_guard.h"
#include "shiftadd/v1/package.grpc.pb.h"

namespace shiftadd::packaging {
namespace {

using google::protobuf::Empty;
using grpc::ServerContext;
using rpc::ToGrpc;

constexpr uint64_t kChunkBytes = 1u << 20;

void Fill(const Descriptor& from, v1::Descriptor* to) {
  to->set_media_type(from.media_type);
  to->set_digest(from.digest);
  to->set_size(from.size);
  for (const auto& [key, value] : from.annotations) (*to->mutable_annotations())[key] = value;
}

void Fill(const PackageInfo& from, v1::Package* to) {
  to->set_name(from.name);
  to->set_tag(from.tag);
  to->set_digest(from.digest);
  to->set_owner(from.owner);
  to->set_bytes(from.bytes);
  const int64_t micros = absl::ToUnixMicros(from.publish_time);
  to->mutable_publish_time()->set_seconds(micros / 1'000'000);
  to->mutable_publish_time()->set_nanos(static_cast<int32_t>(micros % 1'000'000) * 1000);
  Fill(from.config, to->mutable_config());
  for (const Descriptor& layer : from.layers) Fill(layer, to->add_layers());
}

PublishSpec ToSpec(const v1::PublishPackageRequest& request) {
  PublishSpec spec{request.reference(),       request.config_json(),     {},
                   request.provenance_json(), request.expected_digest(), {}};
  spec.signatures_json.assign(request.signature_json().begin(), request.signature_json().end());
  spec.evaluations_json.assign(request.evaluation_json().begin(), request.evaluation_json().end());
  for (const v1::Descriptor& layer : request.layers()) {
    spec.layers.push_back({layer.media_type(),
                           layer.digest(),
                           layer.size(),
                           {layer.annotations().begin(), layer.annotations().end()}});
  }
  return spec;
}

class Service : public v1::PackageService::Service {
 public:
  Service(Packager* packager, access::Access* access) : packager_(packager), access_(access) {}

  grpc::Status PublishPackage(ServerContext* context, const v1::PublishPackageRequest* request,
                              v1::Package* response) override {
    PublishSpec spec = ToSpec(*request);
    std::vector<rpc::FieldViolation> violations;
    for (Fault& f : CheckPublish(spec)) violations.push_back({f.field, f.description});
    if (!violations.empty()) return ToGrpc(rpc::InvalidFields(violations));
    const absl::StatusOr<TagMover> mover = MoverOf(context, request->owner());
    if (mover.ok()) spec.mover = *mover;
    const absl::StatusOr<PackageInfo> info =
        mover.ok() ? packager_->Publish(spec) : absl::StatusOr<PackageInfo>(mover.status());
    Audited(context, "PublishPackage", request->reference(), info.status()).IgnoreError();
    return Answer(info, response);
  }

  grpc::Status GetPackage(ServerContext*, const v1::GetPackageRequest* request,
                          v1::Package* response) override {
    const absl::StatusOr<PackageDetails> details = packager_->Get(request->reference());
    if (!details.ok()) return ToGrpc(details.status());
    Fill(details->info, response);
    response->set_config_json(details->config_json);
    response->set_manifest_json(details->manifest_json);
    response->set_provenance_json(details->provenance_json);
    for (const std::string& signature : details->signatures_json) {
      response->add_signature_json(signature);
    }
    for (const std::string& evaluation : details->evaluations_json) {
      response->add_evaluation_json(evaluation);
    }
    return grpc::Status::OK;
  }

  grpc::Status AttachDocument(ServerContext* context, const v1::AttachDocumentRequest* request,
                              v1::AttachDocumentResponse* response) override {
    const absl::StatusOr<std::string> digest =
        packager_->Attach(request->reference(), request->media_type(), request->document_json());
    if (digest.ok()) response->set_digest(*digest);
    return ToGrpc(Audited(context, "AttachDocument", request->reference(), digest.status()));
  }

  grpc::Status ListPackages(ServerContext*, const v1::ListPackagesRequest* request,
                            v1::ListPackagesResponse* response) override {
    const absl::StatusOr<PackagePage> page =
        packager_->List(request->page_size(), request->page_token());
    if (!page.ok()) return ToGrpc(page.status());
    for (const PackageInfo& info : page->packages) Fill(info, response->add_packages());
    response->set_next_page_token(page->next_page_token);
    return grpc::Status::OK;
  }

  grpc::Status ResolveReference(ServerContext*, const v1::ResolveReferenceRequest* request,
                                v1::ResolveReferenceResponse* response) override {
    const absl::StatusOr<std::string> digest = packager_->Resolve(request->reference());
    if (digest.ok()) response->set_digest(*digest);
    return ToGrpc(digest.status());
  }

  grpc::Status WatchReference(ServerContext* context, WatchStream* stream) override {
    return ToGrpc(ServeWatch(packager_, &replicas_, context, stream));
  }

  grpc::Status ListReplicas(ServerContext*, const v1::ListReplicasRequest* request,
                            v1::ListReplicasResponse* response) override {
    for (v1::Replica& replica : replicas_.List(request->reference())) {
      *response->add_replicas() = std::move(replica);
    }
    return grpc::Status::OK;
  }

  grpc::Status TagPackage(ServerContext* context, const v1::TagPackageRequest* request,
                          v1::Package* response) override {
    absl::StatusOr<TagMover> mover = MoverOf(context, request->owner());
    if (!request->owner().empty() && (access_ == nullptr || !access_->required())) {
      mover = absl::FailedPreconditionError(
          "owner: nobody is asked here who he is, so that tags have no owners");
    }
    const absl::StatusOr<PackageInfo> info =
        mover.ok() ? packager_->Tag(request->source(), request->target(),
                                    request->expected_digest(), *mover)
                   : mover.status();
    Audited(context, "TagPackage", request->target(), info.status()).IgnoreError();
    return Answer(info, response);
  }

  grpc::Status DeletePackage(ServerContext* context, const v1::DeletePackageRequest* request,
                             Empty*) override {
    return ToGrpc(Audited(context, "DeletePackage", request->reference(),
                          packager_->Delete(request->reference())));
  }

  grpc::Status CollectGarbage(ServerContext* context, const v1::CollectGarbageRequest* request,
                              v1::CollectGarbageResponse* response) override {
    const absl::StatusOr<GarbageReport> report = packager_->CollectGarbage(request->dry_run());
    if (!request->dry_run()) {
      Audited(context, "CollectGarbage", "", report.status()).IgnoreError();
    }
    if (!report.ok()) return ToGrpc(report.status());
    response->set_blobs(report->blobs);
    response->set_bytes(report->bytes);
    return grpc::Status::OK;
  }

  grpc::Status PinBlobs(ServerContext*, const v1::PinBlobsRequest* request, Empty*) override {
    absl::Time expire_time = absl::InfiniteFuture();
    if (request->has_expire_time()) {
      expire_time = absl::FromUnixSeconds(request->expire_time().seconds()) +
                    absl::Nanoseconds(request->expire_time().nanos());
    }
    return ToGrpc(packager_->Pin(
        request->owner(), {request->digests().begin(), request->digests().end()}, expire_time));
  }

  grpc::Status UnpinBlobs(ServerContext*, const v1::UnpinBlobsRequest* request, Empty*) override {
    return ToGrpc(packager_->Unpin(request->owner()));
  }

  grpc::Status StatBlob(ServerContext*, const v1::StatBlobRequest* request,
                        v1::StatBlobResponse* response) override {
    // Who asks is about to name it: the answer must stay true for a while.
    const absl::StatusOr<uint64_t> size = packager_->blobs()->Renew(request->digest());
    if (size.ok()) response->set_size(*size);
    return ToGrpc(size.status());
  }

  grpc::Status ReadBlob(ServerContext* context, const v1::ReadBlobRequest* request,
                        grpc::ServerWriter<v1::ReadBlobResponse>* writer) override {
    const absl::StatusOr<uint64_t> size = packager_->blobs()->Stat(request->digest());
    if (!size.ok()) return ToGrpc(size.status());
    uint64_t offset = request->offset();
    if (offset > *size) {
      return ToGrpc(absl::OutOfRangeError(
          absl::StrCat("offset: expected at most ", *size, ", found ", offset)));
    }
    uint64_t left = *size - offset;
    if (request->length() > 0) left = std::min(left, request->length());
    v1::ReadBlobResponse response;
    while (left > 0 && !context->IsCancelled()) {
      absl::StatusOr<std::string> data =
          packager_->blobs()->ReadRange(request->digest(), offset, std::min(left, kChunkBytes));
      if (!data.ok()) return ToGrpc(data.status());
      if (data->empty()) {
        return ToGrpc(absl::DataLossError(
            absl::StrCat("blob ", request->digest(), " became shorter while it was read")));
      }
      offset += data->size();
      left -= data->size();
      response.set_data(*std::move(data));
      if (!rpc::WriteInTime(context, writer, response)) break;
    }
    return grpc::Status::OK;
  }

  grpc::Status WriteBlob(ServerContext* context, grpc::ServerReader<v1::WriteBlobRequest>* reader,
                         v1::WriteBlobResponse* response) override {
    return ToGrpc(Write(context, reader, response));
  }

 private:
  // For whom this call moves a tag; `said`: for whom it says it does.
  absl::StatusOr<TagMover> MoverOf(ServerContext* context, const std::string& said) const {
    if (!said.empty() && !access::IsCallerName(said)) {
      return absl::InvalidArgumentError(
          "owner: expected a name of 1 to 100 letters, digits, '.', '_', '-' and '@'");
    }
    if (access_ == nullptr || !access_->required()) return TagMover();
    SA_ASSIGN_OR_RETURN(const access::Caller caller, rpc::CallerOf(*context, access_));
    if (caller.roles.Has(access::Role::kAdmin)) {
      return TagMover{said.empty() ? caller.name : said, /*any=*/true, /*give=*/!said.empty()};
    }
    // Its jobs' owners are those whom it has let in.
    if (caller.roles.Has(access::Role::kCoordinator)) return TagMover{said, /*any=*/false};
    if (!said.empty() && said != caller.name) {
      return absl::PermissionDeniedError(absl::StrCat("owner: found ", said, ", expected ",
                                                      caller.name,
                                                      " or nothing: only admins give tags away"));
    }
    return TagMover{caller.name, /*any=*/false};
  }

  static grpc::Status Answer(const absl::StatusOr<PackageInfo>& info, v1::Package* response) {
    if (info.ok()) Fill(*info, response);
    return ToGrpc(info.status());
  }

  absl::Status Write(ServerContext* context, grpc::ServerReader<v1::WriteBlobRequest>* reader,
                     v1::WriteBlobResponse* response) {
    v1::WriteBlobRequest request;
    if (!rpc::ReadInTime(context, reader, &request)) {
      return absl::InvalidArgumentError("WriteBlob: expected at least one message, found none");
    }
    const std::string expected = request.digest();
    if (!expected.empty()) SA_RETURN_IF_ERROR(ValidateDigest(expected));
    SA_ASSIGN_OR_RETURN(const auto blob, packager_->blobs()->NewWriter());
    uint64_t size = 0;
    do {
      if (!request.digest().empty() && request.digest() != expected) {
        return absl::InvalidArgumentError("digest: expected it in the first message only");
      }
      SA_RETURN_IF_ERROR(blob->Append(request.data()));
      size += request.data().size();
    } while (rpc::ReadInTime(context, reader, &request));
    // Half a blob would be a blob too, if nobody has said what to expect.
    if (context->IsCancelled()) return absl::CancelledError("WriteBlob: the client went away");
    SA_ASSIGN_OR_RETURN(const std::string digest, blob->Commit(expected));
    response->set_digest(digest);
    response->set_size(size);
    return absl::OkStatus();
  }

  // Who did it goes into the log; the status is `outcome`.
  absl::Status Audited(ServerContext* context, const char* action, const std::string& object,
                       const absl::Status& outcome) const {
    const absl::StatusOr<access::Caller> caller = rpc::CallerOf(*context, access_);
    access::Audit(caller.ok() ? caller->name : "unknown", action, object, outcome);
    return outcome;
  }

  Packager* const packager_;
  access::Access* const access_;
  Replicas replicas_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakePackageService(Packager* packager, access::Access* access) {
  return std::make_unique<Service>(packager, access);
}

}  // namespace shiftadd::packaging
