// The store over a real docker-registry: the suite of every store, and what only a registry has.
#include "services/blob/registry_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "services/base/digest.h"
#include "services/blob/blob_store_conformance.h"
#include "services/blob/testing/registry_process.h"

namespace shiftadd {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using testing::RegistryConfig;
using testing::RegistryProcess;

// Small, so that chunks are seen.
blob::RegistryOptions Options() {
  blob::RegistryOptions options;
  options.chunk_bytes = 1 << 20;
  options.first_pause = absl::Milliseconds(1);
  return options;
}

// One for the program; repositories keep the tests apart.
RegistryProcess* Shared() {
  static const std::unique_ptr<RegistryProcess> registry =
      RegistryProcess::IsInstalled() ? RegistryProcess::Start() : nullptr;
  return registry.get();
}

absl::StatusOr<std::unique_ptr<BlobStore>> OpenShared(const std::string& place) {
  return OpenRegistry(absl::StrCat(Shared()->url(), "/tests/", Sha256Digest(place).substr(7, 16)),
                      Options());
}

std::vector<BlobStoreFactory> Factories() {
  if (Shared() == nullptr) return {};
  return {{"registry", OpenShared}};
}
INSTANTIATE_TEST_SUITE_P(Registry, BlobStoreConformance, ::testing::ValuesIn(Factories()),
                         [](const auto& info) { return info.param.name; });

class Registry : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!RegistryProcess::IsInstalled()) GTEST_SKIP() << "no docker-registry";
  }
  std::unique_ptr<RegistryProcess> Start(const RegistryConfig& config = {}) {
    auto registry = RegistryProcess::Start(config);
    EXPECT_NE(registry, nullptr);
    return registry;
  }
  static std::unique_ptr<BlobStore> Open(const RegistryProcess& registry,
                                         const blob::RegistryOptions& options = Options()) {
    auto store = OpenRegistry(registry.url() + "/team/x", options);
    EXPECT_TRUE(store.ok()) << store.status();
    return *std::move(store);
  }
  static bool OnDisk(const RegistryProcess& registry, const std::string& digest) {
    const std::string hex = digest.substr(7);
    return std::filesystem::exists(absl::StrCat(registry.dir(),
                                                "/data/docker/registry/v2/blobs/sha256/",
                                                hex.substr(0, 2), "/", hex, "/data"));
  }
};

TEST_F(Registry, ManyClientsBeginAFreshRepositoryAtOnce) {
  const auto registry = Start();
  for (int round = 0; round < 5; ++round) {
    std::vector<std::thread> clients;
    for (int c = 0; c < 8; ++c) {
      clients.emplace_back([&, c] {
        const auto store =
            OpenRegistry(absl::StrCat(registry->url(), "/fresh/r", round), Options()).value();
        const auto digest = store->Put(absl::StrCat("blob ", c));
        ASSERT_TRUE(digest.ok()) << digest.status();
        EXPECT_TRUE(store->Get(*digest).ok());
      });
    }
    for (std::thread& client : clients) client.join();
  }
}

TEST_F(Registry, ItsOwnCollectionSparesWhatTheStoreHoldsAndTakesTheRest) {
  const auto registry = Start();
  const auto store = Open(*registry);
  const std::string kept = store->Put("kept").value();
  const std::string renewed = store->Put("renewed").value();
  ASSERT_TRUE(store->Renew(renewed).ok());
  const std::string gone = store->Put("gone").value();
  ASSERT_TRUE(store->Put("gone").ok());  // twice: the first manifest must hold nothing any more
  const std::string scratch = store->PutScratch("job", "scratch").value();
  ASSERT_TRUE(store->Delete(gone).ok());
  ASSERT_TRUE(registry->CollectGarbage());
  EXPECT_TRUE(OnDisk(*registry, kept));
  EXPECT_TRUE(OnDisk(*registry, renewed));
  EXPECT_TRUE(OnDisk(*registry, scratch));
  EXPECT_FALSE(OnDisk(*registry, gone));
  ASSERT_TRUE(store->DeleteScratch("job").ok());
  ASSERT_TRUE(registry->CollectGarbage());
  EXPECT_FALSE(OnDisk(*registry, scratch));
  // A registry remembers what it had until it starts again.
  ASSERT_TRUE(registry->Restart());
  EXPECT_EQ(store->Get(kept).value(), "kept");
  EXPECT_EQ(store->Put("gone").value(), gone);
  EXPECT_EQ(store->Get(gone).value(), "gone");
}

