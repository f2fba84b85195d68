#include "services/packaging/package_client.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/base/digest.h"
#include "services/base/status_macros.h"
#include "services/rpc/failover.h"
#include "services/rpc/rpc.h"
#include "shiftadd/v1/package.grpc.pb.h"

namespace shiftadd {
namespace {

using v1::PackageService;

constexpr int kPageSize = 200;
constexpr size_t kChunkBytes = 1u << 20;

class Client : public PackageClient {
 public:
  Client(const std::string& addresses, const PackageClientOptions& options)
      : options_(options), packagers_(addresses) {}

  absl::StatusOr<std::string> Resolve(const std::string& reference) override {
    v1::ResolveReferenceRequest request;
    request.set_reference(reference);
    SA_ASSIGN_OR_RETURN(auto response, Call<v1::ResolveReferenceResponse>(
                                           &PackageService::Stub::ResolveReference, request));
    return response.digest();
  }

  absl::StatusOr<v1::Package> Get(const std::string& reference) override {
    v1::GetPackageRequest request;
    request.set_reference(reference);
    return Call<v1::Package>(&PackageService::Stub::GetPackage, request);
  }

  absl::StatusOr<std::vector<v1::Package>> List() override {
    std::vector<v1::Package> packages;
    v1::ListPackagesRequest request;
    request.set_page_size(kPageSize);
    do {
      SA_ASSIGN_OR_RETURN(
          auto page, Call<v1::ListPackagesResponse>(&PackageService::Stub::ListPackages, request));
      for (v1::Package& package : *page.mutable_packages()) packages.push_back(std::move(package));
      request.set_page_token(page.next_page_token());
    } while (!request.page_token().empty());
    return packages;
  }

  absl::StatusOr<v1::Package> Publish(const v1::PublishPackageRequest& request) override {
    return Call<v1::Package>(&PackageService::Stub::PublishPackage, request);
  }

  absl::StatusOr<std::string> Attach(const std::string& reference, const std::string& media_type,
                                     const std::string& document_json) override {
    v1::AttachDocumentRequest request;
    request.set_reference(reference);
    request.set_media_type(media_type);
    request.set_document_json(document_json);
    SA_ASSIGN_OR_RETURN(const auto response, Call<v1::AttachDocumentResponse>(
                                                 &PackageService::Stub::AttachDocument, request));
    return response.digest();
  }

  absl::StatusOr<v1::Package> Tag(const std::string& source, const std::string& target,
                                  const std::string& expected_digest,
                                  const std::string& owner) override {
    v1::TagPackageRequest request;
    request.set_source(source);
    request.set_target(target);
    request.set_expected_digest(expected_digest);
    request.set_owner(owner);
    return Call<v1::Package>(&PackageService::Stub::TagPackage, request);
  }

  absl::Status Delete(const std::string& reference) override {
    v1::DeletePackageRequest request;
    request.set_reference(reference);
    return Call<google::protobuf::Empty>(&PackageService::Stub::DeletePackage, request).status();
  }

  absl::StatusOr<std::vector<v1::Replica>> ListReplicas(const std::string& reference) override {
    v1::ListReplicasRequest request;
    request.set_reference(reference);
    SA_ASSIGN_OR_RETURN(const auto response, Call<v1::ListReplicasResponse>(
                                                 &PackageService::Stub::ListReplicas, request));
    return std::vector<v1::Replica>(response.replicas().begin(), response.replicas().end());
  }

  absl::StatusOr<v1::CollectGarbageResponse> CollectGarbage(bool dry_run) override {
    v1::CollectGarbageRequest request;
    request.set_dry_run(dry_run);
    return Call<v1::CollectGarbageResponse>(&PackageService::Stub::CollectGarbage, request);
  }

  absl::Status Pin(const std::string& owner, const std::vector<std::string>& digests,
                   absl::Time expire_time) override {
    v1::PinBlobsRequest request;
    request.set_owner(owner);
    for (const std::string& digest : digests) request.add_digests(digest);
    if (expire_time != absl::InfiniteFuture()) {
      request.mutable_expire_time()->set_seconds(absl::ToUnixSeconds(expire_time));
    }
    return Call<google::protobuf::Empty>(&PackageService::Stub::PinBlobs, request).status();
  }

  absl::Status Unpin(const std::string& owner) override {
    v1::UnpinBlobsRequest request;
    request.set_owner(owner);
    return Call<google::protobuf::Empty>(&PackageService::Stub::UnpinBlobs, request).status();
  }

