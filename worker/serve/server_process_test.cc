// The binary itself: flags, ports, an answer over gRPC and one over HTTP, the end.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/rpc/rpc.h"
#include "shiftadd/v1/generate.grpc.pb.h"
#include "worker/serve/cuda/cuda_model.h"
#include "worker/serve/testing/tiny_package.h"

namespace shiftadd {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

// A server process; what it writes to stderr is kept in a file.
class Process {
 public:
  Process(const fs::path& dir, std::vector<std::string> args) : log_(dir / "stderr") {
    args.insert(args.begin(), SHIFTADD_BIN_DIR "/shiftadd-server");
    pid_ = fork();
    if (pid_ != 0) return;
    if (freopen(log_.c_str(), "w", stderr) == nullptr) _exit(99);
    std::vector<char*> argv;
    for (std::string& arg : args) argv.push_back(arg.data());
    argv.push_back(nullptr);
    execv(argv[0], argv.data());
    _exit(98);
  }
  ~Process() {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
  }
  void Signal(int number) { kill(pid_, number); }
  int Wait() {
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  std::string Stderr() const {
    std::ifstream file(log_);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
  }

 private:
  const fs::path log_;
  pid_t pid_ = -1;
};

class ServerProcess : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = fs::temp_directory_path() / absl::StrCat("server_process_", getpid());
    fs::create_directories(dir_);
    package_ = testing::MakeTinyPackage({});
    const auto digest = package_.WriteLayout((dir_ / "oci").string(), "tiny:one");
    ASSERT_TRUE(digest.ok()) << digest.status();
    digest_ = *digest;
  }
  void TearDown() override { fs::remove_all(dir_); }

  std::vector<std::string> Args(const std::string& package) const {
    return {"--package",     package,
            "--package-dir", (dir_ / "oci").string(),
            "--listen",      "127.0.0.1:0",
            "--http",        "127.0.0.1:0",
            "--port-file",   (dir_ / "ports").string(),
            "--threads",     "1"};
  }
  // Waits for the port file.
  bool Ports(int* grpc, int* http) const {
    for (int i = 0; i < 3000; ++i) {
      std::ifstream file(dir_ / "ports");
      if (file >> *grpc >> *http) return true;
      absl::SleepFor(absl::Milliseconds(10));
    }
    return false;
  }
  int Fails(std::vector<std::string> args, std::string* says) {
    Process process(dir_, std::move(args));
    const int code = process.Wait();
    *says = process.Stderr();
    return code;
  }

  fs::path dir_;
  testing::TinyPackage package_;
  std::string digest_;
};

// One HTTP exchange; the whole answer with its head.
std::string Http(int port, const std::string& request) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  std::string answer;
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0 &&
      write(fd, request.data(), request.size()) == static_cast<ssize_t>(request.size())) {
    char buffer[4096];
    for (ssize_t n; (n = read(fd, buffer, sizeof(buffer))) > 0;) answer.append(buffer, n);
  }
  close(fd);
  return answer;
}

std::string Post(int port, const std::string& path, const std::string& body) {
  return Http(port, absl::StrCat("POST ", path, " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n",
                                 "Content-Length: ", body.size(), "\r\n\r\n", body));
}

