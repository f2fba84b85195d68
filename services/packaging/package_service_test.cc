// PackageService end to end: a real server on a free port, and the client library.
#include "services/packaging/package_service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "services/base/digest.h"
#include "services/packaging/package_client.h"
#include "services/packaging/packaging_test_util.h"
#include "services/rpc/security.h"
#include "shiftadd/v1/package.grpc.pb.h"

namespace shiftadd::packaging {
namespace {

using absl::StatusCode;
using testing::HasSubstr;

class PackageServiceTest : public PackagerFixture {
 protected:
  void SetUp() override {
    PackagerFixture::SetUp();
    service_ = MakePackageService(packager_.get());
    server_ = rpc::Server::Start({"127.0.0.1:0", false}, {service_.get()}).value();
    address_ = absl::StrCat("127.0.0.1:", server_->port());
    client_ = PackageClient::Connect(address_);
    stub_ = v1::PackageService::NewStub(rpc::MakeChannel(address_));
  }
  void TearDown() override {
    server_.reset();
    PackagerFixture::TearDown();
  }

  static v1::PublishPackageRequest ToRequest(const PublishSpec& spec) {
    v1::PublishPackageRequest request;
    request.set_reference(spec.reference);
    request.set_config_json(spec.config_json);
    request.set_provenance_json(spec.provenance_json);
    for (const std::string& document : spec.signatures_json) request.add_signature_json(document);
    for (const std::string& document : spec.evaluations_json) request.add_evaluation_json(document);
    for (const Descriptor& layer : spec.layers) {
      v1::Descriptor* d = request.add_layers();
      d->set_media_type(layer.media_type);
      d->set_digest(layer.digest);
      d->set_size(layer.size);
      d->mutable_annotations()->insert(layer.annotations.begin(), layer.annotations.end());
    }
    return request;
  }

