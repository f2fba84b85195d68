#include "worker/serve/package_config.h"

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "services/base/digest.h"
#include "services/base/status_macros.h"
#include "services/packaging/package_format.h"

namespace shiftadd {
namespace {

using nlohmann::json;

absl::Status Fault(absl::string_view field, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("package config: ", field, ": ", what));
}

absl::StatusOr<int64_t> Integer(const json& object, const char* key, absl::string_view where) {
  const auto it = object.find(key);
  if (it == object.end()) return Fault(absl::StrCat(where, key), "is missing");
  if (!it->is_number_integer()) return Fault(absl::StrCat(where, key), "must be an integer");
  return it->get<int64_t>();
}

absl::StatusOr<std::string> Digest(const json& object, const char* key, absl::string_view where) {
  const auto it = object.find(key);
  if (it == object.end()) return Fault(absl::StrCat(where, key), "is missing");
  if (!it->is_string()) return Fault(absl::StrCat(where, key), "must be a string");
  std::string digest = it->get<std::string>();
  SA_RETURN_IF_ERROR(
      Annotate(ValidateDigest(digest), absl::StrCat("package config: ", where, key)));
  return digest;
}

absl::Status CheckFormat(const json& config) {
  const auto it = config.find("format");
  if (it == config.end() || !it->is_object()) return Fault("format", "must be an object");
  SA_ASSIGN_OR_RETURN(const int64_t major, Integer(*it, "major", "format."));
  if (major != kPackageFormatMajor) {
    return absl::FailedPreconditionError(
        absl::StrCat("the package has format version ", major, ", this program reads version ",
                     kPackageFormatMajor,
                     major > kPackageFormatMajor ? ": it needs a newer shiftadd-server" : ""));
  }
  return absl::OkStatus();
}

absl::StatusOr<kernels::ExponentTable> ParseTable(int q, const json& sets,
                                                  const std::string& field) {
  if (!sets.is_array() || sets.empty() || sets.size() > kernels::kMaxExponentSets) {
    return Fault(field, "must be a list of 1 to 16 sets");
  }
  kernels::ExponentTable table;
  table.q = q;
  table.count = static_cast<int>(sets.size());
  for (size_t s = 0; s < sets.size(); ++s) {
    if (!sets[s].is_array() || sets[s].size() != static_cast<size_t>(q)) {
      return Fault(field, absl::StrCat("set ", s, " must be a list of ", q, " exponents"));
    }
    for (int i = 0; i < q; ++i) {
      const json& e = sets[s][i];
      if (!e.is_number_integer() || e.get<int64_t>() < -30 || e.get<int64_t>() > 30) {
        return Fault(field, absl::StrCat("set ", s, ": exponents must be integers in [-30, 30]"));
      }
      table.exponents[s][i] = static_cast<int8_t>(e.get<int64_t>());
    }
  }
  return table;
}

absl::StatusOr<std::map<int, kernels::ExponentTable>> ParseExponentSets(const json& config) {
  std::map<int, kernels::ExponentTable> tables;
  const auto it = config.find("exponent_sets");
  if (it == config.end()) return tables;
  if (!it->is_object()) return Fault("exponent_sets", "must be an object");
  for (const auto& [key, sets] : it->items()) {
    int q = 0;
    if (!absl::SimpleAtoi(key, &q) || q < 1 || q > kernels::kMaxPlanes) {
      return Fault("exponent_sets", absl::StrCat("key \"", key, "\" must be a width of 1 to 8"));
    }
    SA_ASSIGN_OR_RETURN(tables[q], ParseTable(q, sets, absl::StrCat("exponent_sets.", key)));
  }
  return tables;
}

absl::StatusOr<PackageLayer> ParseLayer(const json& layer, const std::string& where) {
  if (!layer.is_object()) return Fault(where, "must be an object");
  PackageLayer out;
  const auto name = layer.find("name");
  if (name == layer.end() || !name->is_string()) return Fault(where + ".name", "must be a string");
  out.name = name->get<std::string>();
  SA_ASSIGN_OR_RETURN(out.bits, Integer(layer, "bits", where + "."));
  SA_ASSIGN_OR_RETURN(out.rows, Integer(layer, "rows", where + "."));
  SA_ASSIGN_OR_RETURN(out.cols, Integer(layer, "cols", where + "."));
  SA_ASSIGN_OR_RETURN(out.digest, Digest(layer, "digest", where + "."));
  return out;
}

absl::StatusOr<std::vector<PackageLayer>> ParseLayers(const json& config,
                                                      const ArchitectureSpec& spec) {
  const auto it = config.find("layers");
  if (it == config.end() || !it->is_array()) return Fault("layers", "must be a list");
  std::map<std::string, PackageLayer> found;
  for (size_t i = 0; i < it->size(); ++i) {
    SA_ASSIGN_OR_RETURN(PackageLayer layer, ParseLayer((*it)[i], absl::StrCat("layers[", i, "]")));
    const std::string name = layer.name;
    if (!found.emplace(name, std::move(layer)).second) return Fault(name, "is there twice");
  }
  std::vector<PackageLayer> layers;
  for (int64_t b = 0; b < spec.blocks; ++b) {
    for (const LinearLayer& want : BlockLayers(spec, b)) {
      const auto layer = found.find(want.name);
      if (layer == found.end()) return Fault("layers", absl::StrCat(want.name, " is missing"));
      if (layer->second.rows != want.rows || layer->second.cols != want.cols) {
        return Fault(want.name,
                     absl::StrCat("is ", layer->second.rows, " x ", layer->second.cols,
                                  ", the architecture says ", want.rows, " x ", want.cols));
      }
      layers.push_back(std::move(layer->second));
      found.erase(layer);
    }
  }
  if (!found.empty()) return Fault("layers", found.begin()->first + " is not in the architecture");
  return layers;
}

}  // namespace

absl::StatusOr<PackageConfig> ParsePackageConfig(const std::string& config_json) {
  const json config = json::parse(config_json, nullptr, /*allow_exceptions=*/false);
  if (!config.is_object()) return Fault("document", "is not a JSON object");
  SA_RETURN_IF_ERROR(CheckFormat(config));
  const auto architecture = config.find("architecture");
  if (architecture == config.end()) return Fault("architecture", "is missing");
  PackageConfig out;
  SA_ASSIGN_OR_RETURN(out.spec, ArchitectureSpecFromJson(*architecture));
  SA_ASSIGN_OR_RETURN(out.layers, ParseLayers(config, out.spec));
  SA_ASSIGN_OR_RETURN(out.exponent_sets, ParseExponentSets(config));
  SA_ASSIGN_OR_RETURN(out.head, Digest(config, "head", ""));
  SA_ASSIGN_OR_RETURN(out.unquantized, Digest(config, "unquantized", ""));
  SA_ASSIGN_OR_RETURN(out.tokenizer, Digest(config, "tokenizer", ""));
  return out;
}

}  // namespace shiftadd