// A package of one layer in `store`; gives its manifest's digest.
std::string PutPackage(BlobStore* store, const std::string& name, const std::string& bytes) {
  const std::string layer = store->Put(bytes).value(), config = store->Put("{\"a\":1}").value();
  const json manifest = {
      {"schemaVersion", 2},
      {"mediaType", "application/vnd.oci.image.manifest.v1+json"},
      {"config", {{"mediaType", "application/json"}, {"digest", config}, {"size", 7}}},
      {"layers",
       json::array({{{"mediaType", "application/x"}, {"digest", layer}, {"size", bytes.size()}}})}};
  const std::string digest = store->Put(manifest.dump()).value();
  const absl::Status tagged =
      store->PutTag(name, {{"mediaType", "application/vnd.oci.image.manifest.v1+json"},
                           {"digest", digest},
                           {"size", manifest.dump().size()}});
  EXPECT_TRUE(tagged.ok()) << tagged;
  return digest;
}

TEST_F(Registry, ATagIsSeenByOtherToolsAndAloneWhenItsTwinGoes) {
  const auto registry = Start();
  const auto store = Open(*registry);
  const std::string digest = PutPackage(store.get(), "org/m:v1", "layer");
  EXPECT_EQ(PutPackage(store.get(), "org/m:latest", "layer"), digest);
  blob::RegistryClient plain(registry->url(), Options());
  EXPECT_EQ(Sha256Digest(plain.GetManifest("team/x/org/m", "v1").value()), digest);
  EXPECT_TRUE(plain.HasBlob("team/x/org/m", Sha256Digest("layer")).value());
  ASSERT_TRUE(store->DeleteTag("org/m:v1").ok());
  EXPECT_TRUE(absl::IsNotFound(plain.GetManifest("team/x/org/m", "v1").status()));
  EXPECT_EQ(Sha256Digest(plain.GetManifest("team/x/org/m", "latest").value()), digest);
  EXPECT_EQ(store->ListTags()->size(), 1u);
  ASSERT_TRUE(store->DeleteTag("org/m:latest").ok());
  EXPECT_TRUE(absl::IsNotFound(plain.GetManifest("team/x/org/m", digest).status()));
}

