// Bad input over real sockets to a real server: every row with its answer, and the server serves
// on.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/time/clock.h"
#include "services/rpc/rpc.h"
#include "shiftadd/v1/generate.grpc.pb.h"
#include "tests/serving.h"

namespace shiftadd::testing {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

constexpr char kModel[] = "tiny:x";
constexpr char kChat[] = "/v1/chat/completions";
constexpr char kText[] = "/v1/completions";

// One server for all tests of this program. The context is 512 tokens.
class ServeBadInput : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    serving_ = new Serving();
    serving_->Publish(kModel, 1);
    serving_->StartServer({kModel}, {"--queue", "2", "--client-queue", "2", "--sequences", "2"});
  }
  static void TearDownTestSuite() {
    delete serving_;
    serving_ = nullptr;
  }
  // Whatever was thrown at it: it answers, and nothing is left running.
  void TearDown() override {
    ASSERT_TRUE(serving_->server().running()) << serving_->ServerLog();
    EXPECT_TRUE(AwaitIdle());
    const json body = {{"prompt", {5, 80, 33}}, {"max_tokens", 4}, {"ignore_eos", true}};
    const HttpAnswer answer = serving_->Post(kText, body);
    ASSERT_EQ(answer.status, 200) << answer.body;
    EXPECT_EQ(json::parse(answer.body)["usage"]["completion_tokens"], 4);
  }

  static bool AwaitIdle() {
    for (int i = 0; i < 1000; ++i) {
      const std::string metrics = serving_->Get("/metrics").body;
      if (absl::StrContains(metrics, "shiftadd_running_sequences{model=\"tiny:x\"} 0\n") &&
          absl::StrContains(metrics, "shiftadd_queue_depth{model=\"tiny:x\"} 0\n")) {
        return true;
      }
      absl::SleepFor(absl::Milliseconds(10));
    }
    return false;
  }
  static std::unique_ptr<HttpClient> NewClient(absl::Duration timeout = absl::Seconds(30)) {
    return std::make_unique<HttpClient>(serving_->http_port(), timeout);
  }

  static Serving* serving_;
};
Serving* ServeBadInput::serving_ = nullptr;

struct Row {
  const char* what;
  std::string path;
  std::string body;
  int status;
  std::vector<std::string> says;  // in the answer
  std::string method = "POST";
  std::string headers = "Content-Type: application/json\r\n";
};

// {"prompt": "hello", FIELD: VALUE} with the value as it is written.
std::string With(const std::string& field, const std::string& value) {
  return absl::StrCat(R"({"prompt": "hello", "max_tokens": 3, ")", field, "\": ", value, "}");
}

std::string Chat(const std::string& messages) {
  return absl::StrCat(R"({"max_tokens": 3, "messages": )", messages, "}");
}

std::string Words(int count) {
  std::string text;
  for (int i = 0; i < count; ++i) absl::StrAppend(&text, "w", i, " ");
  return text;
}

