#include "services/cli/child_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace shiftadd::cli {
namespace {

namespace fs = std::filesystem;

// Between fork and exec: async-signal-safe calls only.
[[noreturn]] void BecomeChild(char* const* argv, int out, int err, bool dies_with_parent,
                              pid_t parent, int report) {
  setpgid(0, 0);
  if (dies_with_parent) {
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) _exit(127);  // it went before the line above
  }
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  signal(SIGPIPE, SIG_DFL);
  signal(SIGINT, SIG_DFL);
  const int null = open("/dev/null", O_RDONLY);
  dup2(null, STDIN_FILENO);
  if (out >= 0) dup2(out, STDOUT_FILENO);
  if (err >= 0) dup2(err, STDERR_FILENO);
  execv(argv[0], argv);
  const int why = errno;
  (void)!write(report, &why, sizeof(why));
  _exit(127);
}

// A pipe's two ends, closed at the end.
struct Pipe {
  ~Pipe() {
    Close(&read);
    Close(&write);
  }
  static void Close(int* fd) {
    if (*fd >= 0) close(*fd);
    *fd = -1;
  }
  bool Open() {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return false;
    read = ends[0], write = ends[1];
    return true;
  }
  // Takes what is there; closes at the end of it.
  void Drain(std::string* to) {
    char buffer[1 << 14];
    const ssize_t size = ::read(read, buffer, sizeof(buffer));
    if (size > 0) {
      to->append(buffer, static_cast<size_t>(size));
    } else {
      Close(&read);
    }
  }
  int read = -1, write = -1;
};

// Reads both until they are closed; false after the deadline.
bool ReadBoth(Pipe* out, Pipe* err, absl::Time deadline, ChildOutput* output) {
  while (out->read >= 0 || err->read >= 0) {
    const int64_t left = absl::ToInt64Milliseconds(deadline - absl::Now());
    pollfd wait[2] = {{out->read, POLLIN, 0}, {err->read, POLLIN, 0}};  // below 0: not looked at
    if (left <= 0) return false;
    if (poll(wait, 2, static_cast<int>(std::min<int64_t>(left, 1000))) <= 0) continue;
    if (wait[0].revents != 0) out->Drain(&output->out);
    if (wait[1].revents != 0) err->Drain(&output->err);
  }
  return true;
}

// The state letter of /proc/PID/stat; 0 if there is no such process.
char ProcessState(pid_t pid) {
  std::ifstream in(absl::StrCat("/proc/", pid, "/stat"));
  std::string line;
  std::getline(in, line);
  const size_t end = line.rfind(')');
  return end == std::string::npos || end + 2 >= line.size() ? '\0' : line[end + 2];
}

}  // namespace

absl::StatusOr<pid_t> StartChild(const ChildOptions& options) {
  std::vector<char*> argv;
  for (const std::string& word : options.command) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  int log = -1;
  if (!options.log.empty()) {
    log = open(options.log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (log < 0) return absl::InternalError(absl::StrCat(options.log, ": ", std::strerror(errno)));
  }
  int report[2];  // closed by a successful exec
  if (pipe2(report, O_CLOEXEC) != 0)
    return absl::InternalError(absl::StrCat("pipe: ", std::strerror(errno)));
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid == 0) {
    BecomeChild(argv.data(), options.out >= 0 ? options.out : log,
                options.err >= 0 ? options.err : log, options.dies_with_parent, parent, report[1]);
  }
  const int fork_error = errno;
  close(report[1]);
  if (log >= 0) close(log);
  int why = 0;
  const bool failed = pid > 0 && read(report[0], &why, sizeof(why)) == sizeof(why);
  close(report[0]);
  if (pid < 0) return absl::InternalError(absl::StrCat("fork: ", std::strerror(fork_error)));
  if (failed) {
    waitpid(pid, nullptr, 0);
    return absl::InternalError(
        absl::StrCat("starting ", options.command[0], ": ", std::strerror(why)));
  }
  return pid;
}

absl::StatusOr<ChildOutput> RunChild(const std::vector<std::string>& command,
                                     absl::Duration timeout, bool err_passes) {
  Pipe out, err;
  if (!out.Open() || (!err_passes && !err.Open()))
    return absl::InternalError(absl::StrCat("pipe: ", std::strerror(errno)));
  ChildOptions options;
  options.command = command;
  options.out = out.write;
  options.err = err.write;
  const std::string name = fs::path(command[0]).filename().string();
  absl::StatusOr<pid_t> pid = StartChild(options);
  if (!pid.ok()) return pid.status();
  Pipe::Close(&out.write);
  Pipe::Close(&err.write);
  ChildOutput output;
  const bool ended = ReadBoth(&out, &err, absl::Now() + timeout, &output);
  if (!ended) kill(-*pid, SIGKILL);
  int wait_status = 0;
  waitpid(*pid, &wait_status, 0);
  if (!ended) {
    return absl::DeadlineExceededError(
        absl::StrCat(name, " had not ended after ", absl::FormatDuration(timeout)));
  }
  if (WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == 0) return output;
  constexpr size_t kTail = 2000;
  const std::string text(absl::StripAsciiWhitespace(
      output.err.substr(output.err.size() > kTail ? output.err.size() - kTail : 0)));
  return absl::InternalError(absl::StrCat(name, " ended with ", DescribeExit(wait_status),
                                          text.empty() ? "" : ": ", text));
}

std::string OwnBinDir() {
  std::error_code error;
  return fs::read_symlink("/proc/self/exe", error).parent_path().string();
}

absl::StatusOr<std::string> FindBinary(const std::string& name) {
  const std::string path = absl::StrCat(OwnBinDir(), "/", name);
  if (::access(path.c_str(), X_OK) == 0) return path;
  return absl::NotFoundError(absl::StrCat(
      path, " is not there or not executable: build or install ", name, " beside shiftadd"));
}

bool RunsBinary(pid_t pid, const std::string& binary) {
  if (pid <= 0) return false;
  const char state = ProcessState(pid);
  if (state == '\0' || state == 'Z' || state == 'X') return false;
  std::error_code error;
  std::string name =
      fs::read_symlink(absl::StrCat("/proc/", pid, "/exe"), error).filename().string();
  if (error) return false;
  const size_t deleted = name.find(" (deleted)");  // rebuilt while it runs
  return name.substr(0, deleted) == binary;
}

void StopProcess(pid_t pid, const std::string& binary, absl::Duration grace) {
  const absl::Time deadline = absl::Now() + grace;
  if (RunsBinary(pid, binary)) kill(pid, SIGTERM);
  while (RunsBinary(pid, binary)) {
    if (absl::Now() > deadline) kill(pid, SIGKILL);
    absl::SleepFor(absl::Milliseconds(50));
  }
}

std::string DescribeExit(int wait_status) {
  if (WIFSIGNALED(wait_status)) {
    return absl::StrCat("signal ", WTERMSIG(wait_status), " (", strsignal(WTERMSIG(wait_status)),
                        ")");
  }
  return absl::StrCat("exit code ", WEXITSTATUS(wait_status));
}

}  // namespace shiftadd::cli