TEST_F(Registry, LargeBlobsGoInChunksThroughAWriter) {
  const auto registry = Start();
  const auto store = Open(*registry);
  std::string data;
  for (int i = 0; i < 700'000; ++i) absl::StrAppend(&data, i % 10007);
  auto writer = store->NewWriter().value();
  for (size_t at = 0; at < data.size(); at += 300'000) {
    ASSERT_TRUE(writer->Append(absl::string_view(data).substr(at, 300'000)).ok());
  }
  EXPECT_EQ(writer->Commit("").value(), Sha256Digest(data));
  EXPECT_EQ(store->Get(Sha256Digest(data)).value(), data);
  EXPECT_EQ(store->ReadRange(Sha256Digest(data), 1'500'000, 10).value(),
            data.substr(1'500'000, 10));
}

TEST_F(Registry, BasicAuthentication) {
  // tester:secret, bcrypt at cost 4
  std::string pattern = ::testing::TempDir() + "/htpasswd-XXXXXX";
  ASSERT_GE(mkstemp(pattern.data()), 0);
  std::ofstream(pattern) << "tester:$2a$04$h9cdApcwxrS3qaM2GqsdX.KaSQCmvKjxCvdLNwPueHL8i4tgH.AOu\n";
  RegistryConfig config;
  config.auth = absl::StrCat("  htpasswd: {realm: tests, path: ", pattern, "}");
  const auto registry = Start(config);
  const auto anonymous = Open(*registry);
  const absl::Status refused = anonymous->Put("x").status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnauthenticated) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("SHIFTADD_REGISTRY_AUTH_FILE"));
  blob::RegistryOptions options = Options();
  options.user = "tester";
  options.password = "wrong";
  EXPECT_EQ(Open(*registry, options)->Put("x").status().code(), absl::StatusCode::kUnauthenticated);
  options.password = "secret";
  const auto store = Open(*registry, options);
  EXPECT_EQ(store->Get(store->Put("x").value()).value(), "x");
  std::filesystem::remove(pattern);
}

TEST_F(Registry, TlsWithAnAuthorityOfItsOwn) {
  std::string dir = ::testing::TempDir() + "/tls-XXXXXX";
  ASSERT_NE(mkdtemp(dir.data()), nullptr);
  const std::string make = absl::StrCat(
      "cd ", dir,
      " && openssl req -x509 -newkey ed25519 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.pem"
      " && openssl req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout key.pem -out csr.pem"
      " && printf 'subjectAltName=DNS:localhost' >ext && openssl x509 -req -in csr.pem -CA ca.pem"
      " -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out cert.pem");
  ASSERT_EQ(std::system(absl::StrCat("( ", make, " ) >/dev/null 2>&1").c_str()), 0);
  RegistryConfig config;
  config.certificate = dir + "/cert.pem";
  config.key = dir + "/key.pem";
  const auto registry = Start(config);
  const absl::Status untrusted = Open(*registry)->Put("x").status();
  EXPECT_EQ(untrusted.code(), absl::StatusCode::kFailedPrecondition) << untrusted;
  EXPECT_THAT(std::string(untrusted.message()), HasSubstr("certificate"));
  blob::RegistryOptions options = Options();
  options.http.ca_file = dir + "/ca.pem";
  const auto store = Open(*registry, options);
  EXPECT_EQ(store->Get(store->Put("x").value()).value(), "x");
  std::filesystem::remove_all(dir);
}

TEST_F(Registry, OneThatDoesNotDeleteSaysHowItWould) {
  RegistryConfig config;
  config.can_delete = false;
  const auto registry = Start(config);
  const auto store = Open(*registry);
  const std::string digest = store->Put("x").value();
  const absl::Status status = store->Delete(digest);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("storage.delete.enabled"));
  EXPECT_EQ(store->Renew(digest).value(), 1u);
}

TEST_F(Registry, OneThatIsDownIsUnavailableAndComesBack) {
  const auto registry = Start();
  blob::RegistryOptions options = Options();
  options.attempts = 2;
  const auto store = Open(*registry, options);
  const std::string digest = store->Put("x").value();
  registry->Stop();
  const absl::Status down = store->Get(digest).status();
  EXPECT_EQ(down.code(), absl::StatusCode::kUnavailable) << down;
  EXPECT_THAT(std::string(down.message()), HasSubstr(registry->url()));
  ASSERT_TRUE(registry->Restart());
  EXPECT_EQ(store->Get(digest).value(), "x");
}

TEST(RegistryUrl, IsChecked) {
  for (const char* url : {"http://", "http://h", "http://h/", "http:///x", "http://h/Upper",
                          "http://h/a//b", "http://h/-a", "http://h/a b", "ftp", "http://h/a..b"}) {
    EXPECT_EQ(OpenRegistry(url, {}).status().code(), absl::StatusCode::kInvalidArgument) << url;
  }
  EXPECT_TRUE(OpenRegistry("https://h:5000/a/b-c_d.e/", {}).ok());
  EXPECT_TRUE(IsRegistry("https://h/a"));
  EXPECT_FALSE(IsRegistry("/var/lib/http"));
}

}  // namespace
}  // namespace shiftadd
