// Passwords, keys and tokens that the daemons are given, in a run on PostgreSQL and a registry that
// both go away for a while, and where a daemon cannot start: none of them is written anywhere.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "services/base/digest.h"
#include "services/blob/testing/registry_process.h"
#include "services/blob/testing/scripted_http.h"
#include "services/rpc/security.h"
#include "services/store/postgres_server.h"
#include "tests/cluster.h"
#include "worker/model/testing/tiny_llama.h"

namespace shiftadd::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr char kRegistryPassword[] = "r3gistry-pa55";
// bcrypt of it at cost 4
constexpr char kRegistryUser[] =
    "tester:$2a$04$h9cdApcwxrS3qaM2GqsdX.Te4pYS7zWs382hcB2uyt4gbVeHqjWgG\n";
constexpr char kApiKey[] = "sk-plant3d-0f-api-keys";
constexpr char kWrongKey[] = "sk-wr0ng-0f-api-keys";
constexpr char kToken[] = "sat_plant3d-0f-tokens";
constexpr char kWrongToken[] = "sat_wr0ng-0f-tokens";
constexpr char kWrongPassword[] = "wr0ng-pa55";

std::vector<std::string> Secrets() {
  const std::string password = PostgresServer::Password();
  return {password,
          absl::StrReplaceAll(password, {{"/", "%2F"}, {":", "%3A"}, {"-", "%2D"}}),
          absl::StrReplaceAll(password, {{"/", "\\/"}}),
          kRegistryPassword,
          absl::Base64Escape(absl::StrCat("tester:", kRegistryPassword)),
          kApiKey,
          kWrongKey,
          kToken,
          kWrongToken,
          kWrongPassword,
          absl::Base64Escape(absl::StrCat("tester:", kWrongPassword))};
}

bool HasSecret(const std::string& text) {
  for (const std::string& secret : Secrets()) {
    if (absl::StrContains(text, secret)) return true;
  }
  return false;
}

void ExpectNone(const std::string& text, const std::string& where) {
  for (const std::string& secret : Secrets()) {
    EXPECT_FALSE(absl::StrContains(text, secret)) << secret << " stands in " << where;
  }
}

// Of every file below; how many there were.
int ExpectNoneBelow(const std::string& dir) {
  int files = 0;
  for (const auto& entry : fs::recursive_directory_iterator(dir)) {
    if (!entry.is_regular_file()) continue;
    ExpectNone(ReadFile(entry.path().string()), entry.path().string());
    ++files;
  }
  return files;
}

std::string Http(const std::string& port_file) {
  const std::vector<std::string> ports =
      absl::StrSplit(ReadFile(port_file), '\n', absl::SkipWhitespace());
  return absl::StrCat("http://127.0.0.1:", ports.back());
}

std::string Curl(const std::string& url, const std::string& bearer) {
  return RunCommand({"/usr/bin/curl", "-sS", "-w", " %{http_code}", url, "-H",
                     absl::StrCat("Authorization: Bearer ", bearer)})
      .output;
}

