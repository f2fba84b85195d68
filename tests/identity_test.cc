// The commands of deploy/README.md "Identity", run as they stand there: a cluster with TLS and
// tokens, who gets in and who does not, and that no secret is written anywhere.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "nlohmann/json.hpp"
#include "services/rpc/security.h"
#include "shiftadd/v1/job.grpc.pb.h"
#include "tests/process.h"
#include "worker/model/testing/tiny_llama.h"

namespace shiftadd::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

// The commands of a section of deploy/README.md: its lines that are indented by four spaces.
std::vector<std::string> Commands(const std::string& section) {
  std::vector<std::string> commands;
  bool inside = false;
  for (const absl::string_view line :
       absl::StrSplit(ReadFile(absl::StrCat(SHIFTADD_SOURCE_DIR, "/deploy/README.md")), '\n')) {
    if (absl::StartsWith(line, "## ")) inside = line == "## " + section;
    if (inside && absl::StartsWith(line, "    ")) commands.emplace_back(line.substr(4));
  }
  return commands;
}

class IdentityTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = new std::string(NewTempDir("identity"));
    TinyLlamaOptions options;
    options.blocks = 1;
    ASSERT_TRUE(WriteTinyLlamaDirectory(*dir_ + "/models/tiny", options).ok());
    const std::vector<std::string> commands = Commands("Identity");
    ASSERT_GE(commands.size(), 3u) << "deploy/README.md has no section Identity";
    for (const std::string& command : commands) {
      const RunResult result = Shell(absl::StrReplaceAll(
          command, {{"--workers 2", "--workers 1 --coordinator-port 0 --packager-port 0"}}));
      ASSERT_EQ(result.exit_code, 0) << command << "\n" << result.output;
      outputs_->append(result.output);
    }
    const auto cluster = nlohmann::json::parse(ReadFile(*dir_ + "/data/cluster.json"));
    coordinator_ = new std::string(cluster["coordinator"]);
    packager_ = new std::string(cluster["packager"]);
  }
  static void TearDownTestSuite() {
    Shell("shiftadd down");
    std::filesystem::remove_all(*dir_);
  }

  // In a shell whose home, data and path are this test's; `variables` in front.
  static RunResult Shell(const std::string& command, const std::string& variables = "") {
    return RunCommand(
        {"/bin/bash", "-c",
         absl::StrCat("cd ", SHIFTADD_SOURCE_DIR, " && export PATH=", SHIFTADD_BIN_DIR,
                      ":$PATH HOME=", *dir_, " SHIFTADD_DATA_DIR=", *dir_, "/data ", variables,
                      " && ", command)},
        absl::Seconds(120));
  }
  // As somebody who knows where the daemons are and has nothing of the cluster's.
  static RunResult Stranger(const std::string& command, const std::string& variables = "") {
    return Shell(command, absl::StrCat("SHIFTADD_DATA_DIR=", *dir_,
                                       "/none SHIFTADD_COORDINATOR=", *coordinator_,
                                       " SHIFTADD_PACKAGER=", *packager_, " ", variables));
  }

  // Ids, the oldest first.
  static std::vector<std::string> JobsOf(const std::string& owner) {
    std::vector<std::string> ids;
    const auto list = nlohmann::json::parse(Shell("shiftadd jobs --json").output);
    for (const nlohmann::json& job : list["jobs"]) {
      if (job["owner"] != owner) continue;
      ids.insert(ids.begin(), job.contains("job_id") ? job["job_id"] : job["id"]);
    }
    return ids;
  }

  static std::string* dir_;
  static std::string* outputs_;
  static std::string* coordinator_;
  static std::string* packager_;
};
std::string* IdentityTest::dir_ = nullptr;
std::string* IdentityTest::outputs_ = new std::string;
std::string* IdentityTest::coordinator_ = nullptr;
std::string* IdentityTest::packager_ = nullptr;

