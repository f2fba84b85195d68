// A tiny package behind an engine and the HTTP handlers, without sockets.
#ifndef SHIFTADD_WORKER_SERVE_TESTING_TINY_SERVER_H_
#define SHIFTADD_WORKER_SERVE_TESTING_TINY_SERVER_H_

#include <memory>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "services/http/http_server.h"
#include "services/http/router.h"
#include "worker/serve/engine.h"
#include "worker/serve/model_registry.h"
#include "worker/serve/openai_api.h"
#include "worker/serve/testing/tiny_package.h"

namespace shiftadd::testing {

// Keeps what a handler streams. Leaves after `leave_after` writes.
class FakeWriter : public http::StreamWriter {
 public:
  bool Start(const http::Response& h) override;
  bool Write(const std::string& data) override;
  bool Connected() override { return connected; }

  // The payloads of the events: one JSON document each, "[DONE]" as a string.
  std::vector<nlohmann::json> Events() const;

  bool started = false;
  bool connected = true;
  int leave_after = -1;
  http::Response head;
  std::vector<std::string> writes;
};

struct TinyServerOptions {
  TinyPackageOptions package;
  EngineOptions engine = {256, 8, 2};
};

// A version of `package` that serves as `name`.
ModelPtr MakeVersion(const TinyPackage& package, const std::string& name,
                     const EngineOptions& engine);

// Served as "tiny:latest".
class TinyServer {
 public:
  explicit TinyServer(const TinyServerOptions& options = {});

  http::Response Call(const std::string& method, const std::string& path, const std::string& body,
                      http::StreamWriter* writer = nullptr);
  nlohmann::json Post(const std::string& path, const nlohmann::json& body,
                      int expected_status = 200);

  const TinyPackage package;
  // Of the version that the registry holds.
  PackedModel* model = nullptr;
  Tokenizer* tokenizer = nullptr;
  Engine* engine = nullptr;
  ModelRegistry registry;
  std::unique_ptr<openai::Api> api;
  http::HttpServer::Routes routes;
  std::unique_ptr<http::Router> router;
};

}  // namespace shiftadd::testing

#endif  // SHIFTADD_WORKER_SERVE_TESTING_TINY_SERVER_H_
