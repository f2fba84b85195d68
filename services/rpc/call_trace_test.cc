// From a client's thread over a real server and on to the calls that the handler makes.
#include "services/rpc/call_trace.h"

#include <gmock/gmock.h>
#include <grpc/support/log.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <mutex>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "services/base/call_notes.h"
#include "services/rpc/grpc_log.h"
#include "services/rpc/rpc.h"
#include "shiftadd/v1/package.grpc.pb.h"

namespace shiftadd::rpc {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::Not;

constexpr char kParent[] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
constexpr char kTraceId[] = "0af7651916cd43dd8448eb211c80319c";

TEST(TraceParent, IsReadAndWritten) {
  EXPECT_EQ(TraceIdOf(kParent), kTraceId);
  EXPECT_EQ(TraceIdOf(TraceParent({kTraceId, "x"})), kTraceId);
  EXPECT_THAT(TraceParent(NewCallTrace()), MatchesRegex("00-[0-9a-f]{32}-[0-9a-f]{16}-01"));
  EXPECT_NE(NewCallTrace().trace_id, NewCallTrace().trace_id);
  for (const char* faulty : {"", "00", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
                             "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                             "00-00000000000000000000000000000000-b7ad6b7169203331-01",
                             "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
                             "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01"}) {
    EXPECT_EQ(TraceIdOf(faulty), "") << faulty;
  }
}

// Remembers the trace that it was called in; resolves "outer" by asking `next` for "inner".
class Recorder : public v1::PackageService::Service {
 public:
  grpc::Status ResolveReference(grpc::ServerContext*, const v1::ResolveReferenceRequest* request,
                                v1::ResolveReferenceResponse*) override {
    const CallTrace* trace = TraceScope::Current();
    {
      const std::lock_guard<std::mutex> hold(mutex_);
      traces_.push_back(trace != nullptr ? *trace : CallTrace());
    }
    spdlog::info("resolving {}", request->reference());
    NoteInCall(note);
    if (request->reference() == "none") return {grpc::StatusCode::NOT_FOUND, "none"};
    if (request->reference() != "outer") return grpc::Status::OK;
    grpc::ClientContext context;
    v1::ResolveReferenceRequest inner;
    inner.set_reference("inner");
    v1::ResolveReferenceResponse response;
    return next->ResolveReference(&context, inner, &response);
  }
  std::vector<CallTrace> traces() {
    const std::lock_guard<std::mutex> hold(mutex_);
    return traces_;
  }
  std::unique_ptr<v1::PackageService::Stub> next;
  LogFields note;

 private:
  std::mutex mutex_;
  std::vector<CallTrace> traces_;
};

class CallTraceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    server_ = Server::Start({"127.0.0.1:0"}, {&recorder_}).value();
    const std::string address = absl::StrCat("127.0.0.1:", server_->port());
    recorder_.next = v1::PackageService::NewStub(MakeChannel(address));
    stub_ = v1::PackageService::NewStub(MakeChannel(address));
    // Without the metadata of our channels.
    bare_ = v1::PackageService::NewStub(
        grpc::CreateChannel(address, grpc::InsecureChannelCredentials()));
  }
  // Gives the request ids of the answer.
  static std::vector<std::string> Resolve(
      v1::PackageService::Stub* stub, const std::string& reference,
      const std::vector<std::pair<std::string, std::string>>& metadata = {},
      grpc::StatusCode expected = grpc::StatusCode::OK) {
    grpc::ClientContext context;
    for (const auto& [key, value] : metadata) context.AddMetadata(key, value);
    v1::ResolveReferenceRequest request;
    request.set_reference(reference);
    v1::ResolveReferenceResponse response;
    const grpc::Status status = stub->ResolveReference(&context, request, &response);
    EXPECT_EQ(status.error_code(), expected) << status.error_message();
    std::vector<std::string> ids;
    const auto [begin, end] = context.GetServerTrailingMetadata().equal_range(kRequestIdKey);
    for (auto it = begin; it != end; ++it) ids.emplace_back(it->second.data(), it->second.size());
    return ids;
  }

  Recorder recorder_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<v1::PackageService::Stub> stub_, bare_;
};

TEST_F(CallTraceTest, TheCallersTraceReachesTheHandlerAndWhomItCalls) {
  {
    const TraceScope scope({kTraceId, "my-request"});
    Resolve(stub_.get(), "outer");
  }
  EXPECT_EQ(TraceScope::Current(), nullptr);
  const std::vector<CallTrace> traces = recorder_.traces();
  ASSERT_EQ(traces.size(), 2u);
  for (const CallTrace& trace : traces) {
    EXPECT_EQ(trace.trace_id, kTraceId);
    EXPECT_EQ(trace.request_id, "my-request");
  }
}

