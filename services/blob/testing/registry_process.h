// A docker-registry of Debian's package in a process of its own, for tests.
#ifndef SHIFTADD_SERVICES_BLOB_TESTING_REGISTRY_PROCESS_H_
#define SHIFTADD_SERVICES_BLOB_TESTING_REGISTRY_PROCESS_H_

#include <sys/types.h>

#include <memory>
#include <string>

namespace shiftadd::testing {

struct RegistryConfig {
  std::string auth;              // YAML under "auth:", indented by two; empty: none
  std::string certificate, key;  // PEM files; empty: plain HTTP
  bool can_delete = true;
};

// Not thread-safe.
class RegistryProcess {
 public:
  static bool IsInstalled();
  // Null if it does not start; stderr says why.
  static std::unique_ptr<RegistryProcess> Start(const RegistryConfig& config = {});
  ~RegistryProcess();

  // http[s]://localhost:PORT
  const std::string& url() const { return url_; }
  const std::string& dir() const { return dir_; }  // of its files
  void Stop();
  // On the same port and files.
  bool Restart();
  // `docker-registry garbage-collect`; false if it fails.
  bool CollectGarbage() const;

 private:
  RegistryProcess() = default;
  bool Launch();
  bool Answers() const;

  std::string dir_, url_, scheme_;
  int port_ = 0;
  RegistryConfig config_;
  pid_t pid_ = -1;
};

}  // namespace shiftadd::testing

#endif  // SHIFTADD_SERVICES_BLOB_TESTING_REGISTRY_PROCESS_H_
