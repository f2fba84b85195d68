// Every RPC of every service, tried as everybody, on the real daemons.
#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "services/packaging/package_client.h"
#include "services/rpc/security.h"
#include "services/rpc/testing/generic_call.h"
#include "shiftadd/v1/generate.pb.h"
#include "shiftadd/v1/job.pb.h"
#include "shiftadd/v1/package.pb.h"
#include "shiftadd/v1/task.pb.h"
#include "tests/cluster.h"
#include "tests/serving.h"

namespace shiftadd::testing {
namespace {

using ::testing::HasSubstr;

// Who may call what, by hand: V viewer, U user, C client, W worker, O coordinator, S server,
// A admin; N whoever has nothing. What is missing here fails.
constexpr char kExpected[] = R"(
grpc.health.v1.Health/Check             N V U C W O S A
grpc.health.v1.Health/Watch             N V U C W O S A
grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo V U A
shiftadd.v1.JobService/SubmitJob          U A
shiftadd.v1.JobService/GetJob           V U A
shiftadd.v1.JobService/ListJobs         V U A
shiftadd.v1.JobService/WatchJob         V U A
shiftadd.v1.JobService/CancelJob          U A
shiftadd.v1.JobService/RetryJob           U A
shiftadd.v1.JobService/DeleteJob            A
shiftadd.v1.JobService/GetJobReport     V U A
shiftadd.v1.JobService/PlanBudget         U A
shiftadd.v1.JobService/PublishBudget      U A
shiftadd.v1.JobService/EvaluatePackage    U A
shiftadd.v1.JobService/ListWorkers      V U A
shiftadd.v1.JobService/GetClusterStatus V U A
shiftadd.v1.JobService/DrainWorker          A
shiftadd.v1.TaskService/LeaseTask             W A
shiftadd.v1.TaskService/RenewLease            W A
shiftadd.v1.TaskService/CompleteTask          W A
shiftadd.v1.TaskService/FailTask              W A
shiftadd.v1.PackageService/PublishPackage     U O A
shiftadd.v1.PackageService/GetPackage         V U W O S A
shiftadd.v1.PackageService/ListPackages       V U W O S A
shiftadd.v1.PackageService/ResolveReference   V U W O S A
shiftadd.v1.PackageService/WatchReference     S A
shiftadd.v1.PackageService/ListReplicas       V U A
shiftadd.v1.PackageService/AttachDocument     U O A
shiftadd.v1.PackageService/TagPackage         U A
shiftadd.v1.PackageService/DeletePackage      A
shiftadd.v1.PackageService/CollectGarbage     A
shiftadd.v1.PackageService/PinBlobs           O A
shiftadd.v1.PackageService/UnpinBlobs         O A
shiftadd.v1.PackageService/StatBlob           U W O S A
shiftadd.v1.PackageService/ReadBlob           U W O S A
shiftadd.v1.PackageService/WriteBlob          U W A
shiftadd.v1.GenerateService/Generate          C A
shiftadd.v1.GenerateService/Score             C A
shiftadd.v1.GenerateService/Tokenize          C A
shiftadd.v1.GenerateService/Detokenize        C A
shiftadd.v1.GenerateService/GetModelInfo      V U C A
)";

constexpr absl::Duration kTimeout = absl::Seconds(20);
constexpr const char* kRoles[] = {"none",   "viewer",      "user",   "client",
                                  "worker", "coordinator", "server", "admin"};

std::string Letter(const std::string& role) {
  static const auto& letters = *new std::map<std::string, std::string>{
      {"none", "N"},   {"viewer", "V"},      {"user", "U"},   {"client", "C"},
      {"worker", "W"}, {"coordinator", "O"}, {"server", "S"}, {"admin", "A"}};
  return letters.at(role);
}

std::map<std::string, std::set<std::string>> Expected() {
  std::map<std::string, std::set<std::string>> expected;
  for (const absl::string_view line : absl::StrSplit(kExpected, '\n', absl::SkipEmpty())) {
    std::vector<std::string> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
    expected["/" + words[0]].insert(words.begin() + 1, words.end());
  }
  return expected;
}

grpc::StatusCode Call(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
                      absl::Duration timeout, std::string* message) {
  const grpc::Status status = rpc::GenericCall(channel, method, timeout);
  *message = status.error_message();
  return status.error_code();
}

// A packager, a coordinator and a server with TLS, certificates of every role and a token of each.
class RolesTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = new std::string(NewTempDir("roles"));
    const RunResult made =
        RunCommand({absl::StrCat(SHIFTADD_SOURCE_DIR, "/deploy/certs.sh"), Certs()});
    ASSERT_EQ(made.exit_code, 0) << made.output;
    for (const std::string role : kRoles) {
      if (role == "none") continue;
      const RunResult token = RunCommand({Binary("shiftadd"), "token", role + "-by-token", "--role",
                                          role, "--tokens", *dir_ + "/tokens"});
      ASSERT_EQ(token.exit_code, 0) << token.output;
      WriteFile(*dir_ + "/" + role + ".token", token.output);
    }
    packager_ = Start("packager", {"--data-dir", *dir_ + "/packager", "--blobs", *dir_ + "/blobs"},
                      "packager", &packager_port_);
    coordinator_ = Start("coordinator",
                         {"--data-dir", *dir_ + "/coordinator", "--packager",
                          absl::StrCat("127.0.0.1:", packager_port_)},
                         "coordinator", &coordinator_port_);
    ASSERT_TRUE(rpc::SetClientSecurity({access::TlsFilesIn(Certs(), "admin"), ""}).ok());
    const auto packages = PackageClient::Connect(absl::StrCat("127.0.0.1:", packager_port_));
    PublishTiny(packages.get(), "tiny:v1", 1);
    server_ = Start("server",
                    {"--package", "tiny:v1", "--packager",
                     absl::StrCat("127.0.0.1:", packager_port_), "--threads", "1"},
                    "server", &server_port_);
  }
  static void TearDownTestSuite() {
    for (Process* process : {server_, coordinator_, packager_}) delete process;
    std::filesystem::remove_all(*dir_);
  }

  static std::string Certs() { return *dir_ + "/certs"; }

  static Process* Start(const std::string& name, const std::vector<std::string>& flags,
                        const std::string& role, int* port) {
    const std::string ports = absl::StrCat(*dir_, "/", name, ".ports"),
                      log = absl::StrCat(*dir_, "/", name, ".log");
    const access::TlsFiles tls = access::TlsFilesIn(Certs(), role);
    std::vector<std::string> command = {Binary("shiftadd-" + name),
                                        "--listen",
                                        "127.0.0.1:0",
                                        "--http",
                                        "127.0.0.1:0",
                                        "--port-file",
                                        ports,
                                        "--tls-cert",
                                        tls.cert,
                                        "--tls-key",
                                        tls.key,
                                        "--tls-ca",
                                        tls.ca,
                                        "--tokens",
                                        *dir_ + "/tokens"};
    command.insert(command.end(), flags.begin(), flags.end());
    auto* process = new Process(command, log);
    *port = WaitForPorts(ports, process, log)[0];
    return process;
  }

  // `role` "none": encrypted, and nothing more.
  static rpc::ClientSecurity ByCertificate(const std::string& role) {
    if (role == "none") return {{"", "", Certs() + "/ca.crt"}, ""};
    return {access::TlsFilesIn(Certs(), role), ""};
  }
  static rpc::ClientSecurity ByToken(const std::string& role) {
    if (role == "none") return ByCertificate(role);
    return {{"", "", Certs() + "/ca.crt"}, *dir_ + "/" + role + ".token"};
  }

  static int PortOf(const std::string& method) {
    if (absl::StrContains(method, "PackageService")) return packager_port_;
    if (absl::StrContains(method, "GenerateService")) return server_port_;
    return coordinator_port_;
  }

  // Every method of the services' descriptors, and of the two that gRPC brings.
  static std::vector<std::string> Methods() {
    std::vector<std::string> methods = {
        "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"};
    for (const google::protobuf::FileDescriptor* file :
         {v1::Job::descriptor()->file(), v1::Task::descriptor()->file(),
          v1::Package::descriptor()->file(), v1::ModelInfo::descriptor()->file()}) {
      for (int s = 0; s < file->service_count(); ++s) {
        const google::protobuf::ServiceDescriptor& service = *file->service(s);
        for (int m = 0; m < service.method_count(); ++m) {
          methods.push_back(absl::StrCat("/", service.full_name(), "/", service.method(m)->name()));
        }
      }
    }
    return methods;
  }

  static void TryAll(rpc::ClientSecurity (*security)(const std::string& role)) {
    const auto expected = Expected();
    const std::vector<std::string> methods = Methods();
    int calls = 0, let_in = 0;
    for (const std::string role : kRoles) {
      std::map<int, std::shared_ptr<grpc::Channel>> channels;
      for (const std::string& method : methods) {
        ASSERT_EQ(expected.count(method), 1u) << method << ": who may call it? Say so above";
        auto& channel = channels[PortOf(method)];
        if (channel == nullptr) {
          channel = rpc::MakeChannel(absl::StrCat("127.0.0.1:", PortOf(method)), security(role));
        }
        const bool may = expected.at(method).count(Letter(role)) > 0;
        // Who may watch would wait for news.
        const bool waits = may && absl::StrContains(method, "Watch");
        std::string message;
        const grpc::StatusCode code =
            Call(channel, method, waits ? absl::Seconds(1) : kTimeout, &message);
        ++calls;
        if (may) {
          ++let_in;
          EXPECT_NE(code, grpc::StatusCode::PERMISSION_DENIED) << role << " " << method << message;
          EXPECT_NE(code, grpc::StatusCode::UNAUTHENTICATED) << role << " " << method << message;
          EXPECT_NE(code, grpc::StatusCode::UNAVAILABLE) << role << " " << method << message;
          EXPECT_NE(code, grpc::StatusCode::UNIMPLEMENTED) << role << " " << method << message;
        } else if (role == "none") {
          EXPECT_EQ(code, grpc::StatusCode::UNAUTHENTICATED) << method << ": " << message;
          EXPECT_THAT(message, HasSubstr("--token-file")) << method;
        } else {
          EXPECT_EQ(code, grpc::StatusCode::PERMISSION_DENIED) << role << " " << method << message;
          EXPECT_THAT(message, HasSubstr(method));
        }
      }
    }
    std::printf("%zu methods x %zu roles: %d calls, %d let in, %d refused\n", methods.size(),
                std::size(kRoles), calls, let_in, calls - let_in);
    EXPECT_EQ(expected.size(), methods.size());
  }

  static std::string* dir_;
  static Process *packager_, *coordinator_, *server_;
  static int packager_port_, coordinator_port_, server_port_;
};
std::string* RolesTest::dir_ = nullptr;
Process* RolesTest::packager_ = nullptr;
Process* RolesTest::coordinator_ = nullptr;
Process* RolesTest::server_ = nullptr;
int RolesTest::packager_port_ = 0;
int RolesTest::coordinator_port_ = 0;
int RolesTest::server_port_ = 0;

