#include "services/rpc/rpc.h"

#include <gmock/gmock.h>
#include <google/protobuf/any.pb.h>
#include <grpcpp/impl/service_type.h>
#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <thread>

#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "services/http/listen_address.h"
#include "services/rpc/error_details.h"
#include "services/rpc/failover.h"
#include "services/rpc/proto_duration.h"
#include "services/rpc/testing/generic_call.h"
#include "shiftadd/v1/package.grpc.pb.h"

namespace shiftadd::rpc {
namespace {

using absl::StatusCode;
using testing::HasSubstr;

TEST(StatusTest, CodesAndMessagesGoBothWays) {
  for (int code = 1; code <= 16; ++code) {
    const absl::Status status(static_cast<StatusCode>(code), absl::StrCat("message ", code));
    const grpc::Status there = ToGrpc(status);
    EXPECT_EQ(static_cast<int>(there.error_code()), code);
    EXPECT_EQ(FromGrpc(there), status);
  }
  EXPECT_TRUE(ToGrpc(absl::OkStatus()).ok());
  EXPECT_TRUE(FromGrpc(grpc::Status::OK).ok());
  // Beyond those that there are, but not beyond what the type holds.
  EXPECT_EQ(FromGrpc(grpc::Status(static_cast<grpc::StatusCode>(17), "x")).code(),
            StatusCode::kUnknown);
}

TEST(StatusTest, InvalidFieldsListsAllAndCarriesDetails) {
  const absl::Status status = InvalidFields({{"recipe.seed", "bad"}, {"budget", "none"}});
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "recipe.seed: bad; budget: none");
  const absl::Status back = FromGrpc(ToGrpc(status));
  EXPECT_EQ(back, status);  // payloads too
  ASSERT_TRUE(back.GetPayload(kBadRequestTypeUrl).has_value());
  // BadRequest{field_violations{field: "a" description: "b"}} by hand.
  EXPECT_EQ(SerializeBadRequest({{"a", "b"}}), std::string("\x0a\x06\x0a\x01"
                                                           "a\x12\x01"
                                                           "b"));
}

TEST(StatusTest, DetailsThatAreNoneAreIgnored) {
  for (const char* bytes : {"garbage", "\xff\xff\xff", "\x1a\x05zzzzz", ""}) {
    const absl::Status status = FromGrpc(grpc::Status(grpc::StatusCode::ABORTED, "m", bytes));
    EXPECT_EQ(status.code(), StatusCode::kAborted);
    EXPECT_EQ(status.message(), "m");
  }
}

TEST(ProtoDurationTest, GoesBothWaysAndSaturates) {
  for (const absl::Duration d : {absl::ZeroDuration(), absl::Nanoseconds(1), absl::Seconds(30),
                                 absl::Milliseconds(2500), absl::Hours(1) + absl::Nanoseconds(7)}) {
    EXPECT_EQ(FromProto(ToProto(d)), d);
  }
  EXPECT_EQ(ToProto(absl::Milliseconds(2500)).seconds(), 2);
  EXPECT_EQ(ToProto(absl::Milliseconds(2500)).nanos(), 500'000'000);
  google::protobuf::Duration longest;
  longest.set_seconds(std::numeric_limits<int64_t>::max());
  EXPECT_GT(FromProto(longest), absl::Hours(24 * 365 * 100));
}

TEST(RotationTest, MovesOnWhenTheOneInUseIsAway) {
  const absl::Status away = absl::UnavailableError("away");
  Rotation rotation(3);
  EXPECT_EQ(rotation.current(), 0u);
  EXPECT_FALSE(rotation.Note(0, absl::OkStatus()));
  EXPECT_FALSE(rotation.Note(0, absl::NotFoundError("no such job")));  // it is there
  EXPECT_EQ(rotation.current(), 0u);
  EXPECT_TRUE(rotation.Note(0, away));
  EXPECT_EQ(rotation.current(), 1u);
  EXPECT_TRUE(rotation.Note(0, away));  // of a call begun before: nobody moves twice
  EXPECT_EQ(rotation.current(), 1u);
  EXPECT_TRUE(rotation.Note(1, absl::DeadlineExceededError("hangs")));
  EXPECT_FALSE(rotation.Note(2, away));  // now all have been tried: the caller waits
  EXPECT_EQ(rotation.current(), 0u);
  EXPECT_TRUE(rotation.Note(0, away));
  EXPECT_FALSE(rotation.Note(1, absl::OkStatus()));
  EXPECT_EQ(rotation.current(), 1u);    // and stays there
  EXPECT_TRUE(rotation.Note(1, away));  // a new round
  Rotation one(1);
  EXPECT_FALSE(one.Note(0, away));
  EXPECT_EQ(one.current(), 0u);
}

TEST(AddressesTest, AreSeparatedByCommas) {
  EXPECT_EQ(SplitAddresses("a:1"), (std::vector<std::string>{"a:1"}));
  EXPECT_EQ(SplitAddresses(" a:1, b:2,,[::1]:3 "),
            (std::vector<std::string>{"a:1", "b:2", "[::1]:3"}));
  EXPECT_TRUE(SplitAddresses("").empty());
}

TEST(ListenAddressTest, ParsesAndKnowsLoopback) {
  EXPECT_TRUE(ParseListenAddress("127.0.0.1:80")->loopback);
  EXPECT_TRUE(ParseListenAddress("127.3.2.1:0")->loopback);
  EXPECT_FALSE(ParseListenAddress("0.0.0.0:0")->loopback);
  EXPECT_FALSE(ParseListenAddress("10.0.0.1:1")->loopback);
  const auto v6 = ParseListenAddress("[::1]:9");
  if (v6.ok()) {
    EXPECT_TRUE(v6->loopback);
    EXPECT_EQ(v6->host, "::1");
  }
  for (const char* bad : {"", "127.0.0.1", ":80", "127.0.0.1:", "127.0.0.1:-1", "127.0.0.1:65536",
                          "127.0.0.1:x", "::1:80", "[]:1", "300.1.1.1:1"}) {
    EXPECT_EQ(ParseListenAddress(bad).status().code(), StatusCode::kInvalidArgument) << bad;
  }
}

// Answers with what it is told; echoes the reference's length as the digest.
class Echo : public v1::PackageService::Service {
 public:
  grpc::Status ResolveReference(grpc::ServerContext* context,
                                const v1::ResolveReferenceRequest* request,
                                v1::ResolveReferenceResponse* response) override {
    if (request->reference() == "wait") {
      for (int i = 0; i < 1000 && !context->IsCancelled(); ++i)
        absl::SleepFor(absl::Milliseconds(10));
      return ToGrpc(absl::CancelledError("stopped"));
    }
    if (absl::StartsWith(request->reference(), "fault ")) {
      return ToGrpc(InvalidFields({{"reference", request->reference()}}));
    }
    response->set_digest(std::to_string(request->reference().size()));
    return grpc::Status::OK;
  }
};

class ServerTest : public testing::Test {
 protected:
  void SetUp() override {
    server_ = Server::Start({"127.0.0.1:0", false}, {&echo_}).value();
    address_ = absl::StrCat("127.0.0.1:", server_->port());
    channel_ = MakeChannel(address_);
  }

