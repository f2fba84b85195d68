#include "services/packaging/agreement.h"

#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/base/digest.h"
#include "services/packaging/package_format.h"

namespace shiftadd::packaging {
namespace {

using nlohmann::json;

constexpr size_t kMaxFaults = 16;
constexpr const char* kBlobFields[] = {"head", "unquantized", "tokenizer", "config",
                                       "generation_config"};

class Checker {
 public:
  std::vector<Fault> Check(const json& config, const std::vector<Descriptor>& layers) {
    CheckLayers(layers);
    for (const char* field : kBlobFields) {
      if (config.contains(field) && config[field].is_string()) {
        CheckNamed(absl::StrCat("config_json.", field), config[field]);
      }
    }
    if (!config.contains("layers") || !config["layers"].is_array()) return std::move(faults_);
    for (size_t i = 0; i < config["layers"].size(); ++i) {
      const json& layer = config["layers"][i];
      const std::string field = absl::StrCat("config_json.layers[", i, "]");
      if (!layer.is_object() || !layer.contains("name") || !layer["name"].is_string() ||
          !layer.contains("digest")) {
        Add(field, "expected an object with name and digest");
      } else {
        CheckNamed(field + ".digest", layer["digest"]);
      }
    }
    return std::move(faults_);
  }

 private:
  void Add(absl::string_view field, absl::string_view description) {
    faults_.push_back({std::string(field), std::string(description)});
  }

  void CheckLayers(const std::vector<Descriptor>& layers) {
    if (layers.empty()) Add("layers", "expected at least one");
    std::set<std::string> titles;
    for (size_t i = 0; i < layers.size(); ++i) {
      digests_.insert(layers[i].digest);
      const auto title = layers[i].annotations.find(kTitleAnnotation);
      if (title == layers[i].annotations.end() || title->second.empty()) continue;
      if (!titles.insert(title->second).second) {
        Add(absl::StrCat("layers[", i, "].annotations"),
            absl::StrCat(kTitleAnnotation, " \"", title->second, "\" is there twice"));
      }
    }
  }

  void CheckNamed(const std::string& field, const json& digest) {
    if (!digest.is_string()) return Add(field, "expected a digest");
    const std::string text = digest;
    if (const absl::Status valid = ValidateDigest(text); !valid.ok()) {
      Add(field, valid.message());
    } else if (digests_.count(text) == 0) {
      Add(field, absl::StrCat(text, " is none of the package's layers"));
    }
  }

  std::vector<Fault> faults_;
  std::set<std::string> digests_;
};

}  // namespace

std::vector<Fault> CheckAgreement(const json& config, const std::vector<Descriptor>& layers) {
  return Checker().Check(config, layers);
}

void KeepFirst(std::vector<Fault>* faults) {
  if (faults->size() <= kMaxFaults) return;
  const size_t more = faults->size() - kMaxFaults;
  faults->resize(kMaxFaults);
  faults->push_back({"package", absl::StrCat("and ", more, " more faults")});
}

std::string Joined(const std::vector<Fault>& faults) {
  return absl::StrJoin(faults, "; ", [](std::string* out, const Fault& fault) {
    absl::StrAppend(out, fault.field, ": ", fault.description);
  });
}

}  // namespace shiftadd::packaging
