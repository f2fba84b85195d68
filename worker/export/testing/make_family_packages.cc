// Unquantized packages, for tests of what other programs make of their exports.
//   make_family_packages DIR
//   make_family_packages DIR MODEL NAME
// Writes them into the OCI image layout DIR/layout, each as NAME:v1, and prints their names: the
// tiny models of every family in tests/golden/families.json, and under NAME-plain the same without
// what GGUF has no word for; or that of a model (a GGUF file or a Hugging Face folder).
#include <filesystem>
#include <iostream>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "services/base/status_macros.h"
#include "worker/model/model_source.h"
#include "worker/model/testing/golden_family.h"
#include "worker/serve/testing/tiny_package.h"

namespace shiftadd::testing {

using nlohmann::json;

absl::Status Package(const std::string& model, const std::string& name, const std::string& dir) {
  SA_ASSIGN_OR_RETURN(const auto source, ModelSource::Open(model));
  SA_RETURN_IF_ERROR(MakeRawPackage(*source).WriteLayout(dir + "/layout", name + ":v1").status());
  std::cout << name << "\n";
  return absl::OkStatus();
}

absl::Status Make(const json& golden, const std::string& name, const std::string& dir) {
  const std::string folder = absl::StrCat(dir, "/", name);
  // In fp16, so that exporting rounds nothing.
  SA_RETURN_IF_ERROR(WriteGoldenFamily(golden, folder, /*drop=*/"", /*halves=*/true));
  SA_RETURN_IF_ERROR(Package(folder, name, dir));
  std::filesystem::remove_all(folder);
  return absl::OkStatus();
}

// Sliding windows where llama.cpp knows none, and scores scaled by another number than the heads'
// width.
bool MakePlain(json* config) {
  const std::string type = config->at("model_type");
  if (type == "mistral" && !config->at("sliding_window").is_null()) {
    (*config)["sliding_window"] = nullptr;
    return true;
  }
  if (config->contains("query_pre_attn_scalar")) {
    (*config)["query_pre_attn_scalar"] = config->at("head_dim");
    return true;
  }
  return false;
}

absl::Status Run(const std::string& dir) {
  for (const json& golden : GoldenFamilies()) {
    std::string name = golden.at("name");
    for (char& c : name) {
      if (c == '_') c = '-';
    }
    SA_RETURN_IF_ERROR(Make(golden, name, dir));
    json plain = golden;
    if (!MakePlain(&plain["config"])) continue;
    SA_RETURN_IF_ERROR(Make(plain, name + "-plain", dir));
    if (name != "gemma3") continue;
    // As the models above 1B have it: positions of the global blocks are squeezed, those of the
    // local ones are not.
    plain["config"]["rope_parameters"]["full_attention"] = {
        {"rope_theta", 1e6}, {"rope_type", "linear"}, {"factor", 8.0}};
    SA_RETURN_IF_ERROR(Make(plain, name + "-linear", dir));
  }
  return absl::OkStatus();
}

}  // namespace shiftadd::testing

int main(int argc, char** argv) {
  if (argc != 2 && argc != 4) {
    std::cerr << "usage: make_family_packages DIR [MODEL NAME]\n";
    return 2;
  }
  const absl::Status status = argc == 2 ? shiftadd::testing::Run(argv[1])
                                        : shiftadd::testing::Package(argv[2], argv[3], argv[1]);
  if (!status.ok()) std::cerr << status << "\n";
  return status.ok() ? 0 : 1;
}