TEST_F(CallTraceTest, WithoutOneEachCallBeginsItsOwn) {
  Resolve(stub_.get(), "a");
  Resolve(stub_.get(), "b");
  Resolve(bare_.get(), "c");
  const std::vector<CallTrace> traces = recorder_.traces();
  ASSERT_EQ(traces.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(traces[i].trace_id.size(), 32u);
    EXPECT_NE(traces[i].request_id, "");
    EXPECT_NE(traces[i].trace_id, traces[(i + 1) % 3].trace_id);
  }
}

TEST_F(CallTraceTest, ForeignMetadataIsReadAndFaultyOneIgnored) {
  Resolve(bare_.get(), "a", {{"traceparent", kParent}, {"x-request-id", "abc"}});
  Resolve(bare_.get(), "b", {{"traceparent", "nonsense"}, {"x-request-id", "two words"}});
  Resolve(bare_.get(), "c", {{"x-request-id", std::string(129, 'x')}});
  const std::vector<CallTrace> traces = recorder_.traces();
  ASSERT_EQ(traces.size(), 3u);
  EXPECT_EQ(traces[0].trace_id, kTraceId);
  EXPECT_EQ(traces[0].request_id, "abc");
  EXPECT_EQ(traces[1].trace_id.size(), 32u);
  EXPECT_NE(traces[1].trace_id, kTraceId);
  EXPECT_EQ(absl::StrContains(traces[1].request_id, " "), false);
  EXPECT_LT(traces[2].request_id.size(), 129u);
}

TEST_F(CallTraceTest, AnAnswerNamesTheRequest) {
  const auto sent = Resolve(bare_.get(), "a", {{"x-request-id", "abc"}});
  EXPECT_EQ(sent, std::vector<std::string>{"abc"});
  const auto failed =
      Resolve(bare_.get(), "none", {{"x-request-id", "abc"}}, grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(failed, std::vector<std::string>{"abc"});
  const auto made = Resolve(bare_.get(), "b");
  EXPECT_EQ(made, std::vector<std::string>{recorder_.traces().back().request_id});
}

TEST_F(CallTraceTest, LogLinesOfAHandlerNameTheCall) {
  ::testing::internal::CaptureStderr();
  InitLogging("tester", "info", "json");
  Resolve(bare_.get(), "a", {{"traceparent", kParent}, {"x-request-id", "abc"}});
  spdlog::info("outside");
  const std::string text = ::testing::internal::GetCapturedStderr();
  server_.reset();  // its threads log
  InitLogging("tester");
  EXPECT_THAT(text, HasSubstr(absl::StrCat("\"message\":\"resolving a\",\"trace_id\":\"", kTraceId,
                                           "\",\"request_id\":\"abc\",\"method\":"
                                           "\"/shiftadd.v1.PackageService/ResolveReference\"}")));
  EXPECT_THAT(text.substr(text.find("outside")), Not(HasSubstr("trace_id")));
}

TEST_F(CallTraceTest, TheLineAboutTheAnswerHasWhatTheHandlerNoted) {
  ::testing::internal::CaptureStderr();
  InitLogging("tester", "debug", "json");
  recorder_.note = {{"job", "job-7"}};
  Resolve(bare_.get(), "a");
  const std::string text = ::testing::internal::GetCapturedStderr();
  server_.reset();
  InitLogging("tester");
  const size_t answer = text.find("\"message\":\"/shiftadd.v1.PackageService/ResolveReference: 0");
  ASSERT_NE(answer, std::string::npos) << text;
  EXPECT_THAT(text.substr(answer, text.find('\n', answer) - answer),
              HasSubstr("\"job\":\"job-7\""));
}

TEST(GrpcLog, GoesThroughOurs) {
  ::testing::internal::CaptureStderr();
  InitLogging("tester", "info", "json");
  LogGrpcThroughOurs();
  gpr_log(GPR_ERROR, "said by gRPC: %d", 7);
  gpr_log(GPR_DEBUG, "not shown");
  const std::string text = ::testing::internal::GetCapturedStderr();
  InitLogging("tester");
  const auto line = nlohmann::json::parse(text, nullptr, false);
  ASSERT_TRUE(line.is_object()) << text;
  EXPECT_EQ(line["level"], "warning");
  EXPECT_THAT(line["message"].get<std::string>(),
              MatchesRegex("gRPC: call_trace_test.cc:[0-9]+: said by gRPC: 7"));
}

}  // namespace
}  // namespace shiftadd::rpc
