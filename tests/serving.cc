#include "tests/serving.h"

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/base/or_die.h"
#include "tests/cluster.h"
#include "worker/serve/testing/tiny_package.h"

namespace shiftadd::testing {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr char kMediaType[] = "application/vnd.shiftadd.weights.v1.safetensors";

}  // namespace

std::string PublishTiny(PackageClient* client, const std::string& reference, int seed,
                        Damage damage) {
  TinyPackageOptions options;
  options.model.seed = seed;
  TinyPackage package = MakeTinyPackage(options);
  if (damage == Damage::kNotTensors) {
    package.config["layers"][1]["digest"] = package.Put(absl::StrCat("no tensors ", seed));
  }
  if (damage == Damage::kBadShape) package.config["layers"][1]["rows"] = 7;
  for (const char* field : {"recipe", "budget"}) package.config[field] = json::object();
  package.config["quantizer_version"] = "1";
  v1::PublishPackageRequest request;
  request.set_reference(reference);
  request.set_config_json(package.config_json());
  for (const auto& [digest, blob] : package.blobs) {
    OrDie(client->WriteBlob(blob), "WriteBlob");
    v1::Descriptor* layer = request.add_layers();
    layer->set_media_type(kMediaType);
    layer->set_digest(digest);
    layer->set_size(blob.size());
    (*layer->mutable_annotations())["org.opencontainers.image.title"] = digest;
  }
  return OrDie(client->Publish(request), "Publish").digest();
}

Serving::Serving() : dir_(NewTempDir("serving")) {
  StartPackager();
  packages_ = PackageClient::Connect(absl::StrCat("127.0.0.1:", packager_port_));
}

Serving::~Serving() {
  server_.Kill();
  packager_.Kill();
  std::error_code ignored;
  if (std::getenv("SHIFTADD_TEST_KEEP") == nullptr) fs::remove_all(dir_, ignored);
}

void Serving::StartPackager() {
  const std::string ports = dir_ + "/packager.ports", log = dir_ + "/packager.log";
  fs::remove(ports);
  packager_ = Process({Binary("shiftadd-packager"), "--listen",
                       absl::StrCat("127.0.0.1:", packager_port_), "--http", "127.0.0.1:0",
                       "--data-dir", dir_, "--blobs", dir_ + "/store", "--port-file", ports},
                      log);
  packager_port_ = WaitForPorts(ports, &packager_, log)[0];
}

void Serving::StopPackager() {
  packager_.Signal(SIGTERM);
  packager_.Wait(absl::Seconds(30));
}

std::string Serving::Publish(const std::string& reference, int seed, Damage damage) {
  if (damage != Damage::kBadDigest) {
    return PublishTiny(packages_.get(), reference, seed, damage);
  }
  // Under another name first: a server that follows `reference` must not see it whole.
  const std::string aside = absl::StrCat("damaged:v", seed);
  const std::string digest = PublishTiny(packages_.get(), aside, seed);
  const v1::Package package = OrDie(packages_->Get(aside), "Get");
  const std::string layer = json::parse(package.config_json())["layers"][1]["digest"];
  const fs::path file = fs::path(dir_) / "store" / "blobs" / "sha256" / layer.substr(7);
  fs::permissions(file, fs::perms::owner_write, fs::perm_options::add);
  std::string bytes = ReadFile(file.string());
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  WriteFile(file.string(), bytes);
  OrDie(packages_->Tag(aside, reference), "Tag");
  return digest;
}

void Serving::StartServer(const std::vector<std::string>& references,
                          const std::vector<std::string>& more_flags) {
  const std::string ports = dir_ + "/server.ports";
  fs::remove(ports);
  std::vector<std::string> argv = {Binary("shiftadd-server"),
                                   "--packager",
                                   packager_address(),
                                   "--listen",
                                   "127.0.0.1:0",
                                   "--http",
                                   "127.0.0.1:0",
                                   "--port-file",
                                   ports,
                                   "--threads",
                                   "1",
                                   "--cache-mib",
                                   "16"};
  for (const std::string& reference : references) {
    argv.push_back("--package");
    argv.push_back(reference);
  }
  argv.insert(argv.end(), more_flags.begin(), more_flags.end());
  server_ = Process(argv, dir_ + "/server.log");
  const std::vector<int> found = WaitForPorts(ports, &server_, dir_ + "/server.log");
  grpc_port_ = found[0];
  http_port_ = found[1];
}

std::string Serving::ServerLog() const { return ReadFile(dir_ + "/server.log"); }

HttpAnswer Serving::Get(const std::string& path) const { return HttpClient(http_port_).Get(path); }

HttpAnswer Serving::Post(const std::string& path, const json& body) const {
  return HttpClient(http_port_).Post(path, body.dump());
}

json Serving::Health(const std::string& reference) const {
  const json health = json::parse(Get("/health").body, nullptr, false);
  if (!health.is_object()) return json::object();
  for (const json& model : health["models"]) {
    if (model["id"] == reference) return model;
  }
  return json::object();
}

bool Serving::AwaitHealth(const std::string& reference, const std::string& digest,
                          bool error) const {
  for (int i = 0; i < 3000; ++i) {
    const json model = Health(reference);
    if (model.value("digest", "") == digest && model.value("error", "").empty() != error &&
        model.value("state", "") == "serving") {
      return true;
    }
    absl::SleepFor(absl::Milliseconds(20));
  }
  return false;
}

}  // namespace shiftadd::testing
