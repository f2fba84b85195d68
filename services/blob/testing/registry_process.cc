#include "services/blob/testing/registry_process.h"

#include <arpa/inet.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace shiftadd::testing {
namespace {

constexpr char kBinary[] = "/usr/bin/docker-registry";

// A port that nobody listens on just now; the registry picks none itself.
int FreePort() {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  int port = 0;
  if (bind(fd, reinterpret_cast<sockaddr*>(&address), size) == 0 &&
      getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0) {
    port = ntohs(address.sin_port);
  }
  close(fd);
  return port;
}

}  // namespace

bool RegistryProcess::IsInstalled() { return access(kBinary, X_OK) == 0; }

std::unique_ptr<RegistryProcess> RegistryProcess::Start(const RegistryConfig& config) {
  std::unique_ptr<RegistryProcess> process(new RegistryProcess());
  std::string pattern = (std::filesystem::temp_directory_path() / "registry-XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) return nullptr;
  process->dir_ = pattern;
  process->config_ = config;
  process->scheme_ = config.certificate.empty() ? "http" : "https";
  for (int attempt = 0; attempt < 5; ++attempt) {
    process->port_ = FreePort();
    process->url_ = absl::StrCat(process->scheme_, "://localhost:", process->port_);
    if (process->Launch()) return process;
  }
  std::ifstream log(process->dir_ + "/log");
  std::cerr << "docker-registry does not start:\n" << log.rdbuf() << "\n";
  return nullptr;
}

RegistryProcess::~RegistryProcess() {
  Stop();
  std::filesystem::remove_all(dir_);
}

void RegistryProcess::Stop() {
  if (pid_ <= 0) return;
  kill(pid_, SIGTERM);
  waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

bool RegistryProcess::Restart() {
  Stop();
  return Launch();
}

bool RegistryProcess::Launch() {
  const std::string path = dir_ + "/config.yml";
  std::ofstream yaml(path);
  yaml << "version: 0.1\nlog: {level: error}\nstorage:\n  filesystem: {rootdirectory: " << dir_
       << "/data}\n  delete: {enabled: " << (config_.can_delete ? "true" : "false")
       << "}\nhttp:\n  addr: localhost:" << port_ << "\n  secret: tests\n";
  if (!config_.certificate.empty()) {
    yaml << "  tls: {certificate: " << config_.certificate << ", key: " << config_.key << "}\n";
  }
  if (!config_.auth.empty()) yaml << "auth:\n" << config_.auth << "\n";
  yaml.close();
  const std::string log = dir_ + "/log";
  pid_ = fork();
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (freopen(log.c_str(), "a", stdout) == nullptr ||
        freopen(log.c_str(), "a", stderr) == nullptr)
      _exit(99);
    execl(kBinary, kBinary, "serve", path.c_str(), nullptr);
    _exit(98);
  }
  for (int i = 0; i < 200; ++i) {
    if (waitpid(pid_, nullptr, WNOHANG) == pid_) {
      pid_ = -1;
      return false;
    }
    if (Answers()) return true;
    absl::SleepFor(absl::Milliseconds(25));
  }
  Stop();
  return false;
}

bool RegistryProcess::Answers() const {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port_));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const bool there = connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
  close(fd);
  return there;
}

bool RegistryProcess::CollectGarbage() const {
  const std::string command =
      absl::StrCat(kBinary, " garbage-collect ", dir_, "/config.yml >", dir_, "/collect.log 2>&1");
  return std::system(command.c_str()) == 0;
}

}  // namespace shiftadd::testing