TEST_F(IdentityTest, WhoHasNothingIsToldWhatIsMissing) {
  const RunResult plain = Stranger("shiftadd jobs");
  EXPECT_EQ(plain.exit_code, 3);
  EXPECT_THAT(plain.output,
              AllOf(HasSubstr("speaks TLS"), HasSubstr("--tls-ca"), HasSubstr("--token-file")));
  const std::string ca = absl::StrCat("SHIFTADD_TLS_CA=", *dir_, "/.shiftadd/certs/ca.crt");
  const RunResult unknown = Stranger("shiftadd jobs", ca);
  EXPECT_EQ(unknown.exit_code, 1);
  EXPECT_THAT(unknown.output, AllOf(HasSubstr("no client certificate and no token"),
                                    HasSubstr("--tls-cert"), HasSubstr("--token-file")));
  // A token is not sent where others could read it.
  WriteFile(*dir_ + "/wrong", "sat_wrong\n");
  const RunResult wrong =
      Stranger("shiftadd jobs", absl::StrCat(ca, " SHIFTADD_TOKEN_FILE=", *dir_, "/wrong"));
  EXPECT_EQ(wrong.exit_code, 1);
  EXPECT_THAT(wrong.output,
              AllOf(HasSubstr("the token is not known"), Not(HasSubstr("sat_wrong"))));
  const RunResult other_ca =
      Stranger("deploy/certs.sh $HOME/other admin >/dev/null && shiftadd jobs --certs $HOME/other");
  EXPECT_EQ(other_ca.exit_code, 3);
  EXPECT_THAT(other_ca.output, HasSubstr("--tls-ca does not vouch for"));
}

