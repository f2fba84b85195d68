// Raw sockets on the client's side: what matters here is what no client library would send.
#include "services/http/http_server.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <filesystem>
#include <iterator>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "nlohmann/json.hpp"
#include "services/http/percent_encoding.h"

namespace shiftadd::http {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::StartsWith;

class Client {
 public:
  explicit Client(int port) : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  }
  ~Client() { Close(); }
  void Close() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }
  void EndOwnSide() const { shutdown(fd_, SHUT_WR); }
  void Send(const std::string& data) const {
    size_t done = 0;
    while (done < data.size()) {
      const ssize_t n = send(fd_, data.data() + done, data.size() - done, MSG_NOSIGNAL);
      if (n <= 0) return;
      done += static_cast<size_t>(n);
    }
  }
  // Until `text` was read, the server closes, or 10 s passed.
  std::string ReadUntil(const std::string& text) {
    const absl::Time until = absl::Now() + absl::Seconds(10);
    while (text.empty() || got_.find(text) == std::string::npos) {
      pollfd p{fd_, POLLIN, 0};
      if (absl::Now() > until || poll(&p, 1, 100) < 0) break;
      if (p.revents == 0) continue;
      char buffer[65536];
      const ssize_t n = recv(fd_, buffer, sizeof(buffer), 0);
      if (n <= 0) {
        closed_ = true;
        break;
      }
      got_.append(buffer, static_cast<size_t>(n));
    }
    return std::exchange(got_, "");
  }
  std::string ReadAll() { return ReadUntil(""); }
  bool closed() const { return closed_; }

 private:
  int fd_;
  bool closed_ = false;
  std::string got_;
};

std::string Get(const std::string& path) { return "GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n"; }
std::string GetAndClose(const std::string& path) {
  return "GET " + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
}

class HttpServerTest : public testing::Test {
 protected:
  void SetUp() override {
    options_.address = "127.0.0.1:0";
    options_.max_body_bytes = 1000;
    options_.header_timeout_seconds = 1;
    Start();
  }

