#include "worker/serve/testing/tiny_server.h"

#include <gtest/gtest.h>

namespace shiftadd::testing {

bool FakeWriter::Start(const http::Response& h) {
  started = true;
  head = h;
  return connected;
}

bool FakeWriter::Write(const std::string& data) {
  if (leave_after >= 0 && static_cast<int>(writes.size()) >= leave_after) connected = false;
  if (connected) writes.push_back(data);
  return connected;
}

std::vector<nlohmann::json> FakeWriter::Events() const {
  std::vector<nlohmann::json> events;
  for (const std::string& write : writes) {
    // One event a write: "data: …" and an empty line.
    EXPECT_EQ(write.substr(0, 6), "data: ");
    EXPECT_EQ(write.substr(write.size() - 2), "\n\n");
    const std::string data = write.substr(6, write.size() - 8);
    EXPECT_EQ(data.find('\n'), std::string::npos);
    if (data == "[DONE]") {
      events.emplace_back(data);
    } else {
      events.push_back(nlohmann::json::parse(data));
    }
  }
  return events;
}

ModelPtr MakeVersion(const TinyPackage& package, const std::string& name,
                     const EngineOptions& engine) {
  auto version = std::make_shared<ModelVersion>();
  PackedModelOptions model_options;
  model_options.threads = 1;
  version->model = *PackedModel::Load(package.config_json(), package.Reader(), model_options);
  version->tokenizer = *Tokenizer::FromJson(package.tokenizer_json);
  ServedModel& served = version->served;
  served.name = name;
  served.digest = "sha256:" + std::string(64, 'a');
  served.created = 1;
  served.context = engine.context;
  served.model = version->model.get();
  served.tokenizer = version->tokenizer.get();
  served.info = ReadTokenizerInfo(package.tokenizer_json, *version->tokenizer, package.spec);
  served.longest_token = LongestToken(*version->tokenizer);
  version->engine =
      std::make_unique<Engine>(version->model.get(), version->tokenizer.get(), engine, nullptr);
  return version;
}

TinyServer::TinyServer(const TinyServerOptions& options)
    : package(MakeTinyPackage(options.package)) {
  const ModelPtr version = MakeVersion(package, "tiny:latest", options.engine);
  model = version->model.get();
  tokenizer = version->tokenizer.get();
  engine = version->engine.get();
  registry.Put(version);
  api = std::make_unique<openai::Api>(&registry, nullptr);
  routes = api->Routes();
  router = std::make_unique<http::Router>(routes);
}

http::Response TinyServer::Call(const std::string& method, const std::string& path,
                                const std::string& body, http::StreamWriter* writer) {
  FakeWriter own;
  http::Request request;
  request.method = method;
  request.path = path;
  request.body = body;
  http::Response refusal;
  const http::Handler* handler = router->Find(method, path, &refusal);
  if (handler == nullptr) return refusal;
  return (*handler)(request, writer == nullptr ? &own : writer);
}

nlohmann::json TinyServer::Post(const std::string& path, const nlohmann::json& body,
                                int expected_status) {
  const http::Response response = Call("POST", path, body.dump());
  EXPECT_EQ(response.status, expected_status) << response.body;
  return nlohmann::json::parse(response.body, nullptr, false);
}

}  // namespace shiftadd::testing
