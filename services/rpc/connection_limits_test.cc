// What a server bears with from a connection: clients that are half there, that go silent, that do
// not take what they asked for, that ask for too much.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/base/digest.h"
#include "services/rpc/caller_certificate.h"
#include "services/rpc/rpc.h"
#include "services/rpc/security.h"
#include "services/rpc/stall_guard.h"
#include "services/rpc/testing/generic_call.h"
#include "shiftadd/v1/package.grpc.pb.h"

namespace shiftadd::rpc {
namespace {

using testing::HasSubstr;

constexpr absl::Duration kEnd = absl::Seconds(20);  // by then a test has hung

// A TCP connection that speaks what it is told to, byte by byte.
class RawClient {
 public:
  explicit RawClient(int port) : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  }
  ~RawClient() { close(fd_); }
  void Send(const std::string& bytes) const {
    EXPECT_EQ(send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(bytes.size()));
  }
  // Until the server shuts the connection; false if it has not by kEnd.
  bool ReadToEnd(std::string* received) const {
    const absl::Time end = absl::Now() + kEnd;
    char bytes[4096];
    while (absl::Now() < end) {
      pollfd p{fd_, POLLIN, 0};
      if (poll(&p, 1, 100) <= 0) continue;
      const ssize_t n = read(fd_, bytes, sizeof(bytes));
      if (n <= 0) return true;
      received->append(bytes, static_cast<size_t>(n));
    }
    return false;
  }