std::vector<Row> Rows() {
  const std::string stops = absl::StrCat("[", std::string(100 * 4 - 1, ' '), "]");
  std::string hundred = "[\"a\"";
  for (int i = 1; i < 100; ++i) absl::StrAppend(&hundred, ",\"s", i, "\"");
  hundred += "]";
  const std::string user = R"([{"role": "user", "content": "hi"}])";
  const std::string long_chat =
      absl::StrCat(R"([{"role": "user", "content": ")", Words(600), "\"}]");
  std::vector<Row> rows = {
      // The body as a whole.
      {"not JSON", kChat, "hello", 400, {"not valid JSON"}},
      {"an empty body", kChat, "", 400, {"empty"}},
      {"half a document", kChat, R"({"messages": [)", 400, {"not valid JSON"}},
      {"two documents", kText, R"({"prompt": "a"}{"prompt": "b"})", 400, {"not valid JSON"}},
      {"invalid UTF-8",
       kChat,
       Chat("[{\"role\": \"user\", \"content\": \"\xff\xfe\"}]"),
       400,
       {"UTF-8"}},
      {"half a surrogate pair", kText, R"({"prompt": "\ud800"})", 400, {"not valid"}},
      {"100,000 brackets", kChat, std::string(100000, '['), 400, {"nests deeper"}},
      {"100,000 braces",
       kChat,
       absl::StrReplaceAll(std::string(100000, '{'), {{"{", "{\"a\":"}}),
       400,
       {"nests deeper"}},
      {"an array", kChat, "[1]", 400, {"object"}},
      {"a string", kText, "\"x\"", 400, {"object"}},
      // Messages.
      {"no messages", kChat, "{}", 400, {"messages", "missing"}},
      {"messages a string", kChat, Chat("\"hello\""), 400, {"messages", "list"}},
      {"no message in messages", kChat, Chat("[]"), 400, {"messages", "empty"}},
      {"a message that is a number", kChat, Chat("[5]"), 400, {"messages[0]"}},
      {"a content that is a number",
       kChat,
       Chat(R"([{"role": "user", "content": 5}])"),
       400,
       {"messages[0].content"}},
      {"no content", kChat, Chat(R"([{"role": "user"}])"), 400, {"messages[0].content"}},
      {"an image",
       kChat,
       Chat(R"([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}])"),
       400,
       {"text"}},
      {"an unknown role",
       kChat,
       Chat(R"([{"role": "wizard", "content": "x"}])"),
       400,
       {"messages[0].role", "wizard"}},
      // Types and ranges.
      {"max_tokens a string", kText, With("max_tokens", "\"3\""), 400, {"max_tokens", "integer"}},
      {"max_tokens a fraction", kText, With("max_tokens", "2.5"), 400, {"max_tokens", "2.5"}},
      {"max_tokens -5", kText, With("max_tokens", "-5"), 400, {"max_tokens", "-5"}},
      {"max_tokens 10^12",
       kText,
       With("max_tokens", "1000000000000"),
       400,
       {"max_tokens", "1000000000000"}},
      {"max_tokens 10^30",
       kText,
       With("max_tokens", "1" + std::string(30, '0')),
       400,
       {"max_tokens"}},
      {"max_tokens as large as the context allows",
       kText,
       With("max_tokens", "2147483647"),
       200,
       {"\"usage\""}},
      {"max_tokens 0", kText, With("max_tokens", "0"), 200, {"\"completion_tokens\":0"}},
      {"temperature a string", kText, With("temperature", "\"1\""), 400, {"temperature", "number"}},
      {"temperature -1", kText, With("temperature", "-1"), 400, {"temperature", "-1"}},
      {"temperature NaN", kText, With("temperature", "NaN"), 400, {"not valid JSON"}},
      {"temperature \"NaN\"", kText, With("temperature", "\"NaN\""), 400, {"temperature"}},
      {"temperature 1e999", kText, With("temperature", "1e999"), 400, {"JSON"}},
      {"top_p 7", kText, With("top_p", "7"), 400, {"top_p", "7"}},
      {"top_p -0.1", kText, With("top_p", "-0.1"), 400, {"top_p"}},
      {"min_p 2", kText, With("min_p", "2"), 400, {"min_p"}},
      {"top_k -7", kText, With("top_k", "-7"), 400, {"top_k"}},
      {"frequency_penalty 3", kText, With("frequency_penalty", "3"), 400, {"frequency_penalty"}},
      {"logprobs -1", kText, With("logprobs", "-1"), 400, {"logprobs"}},
      {"logprobs 10000", kText, With("logprobs", "10000"), 400, {"logprobs"}},
      {"n 0", kText, With("n", "0"), 400, {"n: "}},
      {"n 1000", kText, With("n", "1000"), 400, {"n: "}},
      {"best_of beyond n", kText, With("best_of", "2"), 400, {"best_of"}},
      {"stream a string", kText, With("stream", "\"yes\""), 400, {"stream"}},
      {"stream_options without a stream", kText, With("stream_options", "{}"), 400, {"stream"}},
      {"seed a string", kText, With("seed", "\"x\""), 400, {"seed"}},
      {"100 stops", kText, With("stop", hundred), 400, {"stop", "at most"}},
      {"a stop that is a number", kText, With("stop", "[5]"), 400, {"stop"}},
      {"stops that are blanks", kText, With("stop", stops), 200, {"choices"}},
      {"a logit_bias for no token",
       kText,
       With("logit_bias", R"({"99999999": 1})"),
       400,
       {"logit_bias"}},
      // What is not built is said.
      {"tools",
       kChat,
       R"({"messages": )" + user +
           R"(, "tools": [{"type": "function", "function": {"name": "f"}}]})",
       400,
       {"tools", "not supported"}},
      {"JSON mode",
       kChat,
       R"({"messages": )" + user + R"(, "response_format": {"type": "json_object"}})",
       400,
       {"response_format"}},
      {"a suffix", kText, With("suffix", "\"x\""), 400, {"suffix"}},
      {"template variables that are a list",
       kChat,
       R"({"messages": )" + user + R"(, "chat_template_kwargs": [1]})",
       400,
       {"chat_template_kwargs", "object"}},
      {"template variables that replace messages",
       kChat,
       R"({"messages": )" + user + R"(, "chat_template_kwargs": {"messages": []}})",
       400,
       {"chat_template_kwargs", "messages"}},
      // What clients send and nobody means.
      {"unknown fields", kText, With("no_such_field", R"({"a": [1, null]})"), 200, {"choices"}},
      {"nulls for absent fields", kText, With("stop", "null"), 200, {"choices"}},
      // Prompts.
      {"no prompt", kText, "{}", 400, {"prompt", "missing"}},
      {"an empty list of prompts", kText, R"({"prompt": []})", 400, {"prompt"}},
      {"a token id beyond the vocabulary", kText, R"({"prompt": [99999999]})", 400, {"token id"}},
      {"a negative token id", kText, R"({"prompt": [-1]})", 400, {"-1"}},
      {"a token id that is no number", kText, R"({"prompt": [[1, "x"]]})", 400, {"prompt[0]"}},
      {"2000 prompts",
       kText,
       absl::StrCat(R"({"prompt": ["a")",
                    absl::StrReplaceAll(std::string(1999, 'a'), {{"a", ",\"a\""}}), "]}"),
       400,
       {"2000", "at most"}},
      {"too long a prompt",
       kText,
       absl::StrCat(R"({"prompt": ")", Words(600), "\"}"),
       400,
       {"exceed_context_size_error", "n_prompt_tokens", "\"n_ctx\":512"}},
      {"too long a chat", kChat, Chat(long_chat), 400, {"exceed_context_size_error"}},
      {"too long a chat, streamed",
       kChat,
       absl::StrCat(R"({"stream": true, "messages": )", long_chat, "}"),
       400,
       {"exceed_context_size_error"}},
      {"7 MB of prompt",
       kText,
       absl::StrCat(R"({"prompt": ")", std::string(7 << 20, 'x'), "\"}"),
       400,
       {"exceed_context_size_error"}},
      // Names.
      {"an unknown model",
       kText,
       With("model", "\"gpt-4\""),
       404,
       {"model_not_found", "gpt-4", kModel}},
      {"a model that is a number", kText, With("model", "4"), 400, {"model"}},
      {"an unknown path", "/v1/images", "{}", 404, {"no such path"}},
      {"GET where POST belongs", kChat, "", 405, {"POST"}, "GET", ""},
      {"DELETE where POST belongs", kText, "", 405, {"POST"}, "DELETE", ""},
      {"POST where GET belongs", "/v1/models", "{}", 405, {"GET"}},
      {"text/plain",
       kText,
       With("n", "1"),
       415,
       {"application/json"},
       "POST",
       "Content-Type: text/plain\r\n"},
      {"no content type", kText, With("n", "1"), 200, {"choices"}, "POST", ""},
      {"a method that nobody knows", kText, "", 405, {"POST"}, "BREW", ""},
      {"an expectation that nobody has",
       kText,
       "{}",
       417,
       {"100-continue"},
       "POST",
       "Expect: miracles\r\n"},
      {"40 kB of headers",
       kText,
       "{}",
       431,
       {"headers"},
       "POST",
       "X-Long: " + std::string(40000, 'x') + "\r\n"},
      {"token ids to decode that are none", "/detokenize", R"({"tokens": ["x"]})", 400, {"tokens"}},
      {"nothing to tokenize", "/tokenize", "{}", 400, {"prompt"}},
  };
  return rows;
}