  void Start() {
    HttpServer::Routes routes;
    routes["/hello"]["GET"] = [](const Request& r, StreamWriter*) {
      Response response;
      response.content_type = "text/plain";
      response.headers["X-Query"] = r.query;
      response.body = "hello";
      return response;
    };
    routes["/peer"]["GET"] = [](const Request& r, StreamWriter*) {
      Response response;
      response.body = "from " + r.peer + ".";
      return response;
    };
    routes["/echo"]["POST"] = [](const Request& r, StreamWriter*) {
      Response response;
      response.body = r.headers.count("x-name") > 0 ? r.headers.at("x-name") + r.body : r.body;
      return response;
    };
    routes["/below/*"]["GET"] = [](const Request& r, StreamWriter*) {
      Response response;
      response.body = "below " + r.path;
      return response;
    };
    routes["/below/own"]["GET"] = routes["/hello"]["GET"];
    routes["/throw"]["GET"] = [](const Request&, StreamWriter*) -> Response {
      throw std::runtime_error("secret");
    };
    routes["/stream"]["GET"] = [](const Request&, StreamWriter* writer) {
      Response head;
      head.content_type = "text/event-stream";
      writer->Start(head);
      writer->Write("data: 1\n\n");
      writer->Write("");
      writer->Write("data: 2\n\n");
      return Response();
    };
    routes["/endless"]["GET"] = [this](const Request&, StreamWriter* writer) {
      ++running_;
      writer->Start(Response());
      writer->Write("started");
      while (writer->Connected()) absl::SleepFor(absl::Milliseconds(5));
      EXPECT_FALSE(writer->Write("more"));
      --running_;
      return Response();
    };
    // Answers when it is let go, or when its client has gone.
    routes["/patient"]["GET"] = [this](const Request& r, StreamWriter* writer) {
      ++running_;
      const bool stream = r.query == "stream";
      Response response;
      if (stream) response.content_type = "text/event-stream";
      if (stream) writer->Start(response);
      while (writer->Connected() && !let_go_) absl::SleepFor(absl::Milliseconds(5));
      if (!writer->Connected()) ++left_;
      response.body = "data: the answer\n\n";
      if (stream) writer->Write(response.body);
      --running_;
      return response;
    };
    routes["/flood"]["GET"] = [this](const Request&, StreamWriter* writer) {
      ++running_;
      writer->Start(Response());
      while (writer->Write(std::string(1 << 20, 'x'))) {
      }
      --running_;
      return Response();
    };
    routes["/slow"]["GET"] = [this](const Request&, StreamWriter*) {
      ++running_;
      absl::SleepFor(absl::Milliseconds(300));
      --running_;
      Response response;
      response.body = "late";
      return response;
    };
    routes["/half"]["GET"] = [](const Request&, StreamWriter* writer) -> Response {
      writer->Start(Response());
      writer->Write("half");
      throw std::runtime_error("x");
    };
    options_.guard = [](const Request& head) -> std::optional<Response> {
      if (head.headers.count("x-refuse") == 0) return std::nullopt;
      return JsonError(401, "refused");
    };
    options_.cors_origins = {"https://friend.example"};
    auto server = HttpServer::Start(options_, routes);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  std::string Ask(const std::string& request) {
    Client client(server_->port());
    client.Send(request);
    return client.ReadAll();
  }
  bool WaitRunning(int count) const {
    for (int i = 0; i < 1000 && running_ != count; ++i) absl::SleepFor(absl::Milliseconds(10));
    return running_ == count;
  }

  HttpServerOptions options_;
  std::atomic<int> running_{0};
  std::atomic<int> left_{0};  // clients that /patient has noticed to be gone
  std::atomic<bool> let_go_{false};
  std::unique_ptr<HttpServer> server_;
};

void ExpectError(const std::string& answer, int status) {
  EXPECT_THAT(answer, StartsWith(absl::StrCat("HTTP/1.1 ", status, " ")));
  const size_t body = answer.find("\r\n\r\n");
  ASSERT_NE(body, std::string::npos) << answer;
  const json parsed = json::parse(answer.substr(body + 4), nullptr, false);
  ASSERT_TRUE(parsed.is_object()) << answer;
  for (const char* key : {"message", "type", "code"}) EXPECT_TRUE(parsed["error"].contains(key));
  EXPECT_FALSE(parsed["error"]["code"].is_null());
}

TEST_F(HttpServerTest, HandlersKnowTheAddressOfEachRequest) {
  Client client(server_->port());
  for (int i = 0; i < 2; ++i) {
    client.Send(Get("/peer"));
    EXPECT_THAT(client.ReadUntil("from 127.0.0.1."), HasSubstr("from 127.0.0.1."));
  }
}

TEST_F(HttpServerTest, AnswersAndKeepsTheConnection) {
  Client client(server_->port());
  for (int i = 0; i < 3; ++i) {
    client.Send(Get("/hello?a=b&c"));
    const std::string answer = client.ReadUntil("\r\n\r\nhello");
    EXPECT_THAT(answer, StartsWith("HTTP/1.1 200 OK\r\n"));
    EXPECT_THAT(answer, HasSubstr("X-Query: a=b&c\r\n"));
    EXPECT_THAT(answer, HasSubstr("Content-Length: 5\r\n"));
  }
  client.Send(GetAndClose("/hello"));
  client.ReadAll();
  EXPECT_TRUE(client.closed());
}

TEST_F(HttpServerTest, PipelinedAndHttp10Requests) {
  const std::string two = Ask(Get("/hello") + GetAndClose("/hello"));
  EXPECT_EQ(std::vector<std::string>(absl::StrSplit(two, "HTTP/1.1 200")).size(), 3u);
  EXPECT_THAT(Ask("GET /hello HTTP/1.0\r\n\r\n"), HasSubstr("hello"));
  EXPECT_THAT(Ask("GET http://host/hello HTTP/1.1\r\nConnection: close\r\n\r\n"),
              HasSubstr("hello"));
}

TEST_F(HttpServerTest, BodiesAndHeadersReachTheHandler) {
  EXPECT_THAT(Ask("POST /echo HTTP/1.1\r\nX-Name: n-\r\nContent-Length: 4\r\n"
                  "Connection: close\r\n\r\nbody"),
              testing::EndsWith("\r\n\r\nn-body"));
  EXPECT_THAT(Ask("POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
                  "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"),
              testing::EndsWith("\r\n\r\nabcde"));
}

TEST_F(HttpServerTest, HeadHasNoBody) {
  const std::string answer = Ask("HEAD /hello HTTP/1.1\r\nConnection: close\r\n\r\n");
  EXPECT_THAT(answer, HasSubstr("Content-Length: 5\r\n"));
  EXPECT_THAT(answer, testing::EndsWith("\r\n\r\n"));
  EXPECT_THAT(Ask("HEAD /stream HTTP/1.1\r\nConnection: close\r\n\r\n"),
              testing::EndsWith("\r\n\r\n"));
}

TEST_F(HttpServerTest, UnknownPathsAndMethods) {
  ExpectError(Ask(GetAndClose("/nope")), 404);
  const std::string answer = Ask("DELETE /hello HTTP/1.1\r\nConnection: close\r\n\r\n");
  ExpectError(answer, 405);
  EXPECT_THAT(answer, HasSubstr("Allow: GET, HEAD\r\n"));
  ExpectError(Ask("BREW /echo HTTP/1.1\r\nConnection: close\r\n\r\n"), 405);
  ExpectError(Ask(GetAndClose("/\xff\xfe")), 404);
}

TEST_F(HttpServerTest, ARouteMayTakeWhatLiesBelowAPath) {
  for (const char* path : {"/below/x", "/below/x/y", "/below/own/z", "/below/%2F:"}) {
    EXPECT_THAT(Ask(GetAndClose(path)), testing::EndsWith(absl::StrCat("below ", path)));
  }
  EXPECT_THAT(Ask(GetAndClose("/below/own")), testing::EndsWith("\r\n\r\nhello"));
  for (const char* path : {"/below", "/below/", "/belows/x", "/"}) {
    ExpectError(Ask(GetAndClose(path)), 404);
  }
  ExpectError(Ask("DELETE /below/x HTTP/1.1\r\nConnection: close\r\n\r\n"), 405);
}

TEST(PercentDecoded, LeavesWhatIsNoCode) {
  EXPECT_EQ(PercentDecoded("a%3Ab%2fc%"), "a:b/c%");
  EXPECT_EQ(PercentDecoded("%3%zz%4"), "%3%zz%4");
  EXPECT_EQ(PercentDecoded("%25%33%41"), "%3A");
}

TEST_F(HttpServerTest, AThrowingHandlerIs500WithoutItsMessage) {
  const std::string answer = Ask(GetAndClose("/throw"));
  ExpectError(answer, 500);
  EXPECT_THAT(answer, testing::Not(HasSubstr("secret")));
}

TEST_F(HttpServerTest, LargeBodiesAre413BeforeTheyAreSent) {
  Client client(server_->port());
  client.Send("POST /echo HTTP/1.1\r\nContent-Length: 1001\r\n\r\n");
  ExpectError(client.ReadUntil("}}"), 413);
  ExpectError(Ask("POST /echo HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n"), 400);
  ExpectError(Ask("POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n" +
                  std::string(2000, 'x') + "\r\n0\r\n\r\n"),
              413);
  EXPECT_THAT(Ask("POST /echo HTTP/1.1\r\nContent-Length: 1000\r\nConnection: close\r\n\r\n" +
                  std::string(1000, 'x')),
              StartsWith("HTTP/1.1 200"));
}

TEST_F(HttpServerTest, BodiesInOtherCodingsAreRefusedAndNotTakenForRequests) {
  // What follows the head would be answered with 200 if it were read as a request.
  const std::string next = GetAndClose("/hello");
  for (const char* coding : {"gzip", "gzip, chunked", "identity"}) {
    const std::string answer =
        Ask(absl::StrCat("POST /echo HTTP/1.1\r\nTransfer-Encoding: ", coding, "\r\n\r\n", next));
    ExpectError(answer, 501);
    EXPECT_THAT(answer, testing::Not(HasSubstr("HTTP/1.1 200"))) << coding;
  }
  const auto with_content_coding = [](const char* coding) {
    return absl::StrCat("POST /echo HTTP/1.1\r\nContent-Encoding: ", coding,
                        "\r\nContent-Length: 5\r\nConnection: close\r\n\r\nabcde");
  };
  ExpectError(Ask(with_content_coding("gzip")), 415);
  EXPECT_THAT(Ask(with_content_coding("Identity")), testing::EndsWith("\r\n\r\nabcde"));
}

TEST_F(HttpServerTest, LargeHeadersAre431) {
  ExpectError(Ask("GET /hello HTTP/1.1\r\nX: " + std::string(100'000, 'x') + "\r\n\r\n"), 431);
}

TEST_F(HttpServerTest, SlowHeadersAre408AndSilenceIsClosed) {
  Client slow(server_->port()), silent(server_->port());
  slow.Send("GET /hello HTTP/1.1\r\nX: ");
  ExpectError(slow.ReadAll(), 408);
  EXPECT_EQ(silent.ReadAll(), "");
  EXPECT_TRUE(silent.closed());
}

TEST_F(HttpServerTest, EveryAnswerHasARequestId) {
  EXPECT_THAT(Ask("GET /hello HTTP/1.1\r\nX-Request-Id: mine-1\r\nConnection: close\r\n\r\n"),
              HasSubstr("X-Request-Id: mine-1\r\n"));
  const std::string made =
      Ask("GET /none HTTP/1.1\r\nX-Request-Id: a b\r\nConnection: close\r\n\r\n");
  EXPECT_THAT(made, HasSubstr("X-Request-Id: req-"));
  EXPECT_THAT(Ask("garbage\r\n\r\n"), HasSubstr("X-Request-Id: req-"));
}

TEST_F(HttpServerTest, AGuardRefusesBeforeTheBodyIsRead) {
  ExpectError(Ask("POST /echo HTTP/1.1\r\nX-Refuse: 1\r\nContent-Length: 1000\r\n\r\n"), 401);
}

TEST_F(HttpServerTest, OnlyNamedOriginsMayRead) {
  const auto ask = [this](const std::string& origin) {
    return Ask("GET /hello HTTP/1.1\r\nOrigin: " + origin + "\r\nConnection: close\r\n\r\n");
  };
  EXPECT_THAT(ask("https://friend.example"),
              HasSubstr("Access-Control-Allow-Origin: https://friend.example\r\n"));
  EXPECT_THAT(ask("https://other.example"), ::testing::Not(HasSubstr("Access-Control")));
}

TEST_F(HttpServerTest, GarbageIs400) {
  ExpectError(Ask("\x16\x03\x01 this is TLS\r\n\r\n"), 400);
  ExpectError(Ask("GET /hello HTTP/1.1\r\nno colon\r\n\r\n"), 400);
  ExpectError(Ask("POST /echo HTTP/1.1\r\nContent-Length: -1\r\n\r\n"), 400);
  ExpectError(Ask("POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), 400);
}

TEST_F(HttpServerTest, ARequestThatIsCutIs400) {
  const std::pair<const char*, const char*> cuts[] = {
      {"GE", "headers"},
      {"GET /hello HTTP/1.1\r\nHost: x\r\n", "headers"},
      {"POST /echo HTTP/1.1\r\nContent-Length: 10\r\n\r\nhalf", "body"},
      {"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", "body"}};
  for (const auto& [text, part] : cuts) {
    Client client(server_->port());
    client.Send(text);
    client.EndOwnSide();
    const std::string answer = client.ReadAll();
    ExpectError(answer, 400);
    EXPECT_THAT(answer, HasSubstr(absl::StrCat("was cut: it ended within its ", part)));
  }
  // Nothing of a request is none that was cut.
  for (const char* text : {"", "\r", "\r\n"}) {
    Client client(server_->port());
    client.Send(text);
    client.EndOwnSide();
    EXPECT_EQ(client.ReadAll(), "");
    EXPECT_TRUE(client.closed());
  }
}

TEST_F(HttpServerTest, AnEmptyLineBeforeARequestIsPassedOver) {
  EXPECT_THAT(Ask("\r\n" + GetAndClose("/hello")), HasSubstr("\r\n\r\nhello"));
  // Behind a body, as it was done once, and in two pieces.
  Client client(server_->port());
  client.Send("POST /echo HTTP/1.1\r\nContent-Length: 2\r\n\r\nok\r");
  EXPECT_THAT(client.ReadUntil("\r\n\r\nok"), HasSubstr("\r\n\r\nok"));
  client.Send("\n");
  client.Send(GetAndClose("/hello"));
  EXPECT_THAT(client.ReadAll(), testing::EndsWith("\r\n\r\nhello"));
  ExpectError(Ask("\r\n\r\n" + GetAndClose("/hello")), 400);
  ExpectError(Ask("\r" + GetAndClose("/hello")), 400);
}

TEST_F(HttpServerTest, ExpectContinue) {
  Client client(server_->port());
  client.Send(
      "POST /echo HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n"
      "Connection: close\r\n\r\n");
  EXPECT_EQ(client.ReadUntil("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  client.Send("ok");
  EXPECT_THAT(client.ReadAll(), testing::EndsWith("\r\n\r\nok"));
  ExpectError(Ask("POST /echo HTTP/1.1\r\nContent-Length: 2000\r\nExpect: 100-continue\r\n\r\n"),
              413);
  ExpectError(Ask("POST /echo HTTP/1.1\r\nContent-Length: 2\r\nExpect: tea\r\n\r\n"), 417);
  // Nobody takes the body: it is not asked for.
  const std::string rest = " HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n";
  ExpectError(Ask("POST /nowhere" + rest), 404);
  ExpectError(Ask("DELETE /echo" + rest), 405);
}

TEST_F(HttpServerTest, Http10HasNoExpectations) {
  for (const char* expect : {"100-continue", "tea"}) {
    Client client(server_->port());
    client.Send(
        absl::StrCat("POST /echo HTTP/1.0\r\nContent-Length: 2\r\nExpect: ", expect, "\r\n\r\n"));
    client.Send("ok");
    const std::string answer = client.ReadAll();
    EXPECT_THAT(answer, testing::StartsWith("HTTP/1.0 200 OK\r\n"));
    EXPECT_THAT(answer, testing::EndsWith("\r\n\r\nok"));
  }
}

TEST_F(HttpServerTest, StreamsChunks) {
  const std::string answer = Ask(GetAndClose("/stream"));
  EXPECT_THAT(answer, HasSubstr("Transfer-Encoding: chunked\r\n"));
  EXPECT_THAT(answer, HasSubstr("Content-Type: text/event-stream\r\n"));
  EXPECT_THAT(answer,
              testing::EndsWith("\r\n\r\n9\r\ndata: 1\n\n\r\n9\r\ndata: 2\n\n\r\n0\r\n\r\n"));
  Client kept(server_->port());
  kept.Send(Get("/stream"));
  kept.ReadUntil("0\r\n\r\n");
  kept.Send(GetAndClose("/hello"));
  EXPECT_THAT(kept.ReadAll(), HasSubstr("hello"));
  EXPECT_THAT(Ask("GET /stream HTTP/1.0\r\n\r\n"),
              testing::EndsWith("\r\n\r\ndata: 1\n\ndata: 2\n\n"));
}

TEST_F(HttpServerTest, ACutStreamIsSeenAsCut) {
  const std::string answer = Ask(Get("/half"));
  EXPECT_THAT(answer, testing::EndsWith("4\r\nhalf\r\n"));  // no last chunk
}

TEST_F(HttpServerTest, AHandlerLearnsThatItsClientHasGone) {
  for (const char* path : {"/endless", "/flood"}) {
    Client client(server_->port());
    client.Send(Get(path));
    ASSERT_TRUE(WaitRunning(1));
    client.Close();
    EXPECT_TRUE(WaitRunning(0)) << path;
  }
}

TEST_F(HttpServerTest, AClientThatEndsItsOwnSideGetsItsAnswer) {
  Client whole(server_->port()), stream(server_->port());
  whole.Send(Get("/patient"));
  stream.Send(Get("/patient?stream"));
  stream.ReadUntil("\r\n\r\n");
  for (const Client* client : {&whole, &stream}) client->EndOwnSide();
  // They are asked whether they are there, and are.
  EXPECT_EQ(whole.ReadUntil("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  EXPECT_EQ(stream.ReadUntil(":\n\n\r\n"), "3\r\n:\n\n\r\n");
  EXPECT_EQ(running_, 2);
  let_go_ = true;
  const std::string answer = whole.ReadAll();
  EXPECT_THAT(answer, HasSubstr("HTTP/1.1 200 OK\r\n"));
  EXPECT_THAT(answer, testing::EndsWith("\r\n\r\ndata: the answer\n\n"));
  EXPECT_THAT(stream.ReadAll(), testing::EndsWith("data: the answer\n\n\r\n0\r\n\r\n"));
  EXPECT_EQ(left_, 0);
}

TEST_F(HttpServerTest, AClientThatClosesWithoutAResetIsNoticed) {
  int gone = 0;
  for (const char* path : {"/patient", "/patient?stream"}) {
    Client client(server_->port());
    client.Send(Get(path));
    ASSERT_TRUE(WaitRunning(1));
    // What is not read would make the close a reset.
    if (absl::string_view(path) != "/patient") client.ReadUntil("\r\n\r\n");
    client.Close();
    EXPECT_TRUE(WaitRunning(0)) << path;
    EXPECT_EQ(left_, ++gone) << path;
  }
  // One who read on for a while.
  Client late(server_->port());
  late.Send(Get("/patient"));
  ASSERT_TRUE(WaitRunning(1));
  late.EndOwnSide();
  late.ReadUntil("\r\n\r\n");
  late.Close();
  EXPECT_TRUE(WaitRunning(0));
  EXPECT_EQ(left_, ++gone);
  // Where nothing can be asked.
  Client old(server_->port());
  old.Send("GET /patient HTTP/1.0\r\n\r\n");
  ASSERT_TRUE(WaitRunning(1));
  old.EndOwnSide();
  EXPECT_TRUE(WaitRunning(0));
  EXPECT_EQ(left_, ++gone);
}

TEST_F(HttpServerTest, TooManyConnectionsAre503) {
  server_.reset();
  options_.max_connections = 2;
  options_.header_timeout_seconds = 10;
  Start();
  Client a(server_->port()), b(server_->port());
  a.Send(Get("/hello"));
  a.ReadUntil("hello");
  b.Send(Get("/hello"));
  b.ReadUntil("hello");
  ExpectError(Ask(Get("/hello")), 503);
  {
    // Whoever is silent is no reason to leave others without an answer.
    std::vector<std::unique_ptr<Client>> silent;
    for (int i = 0; i < 40; ++i) silent.push_back(std::make_unique<Client>(server_->port()));
    ExpectError(Ask(Get("/hello")), 503);
    EXPECT_THAT(silent.back()->ReadAll(), HasSubstr("too many connections"));
  }
  a.Close();
  std::string answer;
  for (int i = 0; i < 100 && answer.find("hello\"") == std::string::npos; ++i) {
    answer = Ask(GetAndClose("/hello"));
    if (answer.find("HTTP/1.1 200") == 0) break;
    absl::SleepFor(absl::Milliseconds(20));
  }
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 200"));
}

int OpenFiles() {
  const std::filesystem::directory_iterator files("/proc/self/fd");
  return static_cast<int>(std::distance(begin(files), end(files)));
}

// Leaves so many files to be opened, until it ends.
class FewFiles {
 public:
  explicit FewFiles(int left) {
    getrlimit(RLIMIT_NOFILE, &before_);
    rlimit low = before_;
    low.rlim_cur = std::min<rlim_t>(before_.rlim_cur, 256);
    setrlimit(RLIMIT_NOFILE, &low);
    for (int fd = dup(STDERR_FILENO); fd >= 0; fd = dup(STDERR_FILENO)) fillers_.push_back(fd);
    for (; left > 0 && !fillers_.empty(); --left) Free();
  }
  ~FewFiles() {
    while (!fillers_.empty()) Free();
    setrlimit(RLIMIT_NOFILE, &before_);
  }

 private:
  void Free() {
    close(fillers_.back());
    fillers_.pop_back();
  }

  rlimit before_{};
  std::vector<int> fillers_;
};

TEST_F(HttpServerTest, RunningOutOfFilesCostsTheNewConnectionOnly) {
#if defined(__SANITIZE_ADDRESS__)
  // UBSan opens a pipe to see whether an object's memory can be read: without files none can.
  GTEST_SKIP() << "the sanitizer itself wants files";
#endif
  Client kept(server_->port());
  kept.Send(Get("/hello"));
  EXPECT_THAT(kept.ReadUntil("hello"), StartsWith("HTTP/1.1 200"));
  const int open = OpenFiles();
  // One for the client's socket, one for the server's; its event loop takes some more, and whatever
  // of them is missing, the server goes on.
  for (int left = 2; left <= 8; ++left) {
    for (int i = 0; i < 1000 && OpenFiles() > open; ++i) absl::SleepFor(absl::Milliseconds(10));
    std::string answer;
    {
      const FewFiles few(left);
      Client client(server_->port());
      client.Send(GetAndClose("/hello"));
      answer = client.ReadAll();
      EXPECT_TRUE(client.closed()) << left;
    }
    if (left == 2) {
      EXPECT_EQ(answer, "");
    } else if (left == 8) {
      EXPECT_THAT(answer, StartsWith("HTTP/1.1 200"));
    }
    EXPECT_THAT(Ask(GetAndClose("/hello")), StartsWith("HTTP/1.1 200")) << left;
  }
  kept.Send(Get("/hello"));
  EXPECT_THAT(kept.ReadUntil("hello"), StartsWith("HTTP/1.1 200"));
}

TEST_F(HttpServerTest, ConnectionsThatAreOverLeaveNoFilesOpen) {
  const int before = OpenFiles();
  {
    std::vector<std::unique_ptr<Client>> burst;
    for (int i = 0; i < 30; ++i) burst.push_back(std::make_unique<Client>(server_->port()));
    for (const auto& client : burst) client->Send(Get("/hello"));
    for (const auto& client : burst) EXPECT_THAT(client->ReadUntil("hello"), HasSubstr("hello"));
    EXPECT_GT(OpenFiles(), before + 60);
  }
  // Nobody else connects.
  for (int i = 0; i < 1000 && OpenFiles() > before; ++i) absl::SleepFor(absl::Milliseconds(10));
  EXPECT_LE(OpenFiles(), before);
}

TEST_F(HttpServerTest, ShutdownEndsEveryKindOfConnection) {
  Client idle(server_->port()), kept(server_->port()), half(server_->port());
  Client endless(server_->port()), slow(server_->port());
  kept.Send(Get("/hello"));
  kept.ReadUntil("hello");
  half.Send("GET /hel");
  endless.Send(Get("/endless"));
  slow.Send(Get("/slow"));
  ASSERT_TRUE(WaitRunning(2));
  server_->Shutdown();
  EXPECT_EQ(running_, 0);
  EXPECT_THAT(slow.ReadAll(), HasSubstr("late"));                    // what ran was answered
  EXPECT_THAT(endless.ReadAll(), testing::EndsWith("started\r\n"));  // no last chunk
  server_->Shutdown();
}

TEST_F(HttpServerTest, ShutdownDropsAClientThatDoesNotRead) {
  Client flood(server_->port());
  flood.Send(Get("/flood"));
  ASSERT_TRUE(WaitRunning(1));
  absl::SleepFor(absl::Milliseconds(200));  // until its socket is full
  server_->Shutdown();
  EXPECT_EQ(running_, 0);
}

TEST_F(HttpServerTest, ManyClientsAtOnce) {
  std::vector<std::thread> threads;
  std::atomic<int> good{0};
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 20; ++i) {
        good += Ask(GetAndClose("/hello")).find("hello") != std::string::npos;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(good, 160);
}

TEST_F(HttpServerTest, APortInUseOrBeyondLoopbackIsRefused) {
  HttpServerOptions options;
  options.address = absl::StrCat("127.0.0.1:", server_->port());
  const absl::Status status = HttpServer::Start(options, {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr(options.address));
  options.address = "0.0.0.0:0";
  EXPECT_EQ(HttpServer::Start(options, {}).status().code(), absl::StatusCode::kFailedPrecondition);
  options.insecure_beyond_loopback = true;
  EXPECT_TRUE(HttpServer::Start(options, {}).ok());
}

}  // namespace
}  // namespace shiftadd::http
