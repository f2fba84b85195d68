// For skopeo_test.sh: publishes a small package into an OCI layout and prints its digest.
#include <iostream>

#include "services/base/logging.h"
#include "services/packaging/package_format.h"
#include "services/packaging/packager.h"

namespace shiftadd::packaging {
namespace {

absl::StatusOr<std::string> Make(const std::string& dir) {
  auto blobs = OpenOciLayout(dir);
  if (!blobs.ok()) return blobs.status();
  auto store = OpenSqlitePackageStore(dir + "/packager.sqlite");
  if (!store.ok()) return store.status();
  auto packager = Packager::Start(store->get(), blobs->get(), {});
  if (!packager.ok()) return packager.status();
  PublishSpec spec;
  spec.reference = "skopeo:latest";
  for (const char* title : {"layer", "head", "unquantized", "tokenizer.json"}) {
    const std::string content(100'000, *title);
    auto digest = (*blobs)->Put(content);
    if (!digest.ok()) return digest.status();
    spec.layers.push_back(
        {kWeightsMediaType, *digest, content.size(), {{kTitleAnnotation, title}}});
  }
  spec.config_json = nlohmann::json{
      {"format", {{"major", 1}, {"minor", 0}}},
      {"architecture", nlohmann::json::object()},
      {"recipe", nlohmann::json::object()},
      {"budget", {{"planes", 3.0}}},
      {"layers", nlohmann::json::array()},
      {"head", spec.layers[1].digest},
      {"unquantized", spec.layers[2].digest},
      {"tokenizer", spec.layers[3].digest},
      {"quantizer_version",
       "1"}}.dump();
  spec.provenance_json = R"({"job":"job-test"})";
  const auto info = (*packager)->Publish(spec);
  if (!info.ok()) return info.status();
  return info->digest;
}

}  // namespace
}  // namespace shiftadd::packaging

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: make_test_package DIR\n";
    return 2;
  }
  spdlog::set_level(spdlog::level::off);
  const auto digest = shiftadd::packaging::Make(argv[1]);
  if (!digest.ok()) {
    std::cerr << digest.status() << "\n";
    return 1;
  }
  std::cout << *digest << "\n";
  return 0;
}
