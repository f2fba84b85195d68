#include "worker/serve/testing/golden_package.h"

#include <memory>
#include <vector>

#include "nlohmann/json.hpp"
#include "services/base/status_macros.h"
#include "worker/model/tokenizer.h"
#include "worker/serve/package_source.h"
#include "worker/serve/packed_model.h"

namespace shiftadd::testing {

TinyLlamaOptions GoldenModelOptions() {
  TinyLlamaOptions options;
  options.seed = 20;
  options.hidden = 64;
  options.intermediate = 160;
  return options;
}

absl::StatusOr<std::string> GoldenAnswers(const std::string& directory) {
  PackageLocation location;
  location.reference = kGoldenReference;
  location.package_dir = directory;
  SA_ASSIGN_OR_RETURN(const ResolvedPackage package, ResolvePackage(location));
  PackedModelOptions options;
  options.threads = 1;
  options.precision = PackedModelOptions::Precision::kA16;
  SA_ASSIGN_OR_RETURN(const std::unique_ptr<PackedModel> model,
                      PackedModel::Load(package.config_json, package.read, options));
  const nlohmann::json config = nlohmann::json::parse(package.config_json);
  SA_ASSIGN_OR_RETURN(const std::string document,
                      package.read(config.at("tokenizer").get<std::string>()));
  SA_ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::FromJson(document));
  const std::vector<int32_t> ids =
      tokenizer->Encode(kGoldenText, /*add_special=*/false, /*parse_special=*/false);
  const auto cache = model->NewCache(static_cast<int64_t>(ids.size()));
  std::vector<float> logits;
  SA_RETURN_IF_ERROR(model->Forward(ids, cache.get(), /*all_logits=*/true, &logits));
  nlohmann::json answers = {{"text", kGoldenText}, {"ids", ids}, {"stride", kGoldenStride}};
  for (size_t position = 0; position < ids.size(); ++position) {
    nlohmann::json row = nlohmann::json::array();
    for (int64_t id = 0; id < model->spec().vocab; id += kGoldenStride) {
      row.push_back(logits[position * model->spec().vocab + id]);
    }
    answers["logits"].push_back(row);
  }
  return answers.dump();
}

}  // namespace shiftadd::testing