TEST_F(ServeBadInput, EveryRowHasItsAnswer) {
  for (const Row& row : Rows()) {
    SCOPED_TRACE(row.what);
    const auto client = NewClient();
    client->Send(absl::StrCat(row.method, " ", row.path, " HTTP/1.1\r\nHost: x\r\n", row.headers,
                              "Content-Length: ", row.body.size(), "\r\n\r\n", row.body));
    const HttpAnswer answer = client->Receive();
    EXPECT_EQ(answer.status, row.status) << answer.body.substr(0, 500);
    EXPECT_EQ(answer.fault, "");
    for (const std::string& words : row.says) EXPECT_THAT(answer.body, HasSubstr(words));
    EXPECT_EQ(answer.headers.at("content-type"), "application/json");
    EXPECT_NE(answer.headers.at("x-request-id"), "");
    if (row.status < 400) continue;
    const json error = json::parse(answer.body, nullptr, false);
    ASSERT_TRUE(error.is_object() && error.contains("error")) << answer.body.substr(0, 500);
    EXPECT_TRUE(error["error"]["message"].is_string());
    EXPECT_TRUE(error["error"]["type"].is_string());
    EXPECT_FALSE(error["error"]["code"].is_null());
    EXPECT_EQ(answer.headers.count("allow"), row.status == 405 ? 1u : 0u);
  }
}