// The parameter: how logs are written.
class SecretsTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (!RegistryProcess::IsInstalled()) GTEST_SKIP() << "no docker-registry";
    ASSERT_TRUE(WriteTinyLlamaDirectory(keys_ + "/model/tiny", TinyLlamaOptions()).ok());
    WriteFile(keys_ + "/htpasswd", kRegistryUser);
    WriteFile(keys_ + "/registry", absl::StrCat("tester:", kRegistryPassword, "\n"));
    WriteFile(keys_ + "/wrong-registry", absl::StrCat("tester:", kWrongPassword, "\n"));
    WriteFile(keys_ + "/api", absl::StrCat(kApiKey, "\n"));
    WriteFile(keys_ + "/token", absl::StrCat(kToken, "\n"));
    WriteFile(keys_ + "/wrong-token", absl::StrCat(kWrongToken, "\n"));
    WriteFile(keys_ + "/tokens", absl::StrCat("ops admin ", Sha256Digest(kToken), "\n"));
    RegistryConfig config;
    config.auth = absl::StrCat("  htpasswd: {realm: tests, path: ", keys_, "/htpasswd}");
    registry_ = RegistryProcess::Start(config);
    ASSERT_NE(registry_, nullptr);
    blobs_ = registry_->url() + "/shiftadd";
    database_ = postgres_.NewDatabase();
    setenv("SHIFTADD_STORE", database_.c_str(), 1);
    setenv("SHIFTADD_REGISTRY_AUTH_FILE", (keys_ + "/registry").c_str(), 1);
    setenv("SHIFTADD_TOKENS", (keys_ + "/tokens").c_str(), 1);
    setenv("SHIFTADD_TOKEN_FILE", (keys_ + "/token").c_str(), 1);
    setenv("SHIFTADD_LOG_LEVEL", "trace", 1);
    setenv("SHIFTADD_LOG_FORMAT", GetParam(), 1);
    ASSERT_TRUE(rpc::SetClientSecurity({{}, keys_ + "/token"}).ok());
  }
  void TearDown() override {
    cluster_.reset();
    fs::remove_all(keys_);
  }

  void StartCluster() {
    cluster_ = std::make_unique<Cluster>(keys_ + "/model", 3, blobs_);
    cluster_->AddWorker();
    setenv("SHIFTADD_DATA_DIR", cluster_->dir().c_str(), 1);
  }
  // Whatever it prints, on both streams.
  std::string Shiftadd(const std::vector<std::string>& words, int exit_code) {
    const RunResult run = cluster_->Shiftadd(words);
    std::string all = run.output + cluster_->Errors();
    EXPECT_EQ(run.exit_code, exit_code) << words[0] << ": " << all;
    ExpectNone(all, words[0]);
    return all;
  }
  // What it writes when it is started with further variables and flags, until it ends by itself or
  // has said `until`.
  std::string LogOf(const std::string& daemon, const std::vector<std::string>& variables,
                    const std::vector<std::string>& flags, const std::string& until) {
    const std::string dir = keys_ + "/refused", log = dir + ".log";
    fs::remove(log);
    std::vector<std::string> argv = {Binary("shiftadd-" + daemon),
                                     "--listen",
                                     "127.0.0.1:0",
                                     "--http",
                                     "127.0.0.1:0",
                                     "--data-dir",
                                     dir};
    argv.insert(argv.end(), flags.begin(), flags.end());
    Process process(argv, log, variables);
    const absl::Time end = absl::Now() + absl::Seconds(60);
    while (process.running() && !absl::StrContains(ReadFile(log), until) && absl::Now() < end) {
      absl::SleepFor(absl::Milliseconds(20));
    }
    process.Signal(SIGTERM);
    process.Wait(absl::Seconds(20));
    return ReadFile(log);
  }

  const std::string keys_ = NewTempDir("keys");
  PostgresServer postgres_;
  std::string database_, blobs_;
  std::unique_ptr<RegistryProcess> registry_;
  std::unique_ptr<Cluster> cluster_;
};
INSTANTIATE_TEST_SUITE_P(Logs, SecretsTest, ::testing::Values("text", "json"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(SecretsTest, NoneIsWrittenByAClusterAtWork) {
  StartCluster();
  v1::JobSpec spec;
  spec.set_source("file://" + keys_ + "/model/tiny");
  spec.mutable_budget()->set_planes(3);
  spec.mutable_calibration()->set_sequences(8);
  spec.mutable_calibration()->set_length(32);
  spec.mutable_evaluation()->set_sequences(2);
  spec.set_output("tiny:v1");
  const auto job = cluster_->Submit(spec);
  ASSERT_TRUE(job.ok()) << job.status();
  // Faults of both, in the middle of it, for messages that tell of them.
  postgres_.Stop();
  Shiftadd({"jobs"}, 3);
  EXPECT_THAT(Shiftadd({"status"}, 3), HasSubstr("database is away"));
  postgres_.Start();
  registry_->Stop();
  EXPECT_THAT(Shiftadd({"status"}, 3), HasSubstr("blob store is away"));
  ASSERT_TRUE(registry_->Restart());
  const auto end = cluster_->WaitForSuccess(job->job_id());
  ASSERT_TRUE(end.ok()) << end.status();
  setenv("SHIFTADD_TOKEN_FILE", (keys_ + "/wrong-token").c_str(), 1);
  EXPECT_THAT(Shiftadd({"jobs"}, 1), HasSubstr("token is not known"));
  setenv("SHIFTADD_TOKEN_FILE", (keys_ + "/token").c_str(), 1);

  // Its job, its package and the package's provenance, as they are told of.
  for (const std::vector<std::string>& words :
       std::vector<std::vector<std::string>>{{"jobs", "--json"},
                                             {"watch", job->job_id()},
                                             {"report", job->job_id(), "--json"},
                                             {"inspect", "tiny:v1", "--json"},
                                             {"packages", "--json"}}) {
    EXPECT_THAT(Shiftadd(words, 0), HasSubstr("tiny"));
  }
  EXPECT_THAT(Shiftadd({"status", "--json"}, 0), HasSubstr("worker-0"));

  const std::string port_file = cluster_->dir() + "/server.port",
                    log = cluster_->dir() + "/server.log";
  Process server(
      {Binary("shiftadd-server"), "--package", "tiny:v1", "--packager",
       cluster_->packager_address(), "--blobs", blobs_, "--listen", "127.0.0.1:0", "--http",
       "127.0.0.1:0", "--threads", "1", "--api-key-file", keys_ + "/api", "--port-file", port_file},
      log);
  WaitForPorts(port_file, &server, log);
  const std::string models = Http(port_file) + "/v1/models";
  const std::string let_in = Curl(models, kApiKey), refused = Curl(models, kWrongKey);
  EXPECT_THAT(let_in, HasSubstr(" 200"));
  EXPECT_THAT(refused, HasSubstr(" 401"));
  ExpectNone(let_in + refused, "an answer");
  for (const char* daemon : {"coordinator", "packager", "worker0", "server"}) {
    const std::string metrics =
        Curl(absl::StrCat(Http(absl::StrCat(cluster_->dir(), "/", daemon, ".port")), "/metrics"),
             kToken);
    EXPECT_THAT(metrics, HasSubstr("shiftadd_build_info"));
    ExpectNone(metrics, absl::StrCat("the metrics of the ", daemon));
  }
  // Where every user of the machine can read.
  int processes = 0;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    const std::string command = ReadFile(entry.path().string() + "/cmdline");
    if (!absl::StrContains(command, cluster_->dir())) continue;
    ++processes;
    ExpectNone(command, "a command line");
  }
  EXPECT_GE(processes, 4);

  // What goes to who helps: the logs, and which variables are set.
  fs::create_directory(cluster_->dir() + "/logs");
  for (const char* daemon : {"coordinator", "packager", "worker0", "server"}) {
    const std::string name = absl::StrCat(daemon, ".log");
    fs::copy_file(cluster_->dir() + "/" + name, cluster_->dir() + "/logs/" + name);
  }
  const std::string bundle = keys_ + "/bundle.tgz", unpacked = cluster_->dir() + "/unpacked";
  Shiftadd({"doctor", "--bundle", bundle}, 0);
  fs::create_directory(unpacked);
  ASSERT_EQ(RunCommand({"/usr/bin/tar", "-xzf", bundle, "-C", unpacked}).exit_code, 0);
  EXPECT_THAT(ReadFile(unpacked + "/shiftadd-bundle/variables.txt"), HasSubstr("SHIFTADD_STORE\n"));
  EXPECT_THAT(ReadFile(unpacked + "/shiftadd-bundle/logs/coordinator.log"),
              HasSubstr(job->job_id()));

  // Logs, down to the last detail, the audit among them; every row of the database, events among
  // them; every blob.
  EXPECT_THAT(ReadFile(cluster_->dir() + "/coordinator.log"), HasSubstr("audit: "));
  EXPECT_GE(ExpectNoneBelow(cluster_->dir()), 15);
  EXPECT_GE(ExpectNoneBelow(registry_->dir()), 10);
  const std::string rows = postgres_.Sql(
      "test1",
      "SELECT encode(document, 'escape') FROM jobs UNION ALL "
      "SELECT encode(payload || result || error, 'escape') || losses FROM tasks UNION ALL "
      "SELECT encode(payload, 'escape') FROM events UNION ALL SELECT manifest FROM packages");
  EXPECT_THAT(rows, HasSubstr(job->job_id()));
  ExpectNone(rows, "the database");
  // What is looked for would be found.
  EXPECT_TRUE(HasSecret(database_));
  for (const char* file : {"/registry", "/wrong-registry", "/api", "/token", "/wrong-token"}) {
    EXPECT_TRUE(HasSecret(ReadFile(keys_ + file))) << file;
  }
}

// Where a daemon cannot begin its work, it says why, and not by which secret.
TEST_P(SecretsTest, NoneIsWrittenByOneThatCannotStart) {
  const auto url = [](const std::string& host) {
    return absl::StrCat("postgres://shiftadd:", kWrongPassword, "@", host);
  };
  const std::string wrong =
      absl::StrReplaceAll(database_, {{"s3cr%2Det%2Fpass%3Aword", kWrongPassword}});
  ASSERT_NE(wrong, database_);
  const std::string folder = keys_ + "/blobs";
  const std::vector<std::string> none = {"SHIFTADD_STORE="};
  const std::vector<std::string> bad_password = {
      "SHIFTADD_STORE=", absl::StrCat("SHIFTADD_REGISTRY_AUTH_FILE=", keys_, "/wrong-registry")};
  // A proxy that shows what it was sent.
  ScriptedHttp echo([](const ScriptedRequest& request) {
    const auto sent = request.headers.find("authorization");
    if (sent == request.headers.end()) {
      return ScriptedAnswer{401, {"WWW-Authenticate: Basic realm=\"echo\""}, "who?"};
    }
    return ScriptedAnswer{418, {}, "no sense in " + sent->second};
  });
  const struct {
    std::vector<std::string> variables, flags;
    std::string says;
    std::vector<const char*> daemons;
  } cases[] = {
      {{"SHIFTADD_STORE=" + wrong},
       {"--blobs", folder},
       "password authentication failed",
       {"coordinator", "packager"}},
      {{},
       {"--blobs", folder, "--store", wrong},
       "password authentication failed",
       {"coordinator", "packager"}},
      {{"SHIFTADD_STORE=" + url("127.0.0.1:1/db")},
       {"--blobs", folder},
       "waiting for the store",
       {"coordinator", "packager"}},
      {{"SHIFTADD_STORE=" + url("no.such.host.invalid/db")},
       {"--blobs", folder},
       "no.such.host.invalid",
       {"coordinator", "packager"}},
      {{"SHIFTADD_STORE=" + url("127.0.0.1:no/db")},
       {"--blobs", folder},
       "postgres://",
       {"coordinator", "packager"}},
      {none,
       {"--blobs", absl::StrCat("http://tester:", kWrongPassword, "@127.0.0.1:1/x")},
       "names no user and no password",
       {"coordinator", "packager"}},
      {bad_password, {"--blobs", blobs_}, "the registry answers 401", {"packager"}},
      {none, {"--blobs", echo.url() + "/x"}, "no sense in Basic (hidden)", {"packager"}},
  };
  for (const auto& c : cases) {
    for (const char* daemon : c.daemons) {
      const std::string log = LogOf(daemon, c.variables, c.flags, c.says);
      EXPECT_THAT(log, HasSubstr(c.says)) << daemon;
      ExpectNone(log, absl::StrCat("the log of a ", daemon, " that says: ", c.says));
    }
  }
}

}  // namespace
}  // namespace shiftadd::testing