 private:
  const int fd_;
};

// A frame of HTTP/2.
std::string Frame(char type, char flags, const std::string& payload) {
  std::string frame = {0, 0, static_cast<char>(payload.size()), type, flags, 0, 0, 0, 0};
  return frame + payload;
}
constexpr char kSettings = 4, kPing = 6, kGoAway = 7;
// How a client of HTTP/2 begins.
std::string Preface() { return "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + Frame(kSettings, 0, ""); }

// Whether a frame of this type is among what a server sent.
bool HasFrame(const std::string& bytes, char type) {
  for (size_t at = 0; at + 9 <= bytes.size();) {
    if (bytes[at + 3] == type) return true;
    const auto byte = [&](size_t i) { return static_cast<unsigned char>(bytes[at + i]); };
    at += 9 + (byte(0) << 16 | byte(1) << 8 | byte(2));
  }
  return false;
}

// ResolveReference answers when it is let go; ReadBlob sends without end; WriteBlob takes
// everything.
class Slow : public v1::PackageService::Service {
 public:
  grpc::Status ResolveReference(grpc::ServerContext* context, const v1::ResolveReferenceRequest*,
                                v1::ResolveReferenceResponse* response) override {
    response->set_digest(CertificateOf(*context));
    ++running;
    while (!let_go && !context->IsCancelled()) absl::SleepFor(absl::Milliseconds(5));
    return grpc::Status::OK;
  }
  grpc::Status ReadBlob(grpc::ServerContext* context, const v1::ReadBlobRequest*,
                        grpc::ServerWriter<v1::ReadBlobResponse>* writer) override {
    v1::ReadBlobResponse response;
    response.set_data(std::string(1 << 20, 'x'));
    ++running;
    while (WriteInTime(context, writer, response, stall)) {
    }
    ++ended;
    return grpc::Status::OK;
  }
  grpc::Status WriteBlob(grpc::ServerContext* context,
                         grpc::ServerReader<v1::WriteBlobRequest>* reader,
                         v1::WriteBlobResponse*) override {
    v1::WriteBlobRequest request;
    ++uploading;
    while (ReadInTime(context, reader, &request, stall)) {
    }
    ++ended;
    return context->IsCancelled() ? grpc::Status(grpc::StatusCode::CANCELLED, "stalled")
                                  : grpc::Status::OK;
  }
  absl::Duration stall = absl::Milliseconds(300);
  std::atomic<int> running{0}, uploading{0}, ended{0};
  std::atomic<bool> let_go{false};
};

bool Within(const std::function<bool()>& condition) {
  for (const absl::Time end = absl::Now() + kEnd; absl::Now() < end;) {
    if (condition()) return true;
    absl::SleepFor(absl::Milliseconds(5));
  }
  return condition();
}

class ConnectionLimitsTest : public testing::Test {
 protected:
  void Start(const ConnectionLimits& limits, const access::TlsFiles& tls = {},
             std::shared_ptr<access::Access> access = nullptr) {
    ServerOptions options;
    options.address = "127.0.0.1:0";
    options.limits = limits;
    options.tls = tls;
    options.access = std::move(access);
    server_ = Server::Start(options, {&slow_}).value();
    stub_ = v1::PackageService::NewStub(MakeChannel(Address()));
  }
  void TearDown() override {
    slow_.let_go = true;
    server_.reset();
  }
  std::string Address() const { return absl::StrCat("127.0.0.1:", server_->port()); }

  grpc::Status Resolve(absl::Duration timeout, const std::string& reference = "a",
                       std::string* certificate = nullptr) {
    grpc::ClientContext context;
    SetDeadline(&context, timeout);
    context.set_wait_for_ready(true);  // a busy machine takes its time to connect
    v1::ResolveReferenceRequest request;
    request.set_reference(reference);
    v1::ResolveReferenceResponse response;
    const grpc::Status status = stub_->ResolveReference(&context, request, &response);
    if (certificate != nullptr) *certificate = response.digest();
    return status;
  }

  Slow slow_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<v1::PackageService::Stub> stub_;
};

TEST_F(ConnectionLimitsTest, WhoSaysNothingIsShutOut) {
  ConnectionLimits limits;
  limits.handshake = absl::Milliseconds(300);
  Start(limits);
  const RawClient silent(server_->port()), half(server_->port());
  half.Send("PRI * HTTP/2.0\r\n");
  std::string received;
  EXPECT_TRUE(silent.ReadToEnd(&received));
  EXPECT_TRUE(half.ReadToEnd(&received));
}

TEST_F(ConnectionLimitsTest, WhoDoesNotEndTheTlsHandshakeIsShutOut) {
  const std::string dir = absl::StrCat(testing::TempDir(), "/limits-", getpid());
  const std::string make = absl::StrCat(SHIFTADD_SOURCE_DIR, "/deploy/certs.sh ", dir,
                                        " coordinator admin >/dev/null 2>&1");
  ASSERT_EQ(std::system(make.c_str()), 0) << make;
  ConnectionLimits limits;
  limits.handshake = absl::Seconds(2);
  access::AccessOptions certificates;
  certificates.certificates = true;
  Start(limits, access::TlsFilesIn(dir, "coordinator"), access::Access::Create(certificates));
  const RawClient silent(server_->port()), half(server_->port());
  half.Send(std::string("\x16\x03\x01\x02\x00\x01", 6));  // of a ClientHello of 512 bytes
  std::string received;
  EXPECT_TRUE(silent.ReadToEnd(&received));
  EXPECT_TRUE(half.ReadToEnd(&received));
  // Whoever has his certificate still gets in.
  slow_.let_go = true;
  stub_ = v1::PackageService::NewStub(
      MakeChannel(Address(), ClientSecurity{access::TlsFilesIn(dir, "admin"), ""}));
  grpc::Status status;
  std::string certificate;
  EXPECT_TRUE(Within([&] { return (status = Resolve(absl::Seconds(5), "a", &certificate)).ok(); }))
      << status.error_message();
  EXPECT_THAT(certificate, testing::StartsWith("spiffe://shiftadd/admin/"));
  std::filesystem::remove_all(dir);
}

TEST_F(ConnectionLimitsTest, WhoDoesNotAnswerAPingIsLetGo) {
  ConnectionLimits limits;
  limits.ping_after = absl::Milliseconds(300);
  limits.ping_answer = absl::Milliseconds(300);
  Start(limits);
  const RawClient client(server_->port());
  client.Send(Preface());
  client.Send(Frame(kSettings, /*ack*/ 1, ""));
  std::string received;
  EXPECT_TRUE(client.ReadToEnd(&received));
  EXPECT_TRUE(HasFrame(received, kPing));
}

TEST_F(ConnectionLimitsTest, WhoPingsWithoutEndIsLetGo) {
  Start({});
  const RawClient client(server_->port());
  client.Send(Preface());
  for (int i = 0; i < 5; ++i) client.Send(Frame(kPing, 0, std::string(8, 'p')));
  std::string received;
  EXPECT_TRUE(client.ReadToEnd(&received));
  EXPECT_TRUE(HasFrame(received, kGoAway));
  EXPECT_THAT(received, HasSubstr("too_many_pings"));
}

TEST_F(ConnectionLimitsTest, SoManyCallsOfOneConnectionRun) {
  ConnectionLimits limits;
  limits.streams = 2;
  Start(limits);
  std::vector<std::thread> callers;
  for (int i = 0; i < 2; ++i) callers.emplace_back([&] { EXPECT_TRUE(Resolve(kEnd).ok()); });
  EXPECT_TRUE(Within([&] { return slow_.running == 2; }));
  // The third is kept back by the connection, and never reaches the service.
  EXPECT_EQ(Resolve(absl::Milliseconds(200)).error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_EQ(slow_.running, 2);
  slow_.let_go = true;
  for (std::thread& caller : callers) caller.join();
  EXPECT_TRUE(Resolve(kEnd).ok());
}

TEST_F(ConnectionLimitsTest, MessagesAreSoLargeAtMost) {
  Start({});
  slow_.let_go = true;
  std::string certificate = "not asked";
  EXPECT_TRUE(Resolve(kEnd, std::string(kMaxMessageBytes - 100, 'x'), &certificate).ok());
  EXPECT_EQ(certificate, "");
  EXPECT_EQ(Resolve(kEnd, std::string(kMaxMessageBytes + 1, 'x')).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
}

// Answers pings, and takes nothing: gRPC's own client, which does not read.
TEST_F(ConnectionLimitsTest, WhoTakesNothingOfAStreamIsLetGo) {
  Start({});
  grpc::ClientContext context;
  const auto reader = stub_->ReadBlob(&context, v1::ReadBlobRequest());
  EXPECT_TRUE(Within([&] { return slow_.ended == 1; }));
  v1::ReadBlobResponse response;
  while (reader->Read(&response)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(ConnectionLimitsTest, WhoSendsNothingOfAStreamIsLetGo) {
  Start({});
  grpc::ClientContext context;
  v1::WriteBlobResponse response;
  const auto writer = stub_->WriteBlob(&context, &response);
  ASSERT_TRUE(writer->Write(v1::WriteBlobRequest()));
  EXPECT_TRUE(Within([&] { return slow_.ended == 1; }));
  EXPECT_EQ(writer->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

// Ann and bob, users, and their tokens.
class TwoNames : public ConnectionLimitsTest {
 protected:
  void SetUp() override {
    std::filesystem::create_directories(dir_);
    std::ofstream(dir_ + "/tokens")
        << "ann user " << Sha256Digest("sat_a") << "\nbob user " << Sha256Digest("sat_b") << "\n";
    std::ofstream(dir_ + "/ann") << "sat_a\n";
    std::ofstream(dir_ + "/bob") << "sat_b\n";
  }
  void TearDown() override {
    ConnectionLimitsTest::TearDown();
    std::filesystem::remove_all(dir_);
  }
  void StartAsking(const ConnectionLimits& limits, double requests_per_second = 0) {
    access::AccessOptions asked;
    asked.tokens = access::TokenFile::Open(dir_ + "/tokens").value();
    asked.requests_per_second = requests_per_second;
    Start(limits, {}, access::Access::Create(asked));
  }
  // On a connection of his own.
  void CallAs(const std::string& name) {
    stub_ =
        v1::PackageService::NewStub(MakeChannel(Address(), ClientSecurity{{}, dir_ + "/" + name}));
  }

  const std::string dir_ = absl::StrCat(testing::TempDir(), "/names-", getpid());
};

// One name's requests are counted over all of its connections, and nobody else's with them.
TEST_F(TwoNames, SoManyRequestsASecondOfOneName) {
  StartAsking({}, 0.6);  // three at once
  slow_.let_go = true;
  int passed = 0;
  grpc::Status refused;
  for (int i = 0; i < 6; ++i) {
    CallAs("ann");
    const grpc::Status status = Resolve(kEnd);
    status.ok() ? static_cast<void>(++passed) : static_cast<void>(refused = status);
  }
  EXPECT_GE(passed, 3);
  EXPECT_LT(passed, 6);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(refused.error_message(), HasSubstr("ann sends more than 0.6 requests a second"));
  CallAs("bob");
  EXPECT_TRUE(Resolve(kEnd).ok());
}

TEST(CallLimitTest, WhatWasAdmittedCountsUntilItEndsOrIsForgotten) {
  CallLimit limit(2);
  const absl::Time now = absl::Now();
  const absl::Duration step = CallLimit::kForgotten / 10;
  const auto admit = [&](absl::Duration later) { return limit.Admit("ann", now + later).code(); };
  EXPECT_EQ(admit({}), absl::StatusCode::kOk);
  EXPECT_EQ(admit(step), absl::StatusCode::kOk);
  EXPECT_EQ(admit(2 * step), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(limit.Admit("bob", now).ok());
  limit.Begin("ann");
  EXPECT_EQ(admit(3 * step), absl::StatusCode::kResourceExhausted);
  limit.End("ann");
  EXPECT_EQ(admit(3 * step), absl::StatusCode::kOk);
  // Of those of the steps 1 and 3, neither of which began.
  EXPECT_EQ(admit(CallLimit::kForgotten), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(admit(step + CallLimit::kForgotten), absl::StatusCode::kOk);
  // What begins late counts all the same.
  CallLimit late(1);
  EXPECT_TRUE(late.Admit("ann", now).ok());
  EXPECT_TRUE(late.Admit("ann", now + CallLimit::kForgotten).ok());
  late.Begin("ann");
  late.Begin("ann");
  EXPECT_FALSE(late.Admit("ann", now + absl::Hours(1)).ok());
  late.End("ann");
  EXPECT_FALSE(late.Admit("ann", now + absl::Hours(1)).ok());
  late.End("ann");
  EXPECT_TRUE(late.Admit("ann", now + absl::Hours(1)).ok());
  CallLimit none(0);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(none.Admit("ann", now).ok());
}

// And its calls that run, streams among them.
TEST_F(TwoNames, SoManyCallsOfOneNameRun) {
  ConnectionLimits limits;
  limits.calls_of_name = 2;
  slow_.stall = kEnd;
  StartAsking(limits);
  CallAs("ann");
  grpc::ClientContext uploading;
  uploading.set_wait_for_ready(true);
  v1::WriteBlobResponse written;
  const auto upload = stub_->WriteBlob(&uploading, &written);
  CallAs("ann");
  const auto other = std::move(stub_);
  grpc::ClientContext cancelled;
  cancelled.set_wait_for_ready(true);
  std::thread waits([&] {
    v1::ResolveReferenceResponse response;
    other->ResolveReference(&cancelled, v1::ResolveReferenceRequest(), &response);
  });
  EXPECT_TRUE(Within([&] { return slow_.running == 1 && slow_.uploading == 1; }));
  CallAs("bob");
  EXPECT_TRUE(Within([&] { return Resolve(absl::Milliseconds(200)), slow_.running == 2; }));
  CallAs("ann");
  const grpc::Status refused = Resolve(kEnd);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(refused.error_message(),
            "ann has 2 calls running, as many as one name may (--calls-at-once): try again when "
            "one has ended");
  cancelled.TryCancel();
  waits.join();
  slow_.let_go = true;
  EXPECT_TRUE(Within([&] { return Resolve(kEnd).ok(); }));
  // Who has his answer finds the room given back, every time.
  for (int i = 0; i < 20; ++i) EXPECT_TRUE(Resolve(kEnd).ok()) << i;
  const auto channel = MakeChannel(Address(), ClientSecurity{{}, dir_ + "/ann"});
  for (int i = 0; i < 3; ++i) {
    EXPECT_NE(
        GenericCall(channel, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", kEnd)
            .error_code(),
        grpc::StatusCode::RESOURCE_EXHAUSTED)
        << i;
  }
  upload->WritesDone();
  upload->Finish();
}

}  // namespace
}  // namespace shiftadd::rpc
