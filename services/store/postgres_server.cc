#include "services/store/postgres_server.h"

#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/time/clock.h"

namespace shiftadd {
namespace {

constexpr char kBin[] = "/usr/lib/postgresql/15/bin/";
constexpr absl::Duration kStartTimeout = absl::Seconds(60);

std::string ReadAll(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

[[noreturn]] void Die(const std::string& what, const std::string& log) {
  std::fprintf(stderr, "PostgreSQL for tests: %s\n%s\n", what.c_str(), ReadAll(log).c_str());
  std::abort();
}

// Starts argv[0] as the given user (0: as this one); its output goes to `log`.
pid_t Spawn(const std::vector<std::string>& argv, const std::string& log, uid_t uid, gid_t gid) {
  const int out = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  const pid_t pid = fork();
  if (pid != 0) {
    close(out);
    return pid;
  }
  dup2(out, STDOUT_FILENO);
  dup2(out, STDERR_FILENO);
  close_range(STDERR_FILENO + 1, ~0u, 0);  // sockets of the test, say
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  if (uid != 0 && (setgroups(0, nullptr) != 0 || setgid(gid) != 0 || setuid(uid) != 0)) _exit(126);
  prctl(PR_SET_PDEATHSIG, SIGQUIT);  // immediate shutdown
  setenv("LC_ALL", "C", 1);
  setenv("PGPASSWORD", PostgresServer::Password(), 1);
  if (chdir("/") != 0) _exit(126);
  std::vector<char*> args;
  args.reserve(argv.size() + 1);
  for (const std::string& a : argv) args.push_back(const_cast<char*>(a.c_str()));
  args.push_back(nullptr);
  execv(args[0], args.data());
  std::perror(args[0]);
  _exit(127);
}

int RunToEnd(const std::vector<std::string>& argv, const std::string& log, uid_t uid, gid_t gid) {
  const pid_t pid = Spawn(argv, log, uid, gid);
  int status = -1;
  waitpid(pid, &status, 0);
  return status;
}

}  // namespace

PostgresServer::PostgresServer(bool durable) : durable_(durable) {
  // Not TMPDIR: a socket's path must be short, and its folder open to another user.
  char pattern[] = "/tmp/shiftadd-pg-XXXXXX";
  if (mkdtemp(pattern) == nullptr) Die("mkdtemp", "");
  dir_ = pattern;
  const std::string log = dir_ + "/log", password = dir_ + "/password";
  if (!std::filesystem::exists(absl::StrCat(kBin, "postgres"))) {
    Die("it is not installed: run deploy/setup.sh test-packages", log);
  }
  std::ofstream(password) << Password() << "\n";
  if (getuid() == 0) {  // which PostgreSQL refuses to run as
    const passwd* user = getpwnam("postgres");
    if (user == nullptr) user = getpwnam("nobody");
    if (user == nullptr) Die("there is no user postgres or nobody", log);
    uid_ = user->pw_uid;
    gid_ = user->pw_gid;
    if (chown(dir_.c_str(), uid_, gid_) != 0 || chmod(dir_.c_str(), 0755) != 0) Die("chown", log);
  }
  const int made =
      RunToEnd({absl::StrCat(kBin, "initdb"), "-D", dir_ + "/data", "-U", "shiftadd", "-A",
                "scram-sha-256", "--pwfile", password, "-E", "UTF8", "--locale", "C", "--no-sync"},
               log, uid_, gid_);
  if (made != 0) Die("initdb", log);
  Start();
}

PostgresServer::~PostgresServer() {
  End(SIGQUIT);
  std::error_code ignored;
  std::filesystem::remove_all(dir_, ignored);
}

PostgresServer& PostgresServer::Shared() {
  // Not leaked: its folder has to go. It ends after the last test.
  static PostgresServer server;
  return server;
}

void PostgresServer::Start() {
  const std::string log = dir_ + "/log";
  std::vector<std::string> argv = {absl::StrCat(kBin, "postgres"), "-D", dir_ + "/data", "-k",
                                   dir_};
  std::vector<std::string> settings = {"listen_addresses=", "max_connections=80", "jit=off"};
  if (!durable_) settings.insert(settings.end(), {"fsync=off", "shared_buffers=16MB"});
  for (const std::string& setting : settings) argv.insert(argv.end(), {"-c", setting});
  pid_ = Spawn(argv, log, uid_, gid_);
  const absl::Time end = absl::Now() + kStartTimeout;
  while (RunToEnd({absl::StrCat(kBin, "pg_isready"), "-q", "-h", dir_}, log, 0, 0) != 0) {
    if (absl::Now() > end || waitpid(pid_, nullptr, WNOHANG) != 0) Die("it does not start", log);
    absl::SleepFor(absl::Milliseconds(20));
  }
}

void PostgresServer::End(int signal) {
  if (pid_ <= 0) return;
  kill(pid_, signal);
  waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

void PostgresServer::Stop() { End(SIGINT); }

void PostgresServer::Kill() {
  End(SIGKILL);
  // Its children see that it is gone; until they have ended no other may start.
  absl::SleepFor(absl::Milliseconds(200));
}

std::string PostgresServer::Url(const std::string& database, const std::string& options) const {
  const std::string password =
      absl::StrReplaceAll(Password(), {{"/", "%2F"}, {":", "%3A"}, {"-", "%2D"}});
  return absl::StrCat("postgres://shiftadd:", password, "@/", database,
                      "?host=", absl::StrReplaceAll(dir_, {{"/", "%2F"}}), options);
}

std::string PostgresServer::Program(const std::string& name) { return absl::StrCat(kBin, name); }

std::string PostgresServer::NewDatabase() {
  const std::string name = absl::StrCat("test", ++databases_);
  Sql("postgres", absl::StrCat("CREATE DATABASE ", name));
  return Url(name);
}

void PostgresServer::DropDatabases() {
  while (dropped_ < databases_) {
    Sql("postgres", absl::StrCat("DROP DATABASE test", ++dropped_, " WITH (FORCE)"));
  }
}

std::string PostgresServer::Sql(const std::string& database, const std::string& sql) const {
  const std::string out = absl::StrCat(dir_, "/psql");
  std::filesystem::remove(out);
  const int status =
      RunToEnd({absl::StrCat(kBin, "psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h",
                dir_, "-U", "shiftadd", "-d", database, "-c", sql},
               out, 0, 0);
  if (status != 0) Die(sql, out);
  return ReadAll(out);
}

}  // namespace shiftadd