TEST_F(RolesTest, EveryMethodAsEverybodyByCertificate) { TryAll(&RolesTest::ByCertificate); }

TEST_F(RolesTest, EveryMethodAsEverybodyByToken) { TryAll(&RolesTest::ByToken); }

TEST_F(RolesTest, WithoutTlsNobodyGetsFar) {
  std::string message;
  for (const int port : {packager_port_, coordinator_port_, server_port_}) {
    const auto channel = rpc::MakeChannel(absl::StrCat("127.0.0.1:", port), rpc::ClientSecurity());
    EXPECT_EQ(Call(channel, "/grpc.health.v1.Health/Check", kTimeout, &message),
              grpc::StatusCode::UNAVAILABLE);
  }
}

// A certificate of another authority is no certificate.
TEST_F(RolesTest, AnotherAuthoritysCertificateIsRefused) {
  const std::string other = *dir_ + "/other";
  ASSERT_EQ(
      RunCommand({absl::StrCat(SHIFTADD_SOURCE_DIR, "/deploy/certs.sh"), other, "admin"}).exit_code,
      0);
  rpc::ClientSecurity eve = {access::TlsFilesIn(other, "admin"), ""};
  eve.tls.ca = Certs() + "/ca.crt";
  std::string message;
  const auto channel = rpc::MakeChannel(absl::StrCat("127.0.0.1:", coordinator_port_), eve);
  EXPECT_EQ(Call(channel, "/shiftadd.v1.JobService/ListJobs", kTimeout, &message),
            grpc::StatusCode::UNAVAILABLE)
      << message;
  // And a daemon that the CA does not vouch for is not talked to.
  rpc::ClientSecurity ann = ByCertificate("admin");
  ann.tls.ca = other + "/ca.crt";
  const auto wrong = rpc::MakeChannel(absl::StrCat("127.0.0.1:", coordinator_port_), ann);
  EXPECT_EQ(Call(wrong, "/grpc.health.v1.Health/Check", kTimeout, &message),
            grpc::StatusCode::UNAVAILABLE);
}

}  // namespace
}  // namespace shiftadd::testing