TEST_F(ServerProcess, AnswersOverBothAndEndsOnSigterm) {
  Process process(dir_, Args("tiny:one"));
  int grpc_port = 0, http_port = 0;
  ASSERT_TRUE(Ports(&grpc_port, &http_port)) << process.Stderr();
  const auto stub =
      v1::GenerateService::NewStub(rpc::MakeChannel(absl::StrCat("127.0.0.1:", grpc_port)));
  v1::GenerateRequest request;
  for (const uint32_t id : {5u, 80u, 33u}) request.mutable_tokens()->add_ids(id);
  request.set_max_tokens(8);
  request.set_ignore_eos(true);
  std::vector<uint32_t> tokens;
  std::string text;
  v1::GenerateResponse response;
  {
    grpc::ClientContext context;
    rpc::SetDeadline(&context, absl::Seconds(60));
    const auto reader = stub->Generate(&context, request);
    while (reader->Read(&response)) {
      tokens.insert(tokens.end(), response.tokens().begin(), response.tokens().end());
      text += response.text();
    }
    const grpc::Status status = reader->Finish();
    ASSERT_TRUE(status.ok()) << status.error_message();
  }
  EXPECT_EQ(tokens.size(), 8u);
  EXPECT_EQ(response.finish_reason(), "length");
  EXPECT_EQ(response.prompt_tokens(), 3u);
  EXPECT_EQ(response.generated_tokens(), 8u);

  // The same greedy answer over HTTP.
  const std::string answer =
      Post(http_port, "/v1/completions",
           R"({"prompt":[5,80,33],"max_tokens":8,"temperature":0,"ignore_eos":true})");
  const auto body = nlohmann::json::parse(answer.substr(answer.find("\r\n\r\n") + 4));
  EXPECT_EQ(body["choices"][0]["text"], text);
  // The request's id is in the answer and in the log.
  const size_t id = answer.find("X-Request-Id: req-");
  ASSERT_NE(id, std::string::npos) << answer;
  EXPECT_THAT(process.Stderr(),
              HasSubstr(answer.substr(id + 14, answer.find("\r\n", id) - id - 14)));
  EXPECT_THAT(Post(http_port, "/v1/models", "{}"), HasSubstr("405"));
  EXPECT_THAT(Http(http_port, "GET /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
              HasSubstr("200"));
  const std::string metrics =
      Http(http_port, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  EXPECT_THAT(metrics, HasSubstr("shiftadd_generated_tokens_total 16"));
  EXPECT_THAT(metrics, HasSubstr("shiftadd_package_info"));

  v1::ModelInfo info;
  {
    grpc::ClientContext context;
    ASSERT_TRUE(stub->GetModelInfo(&context, v1::GetModelInfoRequest(), &info).ok());
  }
  EXPECT_EQ(info.name(), "tiny:one");
  EXPECT_EQ(info.digest(), digest_);
  request.mutable_tokens()->add_ids(9999);
  {
    grpc::ClientContext context;
    const auto reader = stub->Generate(&context, request);
    while (reader->Read(&response)) {
    }
    EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  }
  process.Signal(SIGTERM);
  EXPECT_EQ(process.Wait(), 0);
}

TEST_F(ServerProcess, RequestIdsOverGrpcAreInTheAnswerAndInTheLog) {
  Process process(dir_, Args("tiny:one"));
  int grpc_port = 0, http_port = 0;
  ASSERT_TRUE(Ports(&grpc_port, &http_port)) << process.Stderr();
  // A client that knows nothing of our metadata.
  const auto stub = v1::GenerateService::NewStub(grpc::CreateChannel(
      absl::StrCat("127.0.0.1:", grpc_port), grpc::InsecureChannelCredentials()));
  // Calls and gives the answer's id.
  const auto generate = [&](uint32_t token, const char* id) {
    grpc::ClientContext context;
    rpc::SetDeadline(&context, absl::Seconds(60));
    if (id != nullptr) context.AddMetadata("x-request-id", id);
    v1::GenerateRequest request;
    request.mutable_tokens()->add_ids(token);
    request.set_max_tokens(2);
    v1::GenerateResponse response;
    const auto reader = stub->Generate(&context, request);
    while (reader->Read(&response)) {
    }
    EXPECT_EQ(reader->Finish().ok(), token < 320);
    const auto found = context.GetServerTrailingMetadata().find("x-request-id");
    if (found == context.GetServerTrailingMetadata().end()) return std::string();
    return std::string(found->second.data(), found->second.size());
  };
  const std::string made = generate(5, nullptr);
  EXPECT_NE(made, "");
  EXPECT_EQ(generate(5, "mine-7"), "mine-7");
  EXPECT_EQ(generate(9999, "mine-8"), "mine-8");
  process.Signal(SIGTERM);
  EXPECT_EQ(process.Wait(), 0);
  EXPECT_THAT(process.Stderr(), HasSubstr(made + " grpc Generate OK "));
  EXPECT_THAT(process.Stderr(), HasSubstr("mine-7 grpc Generate OK "));
  EXPECT_THAT(process.Stderr(), ContainsRegex("mine-8 grpc Generate INVALID_ARGUMENT .*9999"));
}

// As on a GPU that is lost: who asks gets an error, and the process ends, so that another begins.
TEST_F(ServerProcess, AModelThatIsLostEndsTheServer) {
  setenv("SHIFTADD_FAIL_POINT", "serve.model:4:fail", 1);
  Process process(dir_, Args("tiny:one"));
  unsetenv("SHIFTADD_FAIL_POINT");
  int grpc_port = 0, http_port = 0;
  ASSERT_TRUE(Ports(&grpc_port, &http_port)) << process.Stderr();
  const auto ask = [&](int tokens) {
    return Post(
        http_port, "/v1/completions",
        absl::StrCat(R"({"prompt":[5,80,33],"ignore_eos":true,"max_tokens":)", tokens, "}"));
  };
  EXPECT_THAT(ask(3), HasSubstr(" 200 "));
  EXPECT_THAT(ask(3), HasSubstr(" 500 "));
  EXPECT_EQ(process.Wait(), 1);
  EXPECT_THAT(process.Stderr(),
              HasSubstr("shiftadd-server: the model is lost: the device does not answer"));
}

// The log-probabilities of gRPC are those of HTTP's echo.
TEST_F(ServerProcess, ScoreAgreesWithEcho) {
  Process process(dir_, Args("tiny:one"));
  int grpc_port = 0, http_port = 0;
  ASSERT_TRUE(Ports(&grpc_port, &http_port)) << process.Stderr();
  const auto stub =
      v1::GenerateService::NewStub(rpc::MakeChannel(absl::StrCat("127.0.0.1:", grpc_port)));
  const auto score = [&](const v1::ScoreRequest& request, v1::ScoreResponse* response) {
    grpc::ClientContext context;
    rpc::SetDeadline(&context, absl::Seconds(60));
    return stub->Score(&context, request, response);
  };
  v1::ScoreRequest request;
  const std::vector<uint32_t> ids = {5, 80, 33, 7};
  for (const uint32_t id : ids) request.mutable_tokens()->add_ids(id);
  request.set_top(3);
  v1::ScoreResponse response;
  ASSERT_TRUE(score(request, &response).ok());
  ASSERT_EQ(response.scores_size(), 4);
  const std::string answer =
      Post(http_port, "/v1/completions",
           R"({"prompt":[5,80,33,7],"max_tokens":0,"temperature":0,"logprobs":3,"echo":true})");
  const auto logprobs = nlohmann::json::parse(
      answer.substr(answer.find("\r\n\r\n") + 4))["choices"][0]["logprobs"]["token_logprobs"];
  EXPECT_FALSE(response.scores(0).has_logprob());  // nothing predicts the first token
  for (int i = 0; i < 4; ++i) {
    const v1::TokenScore& token = response.scores(i);
    EXPECT_EQ(token.token(), ids[static_cast<size_t>(i)]);
    if (i == 0) continue;
    EXPECT_DOUBLE_EQ(token.logprob(), logprobs[i].get<double>());
    ASSERT_EQ(token.top_size(), 3);
    EXPECT_GE(token.top(0).logprob(), token.top(1).logprob());
    EXPECT_GE(token.top(0).logprob(), token.logprob());
  }
  // As text it has what the model puts before a text.
  request.set_text("hello");
  ASSERT_TRUE(score(request, &response).ok());
  EXPECT_GT(response.scores_size(), 0);
  request.set_top(21);
  EXPECT_EQ(score(request, &response).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  request.set_top(0);
  request.mutable_tokens()->add_ids(99999);
  EXPECT_EQ(score(request, &response).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  request.mutable_tokens()->clear_ids();
  EXPECT_EQ(score(request, &response).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  request.clear_prompt();
  EXPECT_EQ(score(request, &response).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(ServerProcess, GrpcAndHttpWantTheSameKeys) {
  std::ofstream(dir_ / "keys") << "# the team\nalpha\n";
  auto args = Args("tiny:one");
  args.insert(args.end(), {"--api-key-file", (dir_ / "keys").string()});
  Process process(dir_, args);
  int grpc_port = 0, http_port = 0;
  ASSERT_TRUE(Ports(&grpc_port, &http_port)) << process.Stderr();
  const auto stub =
      v1::GenerateService::NewStub(rpc::MakeChannel(absl::StrCat("127.0.0.1:", grpc_port)));
  using Call = std::function<grpc::Status(grpc::ClientContext*)>;
  const std::vector<Call> calls = {[&](grpc::ClientContext* context) {
                                     v1::ModelInfo info;
                                     return stub->GetModelInfo(context, {}, &info);
                                   },
                                   [&](grpc::ClientContext* context) {
                                     v1::ScoreRequest request;
                                     request.set_text("hello");
                                     v1::ScoreResponse response;
                                     return stub->Score(context, request, &response);
                                   },
                                   [&](grpc::ClientContext* context) {
                                     v1::TokenizeResponse response;
                                     return stub->Tokenize(context, {}, &response);
                                   },
                                   [&](grpc::ClientContext* context) {
                                     v1::DetokenizeResponse response;
                                     return stub->Detokenize(context, {}, &response);
                                   },
                                   [&](grpc::ClientContext* context) {
                                     v1::GenerateRequest request;
                                     request.set_text("hello");
                                     request.set_max_tokens(1);
                                     const auto reader = stub->Generate(context, request);
                                     v1::GenerateResponse response;
                                     while (reader->Read(&response)) {
                                     }
                                     return reader->Finish();
                                   }};
  const auto code = [](const Call& call, const std::string& authorization) {
    grpc::ClientContext context;
    rpc::SetDeadline(&context, absl::Seconds(60));
    if (!authorization.empty()) context.AddMetadata("authorization", authorization);
    return call(&context).error_code();
  };
  for (size_t i = 0; i < calls.size(); ++i) {
    SCOPED_TRACE(i);
    for (const char* wrong : {"", "alpha", "Bearer beta", "Bearer # the team"}) {
      EXPECT_EQ(code(calls[i], wrong), grpc::StatusCode::UNAUTHENTICATED) << wrong;
    }
    EXPECT_EQ(code(calls[i], "Bearer alpha"), grpc::StatusCode::OK);
  }
  const auto get = [&](const std::string& path, const std::string& header) {
    return Http(http_port, absl::StrCat("GET ", path, " HTTP/1.1\r\nHost: x\r\n", header,
                                        "Connection: close\r\n\r\n"));
  };
  EXPECT_THAT(get("/v1/models", ""), HasSubstr(" 401 "));
  EXPECT_THAT(get("/metrics", ""), HasSubstr(" 401 "));
  EXPECT_THAT(get("/v1/models", "Authorization: Bearer alpha\r\n"), HasSubstr(" 200 "));
  EXPECT_THAT(get("/ready", ""), HasSubstr(" 200 "));
  EXPECT_THAT(process.Stderr(), ::testing::Not(HasSubstr("alpha")));
}

TEST_F(ServerProcess, SaysWhatIsWrong) {
  std::string says;
  EXPECT_EQ(Fails({}, &says), 2);
  EXPECT_THAT(says, HasSubstr("--package"));
  EXPECT_EQ(Fails({"--package", "x", "--nonsense"}, &says), 2);
  EXPECT_EQ(Fails({"--package", "x", "--precision", "a7", "--package-dir", "."}, &says), 2);
  EXPECT_EQ(Fails(Args("tiny:two"), &says), 1);
  EXPECT_THAT(says, HasSubstr("there are: tiny:one"));
  EXPECT_EQ(Fails(Args("Not A Name"), &says), 1);
  EXPECT_THAT(says, HasSubstr("name:tag"));
  EXPECT_EQ(Fails({"--package", "x", "--package-dir", (dir_ / "none").string()}, &says), 1);
  EXPECT_FALSE(fs::exists(dir_ / "none"));
  EXPECT_EQ(Fails({"--package", "x", "--packager", "127.0.0.1:1"}, &says), 1);
  EXPECT_THAT(says, HasSubstr("127.0.0.1:1"));
  auto beyond = Args("tiny:one");
  beyond[5] = "0.0.0.0:0";
  EXPECT_EQ(Fails(beyond, &says), 1);
  EXPECT_THAT(says, HasSubstr("loopback"));
  // No GPU, or no code for one: nothing is served on the CPU unasked.
  if (!DescribeCudaDevice().ok()) {
    auto gpu = Args("tiny:one");
    gpu.insert(gpu.end(), {"--device", "cuda"});
    EXPECT_EQ(Fails(gpu, &says), 1);
    EXPECT_THAT(says,
                HasSubstr(CudaVersionOfBuild() == 0 ? "build with -DSHIFTADD_CUDA=ON" : "GPU"));
  }
  // A flipped bit in a weight blob.
  const std::string layer = package_.config["layers"][2]["digest"];
  const fs::path blob = dir_ / "oci" / "blobs" / "sha256" / layer.substr(7);
  fs::permissions(blob, fs::perms::owner_write, fs::perm_options::add);
  std::fstream file(blob, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(-3, std::ios::end);
  file.put('\x55');
  file.close();
  EXPECT_EQ(Fails(Args("tiny:one"), &says), 1);
  EXPECT_THAT(says, HasSubstr(layer));
}

}  // namespace
}  // namespace shiftadd