TEST_F(ServeBadInput, BytesThatAreNoHttp) {
  const struct {
    const char* what;
    std::string bytes;
    int status;
  } rows[] = {
      {"noise", std::string("\x16\x03\x01\x00\xff\xfe\n\n", 8), 400},
      {"no path", "POST\r\n\r\n", 400},
      {"a header without a colon", "GET /health HTTP/1.1\r\nnonsense\r\n\r\n", 400},
      {"a length that is no number", "POST /v1/completions HTTP/1.1\r\nContent-Length: x\r\n\r\n",
       400},
      {"a negative length", "POST /v1/completions HTTP/1.1\r\nContent-Length: -5\r\n\r\n", 400},
      {"two lengths",
       "POST /v1/completions HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400},
      {"a chunk without a length",
       "POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(row.what);
    const auto client = NewClient();
    client->Send(row.bytes);
    EXPECT_EQ(client->Receive().status, row.status);
  }
}

TEST_F(ServeBadInput, FiftyMegabytesAreRefusedAtOnce) {
  const std::string body = absl::StrCat(R"({"prompt": ")", std::string(50 << 20, 'x'), "\"}");
  const HttpAnswer by_length = NewClient()->Post(kText, body);
  EXPECT_EQ(by_length.status, 413) << by_length.fault;
  EXPECT_THAT(by_length.body, HasSubstr("exceeds"));
  // Before any of it is sent.
  const auto patient = NewClient();
  patient->Send(absl::StrCat("POST ", kText, " HTTP/1.1\r\nContent-Length: 52428800\r\n\r\n"));
  EXPECT_EQ(patient->Receive().status, 413);
  // A length that is not said beforehand.
  const auto chunked = NewClient();
  chunked->Send(absl::StrCat("POST ", kText, " HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"));
  const std::string chunk = absl::StrCat("100000\r\n", std::string(1 << 20, 'x'), "\r\n");
  for (int i = 0; i < 50 && chunked->Send(chunk); ++i) {
  }
  EXPECT_EQ(chunked->Receive().status, 413);
}

TEST_F(ServeBadInput, SlowHeadersEndWith408) {
  const auto client = NewClient();
  std::atomic<bool> over{false};
  std::thread drip([&] {
    const std::string head = "POST /v1/completions HTTP/1.1\r\nHost: a-slow-client\r\n";
    for (const char c : head) {
      if (over || !client->Send(absl::string_view(&c, 1))) return;
      absl::SleepFor(absl::Milliseconds(500));
    }
  });
  EXPECT_EQ(client->Receive().status, 408);
  over = true;
  drip.join();
}

TEST_F(ServeBadInput, ClientsThatVanish) {
  const std::string post = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: ";
  NewClient()->Abort();  // said nothing
  for (const std::string& begun : {post, post + "100\r\n\r\n{\"prompt\"", post + "x"}) {
    const auto client = NewClient();
    client->Send(begun);
    client->Abort();
  }
  // In the middle of answers, streamed and not.
  for (int i = 0; i < 8; ++i) {
    const json body = {{"prompt", {5, 80, 33}},
                       {"max_tokens", 500},
                       {"ignore_eos", true},
                       {"stream", i % 2 == 0},
                       {"n", 4}};
    const std::string text = body.dump();
    const auto client = NewClient();
    client->Send(absl::StrCat(post, text.size(), "\r\n\r\n", text));
    absl::SleepFor(absl::Milliseconds(10));
    client->Abort();
    EXPECT_TRUE(AwaitIdle()) << "the sequences of a client that has gone run on";
  }
}

TEST_F(ServeBadInput, FullQueueAnswers429WithRetryAfter) {
  const json body = {{"prompt", {5, 80, 33}},
                     {"max_tokens", 300},
                     {"ignore_eos", true},
                     {"n", 8},
                     {"stream", true}};
  std::atomic<int> whole{0}, refused{0};
  std::vector<std::thread> clients;
  for (int i = 0; i < 24; ++i) {
    clients.emplace_back([&, i] {
      const HttpAnswer answer = NewClient(absl::Seconds(120))->Post(kText, body.dump());
      if (answer.ok() && absl::EndsWith(answer.body, "data: [DONE]\n\n")) {
        ++whole;
      } else if (answer.status == 429) {
        ++refused;
        EXPECT_EQ(answer.headers.at("retry-after"), "1");
        EXPECT_THAT(answer.body, HasSubstr("rate_limit_error"));
        EXPECT_THAT(answer.body, HasSubstr("queue is full"));
      } else {
        ADD_FAILURE() << answer.status << " " << answer.fault << " " << answer.body;
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_GE(whole, 2);
  EXPECT_GE(refused, 1);
  EXPECT_EQ(whole + refused, 24);
}

TEST_F(ServeBadInput, MoreConnectionsThanTheLimit) {
  std::vector<std::unique_ptr<HttpClient>> idle;
  for (int i = 0; i < 256; ++i) idle.push_back(NewClient());
  // Each is served once the server has taken it.
  for (const auto& client : idle) ASSERT_EQ(client->Get("/health").status, 200);
  for (int i = 0; i < 4; ++i) {
    const HttpAnswer answer = NewClient()->Get("/health");
    EXPECT_EQ(answer.status, 503) << answer.fault;
    EXPECT_THAT(answer.body, HasSubstr("too many connections"));
  }
  idle.clear();
  bool again = false;
  for (int i = 0; i < 500 && !again; ++i) {
    again = serving_->Get("/health").status == 200;
    if (!again) absl::SleepFor(absl::Milliseconds(10));
  }
  EXPECT_TRUE(again);
}

TEST_F(ServeBadInput, GrpcAnswersWithItsCodes) {
  const auto stub = v1::GenerateService::NewStub(
      rpc::MakeChannel(absl::StrCat("127.0.0.1:", serving_->grpc_port())));
  const auto code = [&](const v1::GenerateRequest& request) {
    grpc::ClientContext context;
    rpc::SetDeadline(&context, absl::Seconds(60));
    const auto reader = stub->Generate(&context, request);
    v1::GenerateResponse response;
    while (reader->Read(&response)) {
    }
    return reader->Finish().error_code();
  };
  v1::GenerateRequest request;
  EXPECT_EQ(code(request), grpc::StatusCode::INVALID_ARGUMENT);
  request.mutable_tokens()->add_ids(5);
  request.set_max_tokens(2);
  EXPECT_EQ(code(request), grpc::StatusCode::OK);
  request.set_model("gpt-4");
  EXPECT_EQ(code(request), grpc::StatusCode::NOT_FOUND);
  request.clear_model();
  request.mutable_sampling()->set_temperature(std::numeric_limits<double>::quiet_NaN());
  EXPECT_EQ(code(request), grpc::StatusCode::INVALID_ARGUMENT);
  request.clear_sampling();
  for (int i = 0; i < 100; ++i) request.add_stop("x");
  EXPECT_EQ(code(request), grpc::StatusCode::INVALID_ARGUMENT);
  request.clear_stop();
  for (int i = 0; i < 600; ++i) request.mutable_tokens()->add_ids(5);
  EXPECT_EQ(code(request), grpc::StatusCode::OUT_OF_RANGE);
}

// Over both ports one client has one rate; what watches the server is not held to it.
TEST(ServeRate, OneClientIsHeldToIt) {
  Serving serving;
  serving.Publish(kModel, 1);
  serving.StartServer({kModel}, {"--client-requests-per-second", "0.001"});
  const json body = {{"prompt", {5, 80, 33}}, {"max_tokens", 1}};
  EXPECT_EQ(serving.Post(kText, body).status, 200);
  const HttpAnswer refused = serving.Post(kText, body);
  EXPECT_EQ(refused.status, 429) << refused.body;
  EXPECT_EQ(refused.headers.at("retry-after"), "1000");
  EXPECT_THAT(refused.body, HasSubstr("more than 0.001 requests a second"));
  const auto stub = v1::GenerateService::NewStub(
      rpc::MakeChannel(absl::StrCat("127.0.0.1:", serving.grpc_port())));
  grpc::ClientContext context;
  rpc::SetDeadline(&context, absl::Seconds(60));
  v1::ModelInfo info;
  EXPECT_EQ(stub->GetModelInfo(&context, v1::GetModelInfoRequest(), &info).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(serving.Get("/health").status, 200);
  EXPECT_THAT(serving.Get("/metrics").body, HasSubstr("shiftadd_rate_limited_requests_total 2\n"));
}

}  // namespace
}  // namespace shiftadd::testing