  grpc::Status Call(const std::string& reference, absl::Duration timeout, std::string* digest) {
    grpc::ClientContext context;
    SetDeadline(&context, timeout);
    v1::ResolveReferenceRequest request;
    request.set_reference(reference);
    v1::ResolveReferenceResponse response;
    const grpc::Status status =
        v1::PackageService::NewStub(channel_)->ResolveReference(&context, request, &response);
    *digest = response.digest();
    return status;
  }

  // Whether the server has this method at all.
  grpc::StatusCode CallUnknown(const std::string& method) {
    return GenericCall(channel_, method, absl::Seconds(10)).error_code();
  }

  Echo echo_;
  std::unique_ptr<Server> server_;
  std::string address_;
  std::shared_ptr<grpc::Channel> channel_;
};

TEST_F(ServerTest, ACallGoesToTheDaemonThatIsThere) {
  using Stub = v1::PackageService::Stub;
  v1::ResolveReferenceRequest request;
  request.set_reference("four");
  v1::ResolveReferenceResponse response;
  const Failover<v1::PackageService> daemons(absl::StrCat("127.0.0.1:1,127.0.0.1:2,", address_));
  const auto call = [&] {
    return daemons.Call(&Stub::ResolveReference, request, &response, absl::Seconds(10));
  };
  ASSERT_TRUE(call().ok());
  EXPECT_EQ(response.digest(), "4");
  EXPECT_EQ(daemons.target().index, 2u);  // remembered
  server_->Shutdown(absl::ZeroDuration());
  EXPECT_EQ(call().code(), StatusCode::kUnavailable);
  server_ = Server::Start({address_, false}, {&echo_}).value();
  // gRPC itself waits a little before it connects to an address again.
  absl::Status status;
  for (int i = 0; i < 100 && !(status = call()).ok(); ++i) absl::SleepFor(absl::Milliseconds(50));
  EXPECT_TRUE(status.ok()) << status;
}

TEST_F(ServerTest, LargeMessagesPass) {
  std::string digest;
  const grpc::Status status = Call(std::string(40 << 20, 'x'), absl::Seconds(30), &digest);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(digest, std::to_string(40 << 20));
}

// gRPC's own limit at the client would put RESOURCE_EXHAUSTED in the place of the fault.
TEST_F(ServerTest, FaultsArriveHoweverMuchTheyQuote) {
  const auto fault = [&](const std::string& quoted) {
    std::string digest;
    return FromGrpc(Call("fault " + quoted, absl::Seconds(30), &digest));
  };
  EXPECT_EQ(fault("x").message(), "reference: fault x");
  EXPECT_TRUE(fault("x").GetPayload(kBadRequestTypeUrl).has_value());
  std::string umlauts;
  while (umlauts.size() < 100'000) umlauts += "ü";
  for (const std::string& quoted :
       {std::string(2'000, 'x'), std::string(5'000, 'x'), std::string(1'000'000, 'x'), umlauts,
        std::string(3'000, '\n')}) {
    const absl::Status status = fault(quoted);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << quoted.size() << ": " << status;
    EXPECT_THAT(std::string(status.message()),
                testing::StartsWith("reference: fault " + quoted.substr(0, 1'000)));
  }
  EXPECT_EQ(fault(std::string(5'000, 'x')).message(),
            "reference: fault " + std::string(5'000, 'x'));
}

TEST_F(ServerTest, DeadlinesHold) {
  std::string digest;
  EXPECT_EQ(Call("wait", absl::Milliseconds(50), &digest).error_code(),
            grpc::StatusCode::DEADLINE_EXCEEDED);
}

TEST_F(ServerTest, HealthAndReflectionAreServed) {
  EXPECT_NE(CallUnknown("/grpc.health.v1.Health/Check"), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_NE(CallUnknown("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"),
            grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_EQ(CallUnknown("/shiftadd.v1.Nope/Nope"), grpc::StatusCode::UNIMPLEMENTED);
}

TEST_F(ServerTest, APortInUseIsRefusedAndNamed) {
  const absl::Status status = Server::Start({address_, false}, {}).status();
  EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr(address_));
}

TEST_F(ServerTest, ShutdownCancelsWhatRunsAndFreesThePort) {
  std::string digest;
  grpc::Status status;
  std::thread caller([&] { status = Call("wait", absl::Seconds(30), &digest); });
  absl::SleepFor(absl::Milliseconds(100));
  server_->Shutdown(absl::Milliseconds(50));
  caller.join();
  EXPECT_FALSE(status.ok());
  server_->Shutdown(absl::ZeroDuration());  // again: nothing
  EXPECT_TRUE(Server::Start({address_, false}, {}).ok());
}

TEST(ServerStartTest, BeyondLoopbackOnlyWhenAsked) {
  EXPECT_EQ(Server::Start({"0.0.0.0:0", false}, {}).status().code(),
            StatusCode::kFailedPrecondition);
  EXPECT_TRUE(Server::Start({"0.0.0.0:0", true}, {}).ok());
  EXPECT_EQ(Server::Start({"nonsense", false}, {}).status().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace shiftadd::rpc
