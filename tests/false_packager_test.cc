// What a packager answers is not believed: a server takes a package only if its manifest has the
// digest and the config is the one the manifest names.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "services/base/digest.h"
#include "services/rpc/rpc.h"
#include "shiftadd/v1/package.grpc.pb.h"
#include "tests/cluster.h"
#include "tests/serving.h"
#include "worker/serve/package_source.h"

namespace shiftadd::testing {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using Change = std::function<void(v1::Package*)>;

// The real packager's answers with a change.
class FalsePackager : public v1::PackageService::Service {
 public:
  explicit FalsePackager(const std::string& address)
      : real_(PackageClient::Connect(address)),
        server_(*rpc::Server::Start({"127.0.0.1:0"}, {this})) {}
  std::string address() const { return absl::StrCat("127.0.0.1:", server_->port()); }
  void Apply(Change change) { change_ = std::move(change); }

  grpc::Status GetPackage(grpc::ServerContext*, const v1::GetPackageRequest* request,
                          v1::Package* response) override {
    const auto package = real_->Get(request->reference());
    if (!package.ok()) return rpc::ToGrpc(package.status());
    *response = *package;
    change_(response);
    return grpc::Status::OK;
  }
  grpc::Status ReadBlob(grpc::ServerContext*, const v1::ReadBlobRequest* request,
                        grpc::ServerWriter<v1::ReadBlobResponse>* writer) override {
    const auto blob = real_->ReadBlob(request->digest());
    if (!blob.ok()) return rpc::ToGrpc(blob.status());
    v1::ReadBlobResponse response;
    response.set_data(*blob);
    writer->Write(response);
    return grpc::Status::OK;
  }

 private:
  const std::unique_ptr<PackageClient> real_;
  Change change_;
  const std::unique_ptr<rpc::Server> server_;  // first to go: it calls this
};

class FalsePackagerTest : public ::testing::Test {
 protected:
  FalsePackagerTest()
      : digest_(serving_.Publish("tiny:v1", 1)), packager_(serving_.packager_address()) {
    location_.reference = "tiny:v1";
    location_.packager = packager_.address();
  }
  absl::Status Resolve(Change change) {
    packager_.Apply(std::move(change));
    return ResolvePackage(location_).status();
  }

  Serving serving_;
  const std::string digest_;
  FalsePackager packager_;
  PackageLocation location_;
};

// The config as JSON that parses and loads: other activations, so other text.
std::string ChangedConfig(const v1::Package& package) {
  json config = json::parse(package.config_json());
  config["architecture"]["rope_theta"] = 12345.0;
  return config.dump();
}

TEST_F(FalsePackagerTest, TheTruthIsTaken) {
  EXPECT_TRUE(Resolve([](v1::Package*) {}).ok());
  // Without its text the config is read as a blob.
  EXPECT_TRUE(Resolve([](v1::Package* p) { p->clear_config_json(); }).ok());
  location_.digest = digest_;
  EXPECT_TRUE(Resolve([](v1::Package*) {}).ok());
}

TEST_F(FalsePackagerTest, AChangedConfigIsRefused) {
  const absl::Status status =
      Resolve([](v1::Package* p) { p->set_config_json(ChangedConfig(*p)); });
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("tiny:v1: config: expected digest sha256:"));
  // The server says so and ends.
  const RunResult run =
      RunCommand({Binary("shiftadd-server"), "--packager", packager_.address(), "--package",
                  "tiny:v1", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"});
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_THAT(run.output, HasSubstr("config: expected digest"));
}

TEST_F(FalsePackagerTest, AChangedManifestIsRefused) {
  // One that agrees with the changed config: then it has not the digest.
  const absl::Status status = Resolve([](v1::Package* p) {
    const std::string config = ChangedConfig(*p);
    json manifest = json::parse(p->manifest_json());
    manifest["config"]["digest"] = Sha256Digest(config);
    p->set_manifest_json(manifest.dump());
    p->set_config_json(config);
  });
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("manifest: expected digest " + digest_));
  EXPECT_EQ(Resolve([](v1::Package* p) { p->clear_manifest_json(); }).code(),
            absl::StatusCode::kDataLoss);
}

TEST_F(FalsePackagerTest, AnotherPackageThanTheDigestAsksForIsRefused) {
  const std::string other = serving_.Publish("tiny:v2", 2);
  const auto swap = [&](v1::Package* p) { *p = *serving_.packages().Get("tiny:v2"); };
  EXPECT_TRUE(Resolve(swap).ok());  // what a tag names is the packager's to say
  location_.digest = digest_;
  EXPECT_THAT(std::string(Resolve(swap).message()), HasSubstr(other));
  EXPECT_EQ(Resolve(swap).code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace shiftadd::testing