TEST_F(IdentityTest, AJobFromAUsersTokenAndWhoMayTouchIt) {
  const std::string ca = absl::StrCat("SHIFTADD_TLS_CA=", *dir_, "/.shiftadd/certs/ca.crt");
  const std::string ann = absl::StrCat(ca, " SHIFTADD_TOKEN_FILE=", *dir_, "/.shiftadd/ann.token");
  ASSERT_EQ(Shell("shiftadd token bob --role user --tokens $HOME/.shiftadd/tokens >"
                  "$HOME/.shiftadd/bob.token && shiftadd token eve --role viewer --tokens "
                  "$HOME/.shiftadd/tokens >$HOME/.shiftadd/eve.token")
                .exit_code,
            0);
  absl::SleepFor(absl::Seconds(2));  // until the daemons have looked at the file again
  const std::string bob = absl::StrReplaceAll(ann, {{"ann.token", "bob.token"}}),
                    eve = absl::StrReplaceAll(ann, {{"ann.token", "eve.token"}});
  const RunResult submitted =
      Stranger(absl::StrCat("shiftadd submit ", *dir_,
                            "/models/tiny --bits 3 --name tiny --watch --calibration-sequences 4 "
                            "--calibration-length 32 --eval-sequences 2 --eval-length 32"),
               ann);
  ASSERT_EQ(submitted.exit_code, 0) << submitted.output;
  const auto jobs = Stranger("shiftadd jobs --json", eve);
  ASSERT_EQ(jobs.exit_code, 0) << jobs.output;
  const auto list = nlohmann::json::parse(jobs.output);
  const nlohmann::json job = list["jobs"][0];
  const std::string id = job.contains("job_id") ? job["job_id"] : job["id"];
  EXPECT_THAT(ReadFile(*dir_ + "/data/logs/coordinator.log"),
              HasSubstr(absl::StrCat("audit: by=ann action=SubmitJob object=", id)));
  const RunResult viewer =
      Stranger(absl::StrCat("shiftadd submit ", *dir_, "/models/tiny --bits 3 --name other"), eve);
  EXPECT_EQ(viewer.exit_code, 1);
  EXPECT_THAT(viewer.output, AllOf(HasSubstr("eve may not call"), HasSubstr("user")));
  const RunResult others = Stranger("shiftadd cancel " + id, bob);
  EXPECT_EQ(others.exit_code, 1);
  EXPECT_THAT(others.output, HasSubstr(id + " belongs to ann"));
  EXPECT_THAT(ReadFile(*dir_ + "/data/logs/coordinator.log"),
              HasSubstr(absl::StrCat("audit: by=bob action=CancelJob object=", id,
                                     " outcome=PERMISSION_DENIED")));
  // Tags are moved by users, packages deleted by admins: here by the cluster's own certificates.
  EXPECT_EQ(Stranger("shiftadd tag tiny tiny:v2", ann).exit_code, 0);
  EXPECT_EQ(Stranger("shiftadd rm tiny:v2", ann).exit_code, 1);
  // Hers, as is what her job published: neither a tag nor a job of another user's moves them.
  for (const char* command : {"shiftadd tag tiny:v2 tiny", "shiftadd tag tiny tiny:v2"}) {
    const RunResult moved = Stranger(command, bob);
    EXPECT_EQ(moved.exit_code, 1) << command;
    EXPECT_THAT(moved.output, HasSubstr("belongs to ann: bob may not move it"));
  }
  const RunResult job_of_bob =
      Stranger(absl::StrCat("shiftadd submit ", *dir_, "/models/tiny --bits 3 --name tiny"), bob);
  EXPECT_EQ(job_of_bob.exit_code, 1);
  EXPECT_THAT(job_of_bob.output, HasSubstr("tag tiny:latest belongs to ann, a job of bob"));
  EXPECT_THAT(ReadFile(*dir_ + "/data/logs/packager.log"),
              HasSubstr("audit: by=bob action=TagPackage object=tiny:v2 "
                        "outcome=PERMISSION_DENIED"));
  // Until an admin gives it away.
  EXPECT_EQ(Stranger("shiftadd tag tiny tiny:v2 --owner bob", ann).exit_code, 1);
  EXPECT_THAT(Shell("shiftadd tag tiny tiny:v2 --owner bob").output, HasSubstr("owned by bob"));
  EXPECT_EQ(Stranger("shiftadd tag tiny tiny:v2", bob).exit_code, 0);
  EXPECT_THAT(Stranger("shiftadd packages --json", eve).output, HasSubstr(R"("owner": "ann")"));
  EXPECT_EQ(Shell("shiftadd rm tiny:v2").exit_code, 0);
  const std::string log = ReadFile(*dir_ + "/data/logs/packager.log");
  EXPECT_THAT(log, HasSubstr("audit: by=ann action=TagPackage object=tiny:v2 outcome=OK"));
  EXPECT_THAT(log, HasSubstr("audit: by=admin action=DeletePackage object=tiny:v2 outcome=OK"));
  EXPECT_THAT(log, HasSubstr("audit: by=coordinator action=PublishPackage object=tiny"));

  // Served: by https, to clients only.
  const RunResult served = Shell("shiftadd serve tiny --port 0 --grpc-port 0 --threads 1 --detach");
  ASSERT_EQ(served.exit_code, 0) << served.output;
  const auto at = served.output.find("https://");
  ASSERT_NE(at, std::string::npos) << served.output;
  const std::string url(served.output.substr(at, served.output.find(' ', at) - at));
  const std::string curl =
      absl::StrCat("curl -sS --cacert $HOME/.shiftadd/certs/ca.crt -w '%{http_code}' ", url);
  EXPECT_THAT(Shell(curl + "/health").output, HasSubstr("200"));
  EXPECT_THAT(Shell(curl + "/v1/models").output, HasSubstr("401"));
  EXPECT_THAT(
      Shell(curl + "/v1/models -H \"Authorization: Bearer $(cat $HOME/.shiftadd/eve.token)\"")
          .output,
      HasSubstr("200"));
  EXPECT_THAT(Shell(curl + "/v1/completions -H \"Authorization: Bearer $(cat "
                           "$HOME/.shiftadd/eve.token)\" -d '{\"prompt\":\"a\"}'")
                  .output,
              HasSubstr("403"));
  const std::string as_client =
      " --cert $HOME/.shiftadd/certs/client.crt --key $HOME/.shiftadd/certs/client.key";
  EXPECT_THAT(Shell(curl +
                    "/v1/completions -H 'Content-Type: application/json' -d "
                    "'{\"prompt\":\"a\",\"max_tokens\":2}'" +
                    as_client)
                  .output,
              HasSubstr("200"));
  EXPECT_THAT(Shell(curl + "/metrics" + as_client).output, HasSubstr("403"));
  EXPECT_THAT(
      Shell(curl + "/metrics -H \"Authorization: Bearer $(cat $HOME/.shiftadd/eve.token)\"").output,
      HasSubstr("shiftadd_build_info"));
  const RunResult generated =
      Shell("shiftadd generate tiny --prompt hello --max-tokens 2 --ignore-eos");
  EXPECT_EQ(generated.exit_code, 0) << generated.output;
  // Half of a handshake and then silence: the server goes on, and the connection is shut.
  EXPECT_THAT(Shell(absl::StrCat("timeout 15 bash -c 'exec 3<>/dev/tcp/",
                                 absl::StrReplaceAll(url.substr(8), {{":", "/"}}),
                                 "; printf \"\\x16\\x03\" >&3; cat <&3; echo shut'"))
                  .output,
              HasSubstr("shut"));
}

