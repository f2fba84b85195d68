#include "services/coordinator/grpc_publisher.h"

#include <utility>

#include "absl/time/time.h"
#include "services/base/status_macros.h"
#include "services/rpc/rpc.h"
#include "shiftadd/v1/package.grpc.pb.h"

namespace shiftadd::coordinator {
namespace {

constexpr absl::Duration kTimeout = absl::Seconds(30);
// Publishing syncs a manifest and an index to disk.
constexpr absl::Duration kPublishTimeout = absl::Minutes(2);

class GrpcPublisher : public Publisher {
 public:
  explicit GrpcPublisher(std::shared_ptr<grpc::Channel> channel)
      : stub_(v1::PackageService::NewStub(std::move(channel))) {}

  absl::StatusOr<std::string> Publish(const v1::PublishPackageRequest& request) override {
    grpc::ClientContext context;
    rpc::SetDeadline(&context, kPublishTimeout);
    v1::Package package;
    SA_RETURN_IF_ERROR(rpc::FromGrpc(stub_->PublishPackage(&context, request, &package)));
    return package.digest();
  }

  absl::Status Pin(const std::string& owner, const std::vector<std::string>& digests) override {
    grpc::ClientContext context;
    rpc::SetDeadline(&context, kTimeout);
    v1::PinBlobsRequest request;
    request.set_owner(owner);
    for (const std::string& digest : digests) request.add_digests(digest);
    google::protobuf::Empty response;
    return rpc::FromGrpc(stub_->PinBlobs(&context, request, &response));
  }

  absl::Status Unpin(const std::string& owner) override {
    grpc::ClientContext context;
    rpc::SetDeadline(&context, kTimeout);
    v1::UnpinBlobsRequest request;
    request.set_owner(owner);
    google::protobuf::Empty response;
    const absl::Status status = rpc::FromGrpc(stub_->UnpinBlobs(&context, request, &response));
    return absl::IsNotFound(status) ? absl::OkStatus() : status;
  }

  absl::StatusOr<uint64_t> BlobSize(const std::string& digest) override {
    grpc::ClientContext context;
    rpc::SetDeadline(&context, kTimeout);
    v1::StatBlobRequest request;
    request.set_digest(digest);
    v1::StatBlobResponse response;
    SA_RETURN_IF_ERROR(rpc::FromGrpc(stub_->StatBlob(&context, request, &response)));
    return response.size();
  }

 private:
  const std::unique_ptr<v1::PackageService::Stub> stub_;
};

}  // namespace

std::unique_ptr<Publisher> MakeGrpcPublisher(std::shared_ptr<grpc::Channel> channel) {
  return std::make_unique<GrpcPublisher>(std::move(channel));
}

}  // namespace shiftadd::coordinator