  absl::StatusOr<uint64_t> StatBlob(const std::string& digest) override {
    v1::StatBlobRequest request;
    request.set_digest(digest);
    SA_ASSIGN_OR_RETURN(auto response,
                        Call<v1::StatBlobResponse>(&PackageService::Stub::StatBlob, request));
    return response.size();
  }

  absl::StatusOr<std::string> ReadBlob(const std::string& digest) override {
    std::string data;
    SA_RETURN_IF_ERROR(ReadBlob(digest, [&data](absl::string_view part) {
      data.append(part.data(), part.size());
      return absl::OkStatus();
    }));
    return data;
  }

  absl::Status ReadBlob(const std::string& digest,
                        const std::function<absl::Status(absl::string_view)>& sink) override {
    bool begun = false;  // what `sink` has taken cannot be taken back
    return Stream([&](const Packagers::Target& packager, bool* again) {
      const absl::Status status = ReadOnce(packager, digest, sink, &begun);
      *again = !begun;
      return status;
    });
  }

  absl::StatusOr<std::string> WriteBlob(absl::string_view data) override {
    const std::string digest = Sha256Digest(data);
    const absl::StatusOr<uint64_t> there = StatBlob(digest);
    if (there.ok() && *there == data.size()) return digest;
    if (!there.ok() && !absl::IsNotFound(there.status())) return there.status();
    SA_RETURN_IF_ERROR(Stream([&](const Packagers::Target& packager, bool* again) {
      *again = true;
      return WriteOnce(packager, digest, data);
    }));
    return digest;
  }

 private:
  using Packagers = rpc::Failover<PackageService>;

  // One stream; over again with the next packager where one is away and `work` allows it.
  absl::Status Stream(
      const std::function<absl::Status(const Packagers::Target&, bool* again)>& work) const {
    while (true) {
      const Packagers::Target packager = packagers_.target();
      bool again = false;
      const absl::Status status = work(packager, &again);
      if (!packagers_.Note(packager, status) || !again) return Named(status);
    }
  }

  static absl::Status ReadOnce(const Packagers::Target& packager, const std::string& digest,
                               const std::function<absl::Status(absl::string_view)>& sink,
                               bool* begun) {
    grpc::ClientContext context;
    v1::ReadBlobRequest request;
    request.set_digest(digest);
    const auto reader = packager.stub->ReadBlob(&context, request);
    v1::ReadBlobResponse response;
    Sha256 hash;
    while (reader->Read(&response)) {
      *begun = true;
      hash.Update(response.data().data(), response.data().size());
      if (absl::Status taken = sink(response.data()); !taken.ok()) {
        context.TryCancel();
        reader->Finish();
        return taken;
      }
    }
    SA_RETURN_IF_ERROR(rpc::FromGrpc(reader->Finish()));
    const std::string found = hash.Finish();
    if (found == digest) return absl::OkStatus();
    return absl::DataLossError(absl::StrCat("blob from ", packager.address, ": expected digest ",
                                            digest, ", found ", found));
  }

  static absl::Status WriteOnce(const Packagers::Target& packager, const std::string& digest,
                                absl::string_view data) {
    grpc::ClientContext context;
    v1::WriteBlobResponse response;
    const auto writer = packager.stub->WriteBlob(&context, &response);
    v1::WriteBlobRequest request;
    request.set_digest(digest);
    do {  // at least one message, also for an empty blob
      const size_t size = std::min(kChunkBytes, data.size());
      request.set_data(data.data(), size);
      data.remove_prefix(size);
      if (!writer->Write(request)) break;  // Finish says why
      request.clear_digest();
    } while (!data.empty());
    writer->WritesDone();
    return rpc::FromGrpc(writer->Finish());
  }

  template <typename Response, typename Method, typename Request>
  absl::StatusOr<Response> Call(Method method, const Request& request) const {
    Response response;
    SA_RETURN_IF_ERROR(Named(packagers_.Call(method, request, &response, options_.timeout)));
    return response;
  }

  absl::Status Named(const absl::Status& status) const {
    if (!absl::IsUnavailable(status)) return status;
    return Annotate(status, absl::StrCat("packager at ", packagers_.names()));
  }

  const PackageClientOptions options_;
  const Packagers packagers_;
};

}  // namespace

std::unique_ptr<PackageClient> PackageClient::Connect(const std::string& addresses,
                                                      const PackageClientOptions& options) {
  return std::make_unique<Client>(addresses, options);
}

}  // namespace shiftadd