TEST_F(IdentityTest, WorkersReadOnlyWhereModelsAre) {
  const RunResult unnamed =
      Shell("shiftadd up --certs $HOME/.shiftadd/certs", "SHIFTADD_DATA_DIR=$HOME/none");
  EXPECT_EQ(unnamed.exit_code, 2);
  EXPECT_THAT(unnamed.output, HasSubstr("--source-root: expected the folder of the models"));
  const RunResult outside =
      Shell(absl::StrCat("shiftadd submit ", *dir_, "/.shiftadd/certs --bits 3 --name x --watch"));
  EXPECT_EQ(outside.exit_code, 1);
  EXPECT_THAT(outside.output, HasSubstr("expected a path under"));
  // Nor is told what there is elsewhere.
  const RunResult absent = Shell("shiftadd submit file:///etc/absent --bits 3 --name x --watch");
  EXPECT_EQ(absent.exit_code, 1);
  EXPECT_THAT(absent.output, HasSubstr("source /etc/absent: expected a path under"));
}

// Each change that others see leaves a line: who, what, and what came of it.
TEST_F(IdentityTest, TheAuditLogSaysWhoCancelledAndDeleted) {
  const std::string ann =
      absl::StrCat("SHIFTADD_TLS_CA=", *dir_, "/.shiftadd/certs/ca.crt SHIFTADD_TOKEN_FILE=", *dir_,
                   "/.shiftadd/ann.token");
  const size_t before = JobsOf("ann").size();
  ASSERT_EQ(
      Stranger(absl::StrCat("shiftadd submit ", *dir_, "/models/tiny --bits 2 --name unwanted"),
               ann)
          .exit_code,
      0);
  const std::vector<std::string> jobs = JobsOf("ann");
  ASSERT_EQ(jobs.size(), before + 1);
  const std::string id = jobs.back();
  EXPECT_EQ(Stranger("shiftadd cancel " + id, ann).exit_code, 0);
  const auto stub = v1::JobService::NewStub(rpc::MakeChannel(
      *coordinator_,
      rpc::ClientSecurity{access::TlsFilesIn(*dir_ + "/.shiftadd/certs", "admin"), ""}));
  grpc::Status deleted(grpc::StatusCode::FAILED_PRECONDITION, "");
  // Until its task has been given back.
  for (const absl::Time end = absl::Now() + absl::Seconds(60);
       deleted.error_code() == grpc::StatusCode::FAILED_PRECONDITION && absl::Now() < end;
       absl::SleepFor(absl::Milliseconds(50))) {
    grpc::ClientContext context;
    v1::DeleteJobRequest request;
    request.set_job_id(id);
    google::protobuf::Empty nothing;
    deleted = stub->DeleteJob(&context, request, &nothing);
  }
  EXPECT_TRUE(deleted.ok()) << deleted.error_message();
  const std::string log = ReadFile(*dir_ + "/data/logs/coordinator.log");
  for (const char* line :
       {"by=ann action=SubmitJob", "by=ann action=CancelJob", "by=admin action=DeleteJob"}) {
    EXPECT_THAT(log, HasSubstr(absl::StrCat("audit: ", line, " object=", id, " outcome=OK")));
  }
}