  std::unique_ptr<grpc::Service> service_;
  std::unique_ptr<rpc::Server> server_;
  std::string address_;
  std::unique_ptr<PackageClient> client_;
  std::unique_ptr<v1::PackageService::Stub> stub_;
};

TEST_F(PackageServiceTest, PublishTagListDelete) {
  PublishSpec spec = Spec("m:latest");
  spec.signatures_json = {R"({"by":"a"})", R"({"by":"b"})"};
  spec.evaluations_json = {R"({"kl":1})"};
  const v1::Package published = client_->Publish(ToRequest(spec)).value();
  EXPECT_EQ(published.tag(), "latest");
  EXPECT_EQ(published.config_json(), "");
  EXPECT_NEAR(static_cast<double>(published.publish_time().seconds()),
              static_cast<double>(absl::ToUnixSeconds(clock_.Now())), 1);
  EXPECT_EQ(client_->Resolve("m:latest").value(), published.digest());
  const v1::Package got = client_->Get("m@" + published.digest()).value();
  EXPECT_EQ(Sha256Digest(got.manifest_json()), published.digest());
  EXPECT_EQ(Sha256Digest(got.config_json()), got.config().digest());
  EXPECT_EQ(got.provenance_json(), R"({"job":"job-1"})");
  ASSERT_EQ(got.signature_json_size(), 2);
  EXPECT_EQ(got.signature_json(1), spec.signatures_json[1]);
  ASSERT_EQ(got.evaluation_json_size(), 1);
  EXPECT_EQ(got.evaluation_json(0), spec.evaluations_json[0]);
  ASSERT_EQ(got.layers_size(), 4);
  EXPECT_EQ(got.layers(1).annotations().at("org.opencontainers.image.title"), "head");
  EXPECT_EQ(client_->Tag("m:latest", "n:v1").value().name(), "n");
  ASSERT_EQ(client_->List()->size(), 2u);
  EXPECT_EQ(client_->List()->at(1).name(), "n");
  EXPECT_TRUE(client_->Delete("n:v1").ok());
  EXPECT_EQ(client_->List()->size(), 1u);
}

TEST_F(PackageServiceTest, ErrorsArriveWithTheirCodes) {
  EXPECT_EQ(client_->Get("m:latest").status().code(), StatusCode::kNotFound);
  EXPECT_EQ(client_->Get("M").status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(client_->Resolve("m@sha256:1").status().code(), StatusCode::kInvalidArgument);
  v1::PublishPackageRequest request = ToRequest(Spec("m:latest"));
  request.set_expected_digest(Sha256Digest("x"));
  EXPECT_EQ(client_->Publish(request).status().code(), StatusCode::kAborted);
  EXPECT_EQ(client_->Publish(ToRequest(SpecOnly("m:latest", "absent"))).status().code(),
            StatusCode::kFailedPrecondition);
  const absl::Status invalid = client_->Publish({}).status();
  EXPECT_EQ(invalid.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(invalid.message()), HasSubstr("reference: "));
  EXPECT_TRUE(invalid.GetPayload(rpc::kBadRequestTypeUrl).has_value());
}

TEST_F(PackageServiceTest, BlobsGoInAndOut) {
  std::string large(3'500'000, '\0');
  for (size_t i = 0; i < large.size(); ++i) large[i] = static_cast<char>(i * 31 >> 3);
  for (const std::string& data : {std::string(), std::string("x"), large}) {
    const std::string digest = client_->WriteBlob(data).value();
    EXPECT_EQ(digest, Sha256Digest(data));
    EXPECT_EQ(client_->WriteBlob(data).value(), digest);  // again
    EXPECT_EQ(client_->StatBlob(digest).value(), data.size());
    EXPECT_EQ(client_->ReadBlob(digest).value(), data);
    EXPECT_EQ(blobs_->Get(digest).value(), data);
  }
  EXPECT_EQ(client_->ReadBlob(Sha256Digest("y")).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(client_->StatBlob("y").status().code(), StatusCode::kInvalidArgument);
  const absl::Status stopped = client_->ReadBlob(
      Sha256Digest(large), [](absl::string_view) { return absl::CancelledError("enough"); });
  EXPECT_EQ(stopped.code(), StatusCode::kCancelled);
}

TEST_F(PackageServiceTest, ReadBlobGivesRanges) {
  const std::string digest = client_->WriteBlob("0123456789").value();
  const auto read = [&](uint64_t offset, uint64_t length) {
    grpc::ClientContext context;
    v1::ReadBlobRequest request;
    request.set_digest(digest);
    request.set_offset(offset);
    request.set_length(length);
    const auto reader = stub_->ReadBlob(&context, request);
    v1::ReadBlobResponse response;
    std::string data;
    while (reader->Read(&response)) data += response.data();
    const grpc::Status status = reader->Finish();
    return status.ok() ? data : absl::StrCat("error ", status.error_code());
  };
  EXPECT_EQ(read(0, 0), "0123456789");
  EXPECT_EQ(read(4, 2), "45");
  EXPECT_EQ(read(8, 100), "89");
  EXPECT_EQ(read(10, 0), "");
  EXPECT_EQ(read(11, 0), "error 11");
}

TEST_F(PackageServiceTest, ADamagedBlobIsDataLossAtTheClient) {
  const std::string digest = client_->WriteBlob("precious").value();
  std::ofstream(dir_ + "/blobs/blobs/sha256/" + digest.substr(7), std::ios::trunc) << "previous";
  EXPECT_EQ(client_->ReadBlob(digest).status().code(), StatusCode::kDataLoss);
}

TEST_F(PackageServiceTest, BadWritesStoreNothing) {
  const auto write = [&](const std::vector<std::pair<std::string, std::string>>& messages) {
    grpc::ClientContext context;
    v1::WriteBlobResponse response;
    const auto writer = stub_->WriteBlob(&context, &response);
    for (const auto& [digest, data] : messages) {
      v1::WriteBlobRequest request;
      request.set_digest(digest);
      request.set_data(data);
      if (!writer->Write(request)) break;
    }
    writer->WritesDone();
    return writer->Finish().error_code();
  };
  EXPECT_EQ(write({}), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(write({{"sha256:1", "x"}}), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(write({{Sha256Digest("x"), "y"}}), grpc::StatusCode::DATA_LOSS);
  EXPECT_EQ(write({{"", "x"}, {Sha256Digest("xy"), "y"}}), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_TRUE(blobs_->List()->empty());
  EXPECT_EQ(write({{"", "x"}, {"", "y"}}), grpc::StatusCode::OK);
  EXPECT_EQ(blobs_->List().value(), std::vector<std::string>{Sha256Digest("xy")});
}

TEST_F(PackageServiceTest, PinsAndGarbage) {
  const std::string digest = client_->WriteBlob("pinned").value();
  ASSERT_TRUE(client_->Pin("job-1", {digest}, clock_.Now() + absl::Hours(1)).ok());
  AgeBlobs();
  EXPECT_EQ(client_->CollectGarbage(true)->blobs(), 0u);
  ASSERT_TRUE(client_->Unpin("job-1").ok());
  EXPECT_EQ(client_->CollectGarbage(true)->blobs(), 1u);
  EXPECT_EQ(client_->StatBlob(digest).value(), 6u);  // who asks is about to name it
  EXPECT_EQ(client_->CollectGarbage(false)->blobs(), 0u);
  AgeBlobs();
  EXPECT_EQ(client_->CollectGarbage(false)->bytes(), 6u);
  EXPECT_EQ(client_->StatBlob(digest).status().code(), StatusCode::kNotFound);
}

// Over a server that asks who calls: ann and bob are users, root an admin, coo a coordinator.
class TagOwnersTest : public PackageServiceTest {
 protected:
  void SetUp() override {
    PackagerFixture::SetUp();
    std::ofstream tokens(dir_ + "/tokens");
    for (const auto& [name, role] : std::vector<std::pair<std::string, std::string>>{
             {"ann", "user"}, {"bob", "user"}, {"root", "admin"}, {"coo", "coordinator"}}) {
      tokens << name << " " << role << " " << Sha256Digest("sat_" + name) << "\n";
      std::ofstream(dir_ + "/" + name + ".token") << "sat_" << name << "\n";
    }
    tokens.close();
    access::AccessOptions asked;
    asked.tokens = access::TokenFile::Open(dir_ + "/tokens").value();
    access_ = access::Access::Create(asked);
    service_ = MakePackageService(packager_.get(), access_.get());
    rpc::ServerOptions options;
    options.address = "127.0.0.1:0";
    options.access = access_;
    server_ = rpc::Server::Start(options, {service_.get()}).value();
    address_ = absl::StrCat("127.0.0.1:", server_->port());
  }

  absl::StatusOr<v1::Package> Publish(const std::string& name, const std::string& variant,
                                      const std::string& owner = "") {
    v1::PublishPackageRequest request = ToRequest(Spec("m:latest", variant));
    request.set_owner(owner);
    grpc::ClientContext context;
    v1::Package package;
    const grpc::Status status = As(name)->PublishPackage(&context, request, &package);
    if (!status.ok()) return rpc::FromGrpc(status);
    return package;
  }
  absl::StatusOr<v1::Package> Tag(const std::string& name, const std::string& target,
                                  const std::string& owner = "") {
    v1::TagPackageRequest request;
    request.set_source("m:latest");
    request.set_target(target);
    request.set_owner(owner);
    grpc::ClientContext context;
    v1::Package package;
    const grpc::Status status = As(name)->TagPackage(&context, request, &package);
    if (!status.ok()) return rpc::FromGrpc(status);
    return package;
  }

 private:
  std::unique_ptr<v1::PackageService::Stub> As(const std::string& name) {
    return v1::PackageService::NewStub(
        rpc::MakeChannel(address_, rpc::ClientSecurity{{}, dir_ + "/" + name + ".token"}));
  }
  std::shared_ptr<access::Access> access_;
};

TEST_F(TagOwnersTest, ATagIsHisForWhomItWasPublished) {
  // A coordinator publishes for its jobs' owners, whose names it vouches for.
  const auto first = Publish("coo", "a", "ann");
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(first->owner(), "ann");
  const auto theirs = Publish("coo", "b", "bob");
  EXPECT_EQ(theirs.status().code(), StatusCode::kPermissionDenied);
  EXPECT_THAT(std::string(theirs.status().message()), HasSubstr("m:latest belongs to ann"));
  // One that names no owner has no right to others' tags.
  EXPECT_EQ(Publish("coo", "b").status().code(), StatusCode::kPermissionDenied);
  EXPECT_EQ(Publish("bob", "b").status().code(), StatusCode::kPermissionDenied);
  // Saying that one is another does not help.
  EXPECT_EQ(Publish("bob", "b", "ann").status().code(), StatusCode::kPermissionDenied);
  EXPECT_EQ(Tag("bob", "m:latest").status().code(), StatusCode::kPermissionDenied);
  EXPECT_EQ(Publish("ann", "b")->owner(), "ann");
  EXPECT_EQ(Publish("ann", "a", "ann")->digest(), first->digest());
}

TEST_F(TagOwnersTest, OnlyAnAdminMovesOthersTagsAndGivesThemAway) {
  ASSERT_TRUE(Publish("ann", "a").ok());
  EXPECT_EQ(Publish("root", "b")->owner(), "ann");
  EXPECT_EQ(Tag("root", "n:v1")->owner(), "root");
  EXPECT_EQ(Tag("ann", "n:v1").status().code(), StatusCode::kPermissionDenied);
  EXPECT_EQ(Tag("bob", "bob:v1", "ann").status().code(), StatusCode::kPermissionDenied);
  EXPECT_EQ(Tag("root", "m:latest", "no name").status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(Tag("root", "m:latest", "bob")->owner(), "bob");
  EXPECT_EQ(Publish("ann", "a").status().code(), StatusCode::kPermissionDenied);
  EXPECT_TRUE(Publish("bob", "a").ok());
}

TEST_F(PackageServiceTest, WhereNobodyIsAskedTagsHaveNoOwners) {
  v1::PublishPackageRequest request = ToRequest(Spec("m:latest"));
  request.set_owner("ann");  // of a coordinator that does ask
  EXPECT_EQ(client_->Publish(request)->owner(), "");
  EXPECT_EQ(client_->Tag("m:latest", "n:v1", "", "ann").status().code(),
            StatusCode::kFailedPrecondition);
}

TEST_F(PackageServiceTest, NoPackagerIsUnavailableAndNamed) {
  server_->Shutdown(absl::ZeroDuration());
  const absl::Status status = client_->Resolve("m:latest").status();
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr(address_));
}

}  // namespace
}  // namespace shiftadd::packaging
