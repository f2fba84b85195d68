#include "services/cli/detach.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "services/cli/files.h"

namespace shiftadd::cli {
namespace {

// A message: kind, length, text. Kinds: 's' said, 'r' ready, 'f' failed.
bool ReadAll(int fd, void* data, size_t size) {
  for (size_t done = 0; done < size;) {
    const ssize_t n = read(fd, static_cast<char*>(data) + done, size - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    done += static_cast<size_t>(n);
  }
  return true;
}

int Relay(Context& context, int fd, const std::string& log) {
  char kind = 0;
  uint32_t length = 0;
  while (ReadAll(fd, &kind, 1) && ReadAll(fd, &length, sizeof(length))) {
    std::string text(length, '\0');
    if (!ReadAll(fd, text.data(), length)) break;
    if (kind == 'r') return kExitOk;
    if (kind == 'f') {
      context.err << "shiftadd: " << text << "\n";
      return kExitFailed;
    }
    context.out << text << "\n" << std::flush;
  }
  context.err << "shiftadd: the process in the background ended at once; the end of " << log
              << ":\n"
              << TailOfFile(log, 15);
  return kExitFailed;
}

[[noreturn]] void RunDetached(const std::string& log, int report,
                              const std::function<void(Reporter&)>& work) {
  setsid();
  if (fork() != 0) _exit(0);  // not a session leader: no terminal can become ours
  (void)!chdir("/");
  const int null = open("/dev/null", O_RDONLY);
  const int out = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
  dup2(null, STDIN_FILENO);
  dup2(out < 0 ? null : out, STDOUT_FILENO);
  dup2(out < 0 ? null : out, STDERR_FILENO);
  if (null > STDERR_FILENO) close(null);
  if (out > STDERR_FILENO) close(out);
  Reporter reporter(report);
  work(reporter);
  _exit(0);
}

}  // namespace

void Reporter::Send(char kind, const std::string& text) const {
  if (fd_ < 0) return;
  const uint32_t length = static_cast<uint32_t>(text.size());
  std::string message(1, kind);
  message.append(reinterpret_cast<const char*>(&length), sizeof(length));
  message += text;
  (void)!write(fd_, message.data(), message.size());
}

void Reporter::Say(const std::string& text) const {
  const std::string now = absl::FormatTime("%Y-%m-%d %H:%M:%S", absl::Now(), absl::UTCTimeZone());
  std::fprintf(stderr, "%s %s\n", now.c_str(), text.c_str());
  Send('s', text);
}

void Reporter::Ready() {
  Send('r', "");
  close(fd_);
  fd_ = -1;
}

void Reporter::Failed(const std::string& text) {
  std::fprintf(stderr, "%s\n", text.c_str());
  Send('f', text);
  close(fd_);
  fd_ = -1;
}

int Detach(Context& context, const std::string& log, const std::function<void(Reporter&)>& work) {
  int report[2];
  if (pipe2(report, O_CLOEXEC) != 0) {
    return Report(context, absl::InternalError(absl::StrCat("pipe: ", std::strerror(errno))));
  }
  context.out.flush();
  const pid_t child = fork();
  if (child < 0)
    return Report(context, absl::InternalError(absl::StrCat("fork: ", std::strerror(errno))));
  if (child == 0) RunDetached(log, report[1], work);
  close(report[1]);
  waitpid(child, nullptr, 0);
  const int code = Relay(context, report[0], log);
  close(report[0]);
  return code;
}

}  // namespace shiftadd::cli