// After the others: a new certificate of the same authority is shown without a restart.
TEST_F(IdentityTest, CertificatesAreRenewedWithoutARestart) {
  const std::string serial = absl::StrCat("openssl s_client -connect ", *coordinator_,
                                          " </dev/null 2>/dev/null | openssl x509 -noout -serial");
  const std::string before = Shell(serial).output;
  ASSERT_THAT(before, HasSubstr("serial="));
  ASSERT_EQ(Shell("deploy/certs.sh $HOME/.shiftadd/certs --renew").exit_code, 0);
  std::string after = before;
  for (const absl::Time end = absl::Now() + absl::Seconds(30);
       (after == before || !absl::StrContains(after, "serial=")) && absl::Now() < end;) {
    absl::SleepFor(absl::Milliseconds(200));
    after = Shell(serial).output;
  }
  EXPECT_NE(after, before);
  EXPECT_EQ(Shell("shiftadd jobs").exit_code, 0);
  EXPECT_THAT(Shell("shiftadd status").output, HasSubstr("ready"));
  EXPECT_EQ(Shell("shiftadd status --json | grep -c '\"restarts\": 0'").output,
            Shell("shiftadd status --json | grep -c '\"restarts\"'").output);
}

// Neither a token nor a key in a log, in the database's events, a package, a metric or an answer.
TEST_F(IdentityTest, NoSecretIsWrittenAnywhere) {
  std::vector<std::string> secrets;
  for (const auto& entry : std::filesystem::directory_iterator(*dir_ + "/.shiftadd")) {
    if (entry.path().extension() != ".token") continue;
    secrets.emplace_back(absl::StripAsciiWhitespace(ReadFile(entry.path().string())));
  }
  for (const auto& entry : std::filesystem::directory_iterator(*dir_ + "/.shiftadd/certs")) {
    if (entry.path().extension() != ".key") continue;
    const std::vector<std::string> lines = absl::StrSplit(ReadFile(entry.path().string()), '\n');
    ASSERT_GT(lines.size(), 2u);
    secrets.push_back(lines[1]);
  }
  ASSERT_GE(secrets.size(), 11u);
  size_t files = 0;
  const auto expect_none = [&](const std::string& text, const std::string& where) {
    for (const std::string& secret : secrets) {
      EXPECT_FALSE(absl::StrContains(text, secret)) << "a secret stands in " << where;
    }
  };
  for (const auto& entry : std::filesystem::recursive_directory_iterator(*dir_ + "/data")) {
    if (!entry.is_regular_file()) continue;
    expect_none(ReadFile(entry.path().string()), entry.path().string());
    ++files;
  }
  EXPECT_GT(files, 20u);
  const auto cluster = nlohmann::json::parse(ReadFile(*dir_ + "/data/cluster.json"));
  for (const auto& daemon : cluster["daemons"]) {
    const RunResult metrics = Shell(absl::StrCat(
        "curl -sS --cacert $HOME/.shiftadd/certs/ca.crt --cert $HOME/.shiftadd/certs/viewer.crt "
        "--key $HOME/.shiftadd/certs/viewer.key https://",
        daemon["http"].get<std::string>(), "/metrics"));
    EXPECT_THAT(metrics.output, HasSubstr("shiftadd_build_info"));
    expect_none(metrics.output, "metrics");
  }
  // The job's events and report, the package with its provenance, what goes to who helps.
  const std::string id = JobsOf("ann").front();
  for (const std::string& command :
       {std::string("shiftadd jobs --json"), "shiftadd watch " + id,
        "shiftadd report " + id + " --json", std::string("shiftadd inspect tiny --json"),
        std::string("shiftadd status --json"), std::string("shiftadd packages --json"),
        std::string("shiftadd doctor --bundle $HOME/bundle.tgz; tar -xzOf $HOME/bundle.tgz")}) {
    const RunResult result = Shell(command);
    EXPECT_EQ(result.exit_code, 0) << command << result.output;
    expect_none(result.output, command);
  }
  // Nor where every user of the machine can read: the daemons' command lines.
  size_t processes = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string command = ReadFile(entry.path().string() + "/cmdline");
    if (!absl::StrContains(command, *dir_)) continue;
    ++processes;
    expect_none(command, "the command line of " + entry.path().string());
  }
  EXPECT_GE(processes, 3u);
}

}  // namespace
}  // namespace shiftadd::testing
