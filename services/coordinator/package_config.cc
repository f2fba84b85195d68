#include "services/coordinator/package_config.h"

#include <set>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "kernels/packed_matrix.h"
#include "nlohmann/json.hpp"
#include "services/base/version.h"
#include "services/coordinator/criterion.h"
#include "services/coordinator/job_spec.h"
#include "services/job/candidate.h"
#include "services/job/criterion_name.h"
#include "services/job/recipe.h"
#include "services/packaging/package_format.h"

namespace shiftadd::coordinator {
namespace {

using nlohmann::json;

json ExponentSets(const v1::Recipe& recipe, const v1::Variant& variant) {
  json sets = json::object();
  // Of the paper's layouts and of free scales there are none.
  if (recipe.scales() != v1::SCALE_KIND_SHIFT) return sets;
  for (const v1::VariantLayer& layer : variant.layers()) {
    if (layer.bits() == 0) continue;
    const auto table = kernels::DefaultExponentTable(static_cast<int>(layer.bits()));
    json rows = json::array();
    for (int s = 0; s < table.count; ++s) {
      json row = json::array();
      for (int i = 0; i < table.q; ++i) row.push_back(static_cast<int>(table.exponents[s][i]));
      rows.push_back(row);
    }
    sets[absl::StrCat(layer.bits())] = rows;
  }
  return sets;
}

absl::StatusOr<json> Layers(const JobView& view, const v1::Variant& variant) {
  const ReportMap reports = view.Reports();
  json layers = json::array();
  for (const v1::VariantLayer& layer : variant.layers()) {
    const auto report = reports.find(layer.layer());
    const v1::CandidateReport* c =
        report == reports.end() ? nullptr : FindCandidate(report->second, layer.bits());
    if (c == nullptr) {
      return absl::InternalError(absl::StrCat("layer ", layer.layer(), ": its candidate of ",
                                              layer.bits(), " bits is gone"));
    }
    layers.push_back({{"name", layer.layer()},
                      {"bits", layer.bits()},
                      {"rows", report->second.layer().rows()},
                      {"cols", report->second.layer().cols()},
                      {"digest", layer.digest()},
                      {"stored_bytes", c->stored_bytes()}});
  }
  return layers;
}

json Inputs(const JobView& view) {
  json source = json::array();
  for (const v1::SourceFile& file : view.job().plan().source_files()) {
    source.push_back({{"path", file.path()}, {"bytes", file.bytes()}, {"digest", file.digest()}});
  }
  return {{"source", source},
          {"calibration", view.TokenDigests(false)},
          {"evaluation", view.TokenDigests(true)}};
}

json QualityJson(const v1::Quality& q) {
  return {{"kl", q.kl()},
          {"kl_standard_error", q.kl_standard_error()},
          {"perplexity_full", q.perplexity_full()},
          {"perplexity_quantized", q.perplexity_quantized()},
          {"windows", q.windows()},
          {"window_length", q.window_length()},
          {"planes", q.planes()},
          {"stored_bits", q.stored_bits()}};
}

std::string TimeText(const google::protobuf::Timestamp& t) {
  return absl::FormatTime(absl::FromUnixSeconds(t.seconds()) + absl::Nanoseconds(t.nanos()),
                          absl::UTCTimeZone());
}

}  // namespace

absl::StatusOr<std::string> ComposeConfig(const JobView& view, const v1::Variant& variant,
                                          const v1::Quality* quality) {
  const v1::Job& job = view.job();
  const v1::Plan& plan = job.plan();
  json config;
  config["format"] = {{"major", kPackageFormatMajor}, {"minor", kPackageFormatMinor}};
  config["architecture"] = json::parse(plan.architecture_spec_json(), nullptr, false);
  if (config["architecture"].is_discarded()) {
    return absl::DataLossError("plan.architecture_spec_json: is not JSON");
  }
  config["recipe"] = RecipeJson(job.spec().recipe());
  // Its codes were found, but what the layers hold are the weights that they stand for.
  if (job.spec().recipe().method() == v1::METHOD_ACC) config["simulated"] = true;
  config["budget"] = BudgetJson(job.spec().budget());
  config["criterion"] = CriterionName(job.spec().criterion());
  if (job.spec().uniform()) config["uniform"] = true;
  auto layers = Layers(view, variant);
  if (!layers.ok()) return layers.status();
  config["layers"] = *std::move(layers);
  config["head"] = view.Ends().head_digest();
  config["unquantized"] = view.Ends().unquantized_digest();
  config["tokenizer"] = plan.tokenizer_digest();
  config["config"] = plan.config_digest();
  if (!plan.generation_config_digest().empty()) {
    config["generation_config"] = plan.generation_config_digest();
  }
  config["exponent_sets"] = ExponentSets(job.spec().recipe(), variant);
  config["inputs"] = Inputs(view);
  const std::string& version = view.record().quantizer_version;
  config["quantizer_version"] = version.empty() ? QuantizerVersion() : version;
  // With any device allowed, which one came first is chance and must not show.
  config["device_class"] = job.spec().any_device() ? "any" : job.device_class();
  if (quality != nullptr) config["quality"] = QualityJson(*quality);
  return config.dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string ComposeProvenance(const JobView& view) {
  const v1::Job& job = view.job();
  std::set<std::string> workers;
  double seconds = 0;
  for (const ViewedTask& t : view.tasks()) {
    workers.insert(t.record.worker);
    seconds += t.result.seconds();
  }
  json labels = json::object();
  for (const auto& [key, value] : job.spec().labels()) labels[key] = value;
  json provenance = {{"job", job.job_id()},
                     {"owner", job.owner()},
                     {"source", job.spec().source()},
                     {"labels", labels},
                     {"create_time", TimeText(job.create_time())},
                     {"workers", workers},
                     {"worker_seconds", seconds},
                     {"program", VersionLine()}};
  if (!job.spec().parent_job_id().empty()) provenance["parent_job"] = job.spec().parent_job_id();
  return provenance.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace shiftadd::coordinator
