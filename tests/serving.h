// A packager and a server of tiny packages as processes.
#ifndef SHIFTADD_TESTS_SERVING_H_
#define SHIFTADD_TESTS_SERVING_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "services/packaging/package_client.h"
#include "tests/http_client.h"
#include "tests/process.h"

namespace shiftadd::testing {

// What is wrong with a published package.
enum class Damage {
  kNone,
  kNotTensors,  // a layer's blob holds something else; its digest is right
  kBadDigest,   // a layer's blob was changed in the store; Serving's only
  kBadShape,    // the architecture names another width than its layers have
};

// Publishes a tiny package; another seed gives other weights. Gives its digest; aborts on errors.
std::string PublishTiny(PackageClient* client, const std::string& reference, int seed,
                        Damage damage = Damage::kNone);

class Serving {
 public:
  Serving();  // starts the packager in a fresh folder
  ~Serving();

  // PublishTiny with every damage.
  std::string Publish(const std::string& reference, int seed, Damage damage = Damage::kNone);
  // Starts the server for these references and waits until it answers.
  void StartServer(const std::vector<std::string>& references,
                   const std::vector<std::string>& more_flags = {});
  // Stops the packager, and starts it again at the same port.
  void StopPackager();
  void StartPackager();

  int http_port() const { return http_port_; }
  int grpc_port() const { return grpc_port_; }
  std::string packager_address() const { return absl::StrCat("127.0.0.1:", packager_port_); }
  Process& server() { return server_; }
  PackageClient& packages() { return *packages_; }
  const std::string& dir() const { return dir_; }
  std::string ServerLog() const;

  // One exchange over a connection of its own.
  HttpAnswer Get(const std::string& path) const;
  HttpAnswer Post(const std::string& path, const nlohmann::json& body) const;
  // The entry of /health for a model.
  nlohmann::json Health(const std::string& reference) const;
  // Waits until it has `digest` and an error if `error`; false after 60 s.
  bool AwaitHealth(const std::string& reference, const std::string& digest, bool error) const;

 private:
  std::string dir_;
  int packager_port_ = 0, http_port_ = 0, grpc_port_ = 0;
  Process packager_, server_;
  std::unique_ptr<PackageClient> packages_;
};

}  // namespace shiftadd::testing

#endif  // SHIFTADD_TESTS_SERVING_H_
