#include "services/packaging/publish_check.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "services/base/digest.h"
#include "services/packaging/package_format.h"
#include "services/packaging/reference.h"

namespace shiftadd::packaging {
namespace {

using nlohmann::json;

constexpr size_t kMaxLayers = 100'000;

struct Field {
  const char* name;
  json::value_t type;
};
constexpr Field kRequired[] = {
    {"architecture", json::value_t::object}, {"recipe", json::value_t::object},
    {"budget", json::value_t::object},       {"layers", json::value_t::array},
    {"head", json::value_t::string},         {"unquantized", json::value_t::string},
    {"tokenizer", json::value_t::string},    {"quantizer_version", json::value_t::string}};
class Checker {
 public:
  explicit Checker(const PublishSpec& spec) : spec_(spec) {}

  std::vector<Fault> Check() {
    const auto reference = ParseTagReference(spec_.reference);
    if (!reference.ok()) Add("reference", reference.status().message());
    if (!spec_.expected_digest.empty()) CheckDigest("expected_digest", spec_.expected_digest);
    CheckLayers();
    CheckConfig();
    if (!spec_.provenance_json.empty()) CheckObject("provenance_json", spec_.provenance_json);
    CheckObjects("signature_json", spec_.signatures_json);
    CheckObjects("evaluation_json", spec_.evaluations_json);
    KeepFirst(&faults_);
    return std::move(faults_);
  }

 private:
  void Add(absl::string_view field, absl::string_view description) {
    faults_.push_back({std::string(field), std::string(description)});
  }

  void CheckDigest(const std::string& field, const std::string& digest) {
    const absl::Status status = ValidateDigest(digest);
    if (!status.ok()) Add(field, status.message());
  }

  void CheckObject(const std::string& field, const std::string& document) {
    if (!ParseJson(document).is_object()) Add(field, "expected a JSON object");
  }

  void CheckObjects(const std::string& field, const std::vector<std::string>& documents) {
    for (size_t i = 0; i < documents.size(); ++i) {
      CheckObject(absl::StrCat(field, "[", i, "]"), documents[i]);
    }
  }

  void CheckLayers() {
    if (spec_.layers.size() > kMaxLayers) {
      return Add("layers",
                 absl::StrCat("expected at most ", kMaxLayers, ", found ", spec_.layers.size()));
    }
    for (size_t i = 0; i < spec_.layers.size(); ++i) {
      const Descriptor& layer = spec_.layers[i];
      const std::string field = absl::StrCat("layers[", i, "]");
      if (layer.media_type.find('/') == std::string::npos) {
        Add(field + ".media_type",
            absl::StrCat("expected type/subtype, found \"", layer.media_type, "\""));
      }
      CheckDigest(field + ".digest", layer.digest);
      const auto title = layer.annotations.find(kTitleAnnotation);
      if (title == layer.annotations.end() || title->second.empty()) {
        Add(field + ".annotations", absl::StrCat("expected ", kTitleAnnotation));
      }
    }
  }

  void CheckConfig() {
    const json config = ParseJson(spec_.config_json);
    if (!config.is_object()) return Add("config_json", "expected a JSON object");
    CheckFormat(config);
    for (const Field& required : kRequired) {
      if (!config.contains(required.name) || config[required.name].type() != required.type) {
        Add(absl::StrCat("config_json.", required.name),
            absl::StrCat(
                "expected ", json(required.type).type_name(), ", found ",
                config.contains(required.name) ? config[required.name].type_name() : "nothing"));
      }
    }
    for (Fault& fault : CheckAgreement(config, spec_.layers)) faults_.push_back(std::move(fault));
  }

  void CheckFormat(const json& config) {
    const json format = config.value("format", json());
    const json major = format.is_object() ? format.value("major", json()) : json();
    if (major.is_number_integer() && major == kPackageFormatMajor) return;
    Add("config_json.format.major", absl::StrCat("expected ", kPackageFormatMajor, ", found ",
                                                 major.is_null() ? "nothing" : major.dump()));
  }

  const PublishSpec& spec_;
  std::vector<Fault> faults_;
};

}  // namespace

std::vector<Fault> CheckPublish(const PublishSpec& spec) { return Checker(spec).Check(); }

}  // namespace shiftadd::packaging
