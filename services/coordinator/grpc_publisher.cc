#include "services/coordinator/grpc_publisher.h"

#include "absl/time/time.h"
#include "services/base/status_macros.h"
#include "services/rpc/failover.h"
#include "shiftadd/v1/package.grpc.pb.h"

namespace shiftadd::coordinator {
namespace {

constexpr absl::Duration kTimeout = absl::Seconds(30);
// Publishing syncs a manifest and an index to disk.
constexpr absl::Duration kPublishTimeout = absl::Minutes(2);

class GrpcPublisher : public Publisher {
 public:
  explicit GrpcPublisher(const std::string& addresses) : packagers_(addresses) {}

  absl::StatusOr<std::string> Publish(const v1::PublishPackageRequest& request) override {
    v1::Package package;
    SA_RETURN_IF_ERROR(packagers_.Call(&Stub::PublishPackage, request, &package, kPublishTimeout));
    return package.digest();
  }

  absl::StatusOr<v1::Package> GetPackage(const std::string& reference) override {
    v1::GetPackageRequest request;
    request.set_reference(reference);
    v1::Package package;
    SA_RETURN_IF_ERROR(packagers_.Call(&Stub::GetPackage, request, &package, kTimeout));
    return package;
  }

  absl::Status Attach(const std::string& reference, const std::string& media_type,
                      const std::string& document_json) override {
    v1::AttachDocumentRequest request;
    request.set_reference(reference);
    request.set_media_type(media_type);
    request.set_document_json(document_json);
    v1::AttachDocumentResponse response;
    return packagers_.Call(&Stub::AttachDocument, request, &response, kPublishTimeout);
  }

  absl::Status Pin(const std::string& owner, const std::vector<std::string>& digests) override {
    v1::PinBlobsRequest request;
    request.set_owner(owner);
    for (const std::string& digest : digests) request.add_digests(digest);
    google::protobuf::Empty response;
    return packagers_.Call(&Stub::PinBlobs, request, &response, kTimeout);
  }

  absl::Status Unpin(const std::string& owner) override {
    v1::UnpinBlobsRequest request;
    request.set_owner(owner);
    google::protobuf::Empty response;
    const absl::Status status = packagers_.Call(&Stub::UnpinBlobs, request, &response, kTimeout);
    return absl::IsNotFound(status) ? absl::OkStatus() : status;
  }

  absl::StatusOr<uint64_t> BlobSize(const std::string& digest) override {
    v1::StatBlobRequest request;
    request.set_digest(digest);
    v1::StatBlobResponse response;
    SA_RETURN_IF_ERROR(packagers_.Call(&Stub::StatBlob, request, &response, kTimeout));
    return response.size();
  }

 private:
  using Stub = v1::PackageService::Stub;
  const rpc::Failover<v1::PackageService> packagers_;
};

}  // namespace

std::unique_ptr<Publisher> MakeGrpcPublisher(const std::string& addresses) {
  return std::make_unique<GrpcPublisher>(addresses);
}

}  // namespace shiftadd::coordinator
