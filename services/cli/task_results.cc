#include "services/cli/task_results.h"

#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "services/base/status_macros.h"

namespace shiftadd::cli {
namespace {

using nlohmann::json;

constexpr int kMostFigures = 4096;
constexpr char kError[] = "_stderr";

// A member that is an object, or an empty one.
const json& Object(const json& parent, const std::string& name) {
  static const auto* const none = new json(json::object());
  const auto it = parent.find(name);
  return it != parent.end() && it->is_object() ? *it : *none;
}

// "acc,none" -> "acc"; other filters stay.
std::string MetricName(const std::string& key) {
  return absl::EndsWith(key, ",none") ? key.substr(0, key.size() - 5) : key;
}

// The key of a metric's standard error: "acc,none" -> "acc_stderr,none".
std::string ErrorKey(const std::string& key) {
  const size_t comma = key.find(',');
  return absl::StrCat(key.substr(0, comma), kError, key.substr(comma));
}

class Reader {
 public:
  Reader(const json& document, const std::string& file) : document_(document), file_(file) {}

  absl::StatusOr<v1::PackageEvaluation> Read(const std::string& reference) {
    SA_RETURN_IF_ERROR(CheckModel(reference));
    for (const auto& [task, metrics] : Object(document_, "results").items()) {
      if (!metrics.is_object()) continue;
      for (const auto& [key, value] : metrics.items()) {
        const size_t comma = key.find(',');
        if (comma == std::string::npos || !value.is_number()) continue;
        if (absl::EndsWith(key.substr(0, comma), kError)) continue;
        SA_RETURN_IF_ERROR(AddFigure(task, key, value.get<double>(), metrics));
      }
    }
    if (out_.tasks_size() == 0) {
      return Fault(
          "no figure of a task, expected results: {\"TASK\": {\"METRIC,FILTER\": number}}");
    }
    const auto version = document_.find("lm_eval_version");
    out_.set_harness("lm-eval");
    if (version != document_.end() && version->is_string()) {
      out_.set_harness(absl::StrCat("lm-eval ", version->get<std::string>().substr(0, 64)));
    }
    return std::move(out_);
  }

 private:
  absl::Status Fault(const std::string& what) const {
    return absl::InvalidArgumentError(absl::StrCat(file_, ": ", what));
  }

  // lm-eval keeps what it was called with, as text or as an object.
  absl::Status CheckModel(const std::string& reference) const {
    const json& config = Object(document_, "config");
    std::string model;
    const auto arguments = config.find("model_args");
    if (arguments != config.end() && arguments->is_object()) {
      const json named = arguments->value("model", json());
      if (named.is_string()) model = named.get<std::string>();
    } else if (arguments != config.end() && arguments->is_string()) {
      for (const auto part : absl::StrSplit(arguments->get_ref<const std::string&>(), ',')) {
        if (absl::StartsWith(part, "model=")) model = std::string(part.substr(6));
      }
    }
    if (model.empty() || model.find('@') != std::string::npos ||
        reference.find('@') != std::string::npos) {
      return absl::OkStatus();
    }
    if (model.find(':') == std::string::npos) model += ":latest";
    if (model == reference) return absl::OkStatus();
    return Fault(absl::StrCat("config.model_args: the model is ", model, ", expected ", reference,
                              "; name the package by its digest if it is the same"));
  }

  // Of a group: of all tasks in it.
  uint64_t Rows(const std::string& task, int depth = 0) const {
    const json& samples = Object(document_, "n-samples");
    if (samples.contains(task)) {
      const json& said = samples.at(task);
      const json effective = said.is_object() ? said.value("effective", json()) : said;
      return effective.is_number_unsigned() ? effective.get<uint64_t>() : 0;
    }
    const json& groups = Object(document_, "group_subtasks");
    uint64_t rows = 0;
    if (depth < 8 && groups.contains(task) && groups.at(task).is_array()) {
      for (const json& part : groups.at(task)) {
        if (part.is_string()) rows += Rows(part.get<std::string>(), depth + 1);
      }
    }
    return rows;
  }

  absl::Status AddFigure(const std::string& task, const std::string& key, double value,
                         const json& metrics) {
    if (out_.tasks_size() >= kMostFigures) {
      return Fault(absl::StrCat("more than ", kMostFigures, " figures"));
    }
    v1::TaskFigure* figure = out_.add_tasks();
    figure->set_task(task);
    figure->set_metric(MetricName(key));
    figure->mutable_value()->set_value(value);
    figure->set_rows(Rows(task));
    const json shots = Object(document_, "n-shot").value(task, json());
    if (shots.is_number_unsigned() && shots.get<uint64_t>() <= 1000) {
      figure->set_shots(shots.get<uint32_t>());
    }
    // Where it cannot be had lm-eval says "N/A".
    const json error = metrics.value(ErrorKey(key), json());
    if (!error.is_number()) return absl::OkStatus();
    if (error.get<double>() < 0) {
      return Fault(absl::StrCat("results.", task, ".", ErrorKey(key), ": found ", error.dump(),
                                ", expected a standard error, at least 0"));
    }
    figure->mutable_value()->set_standard_error(error.get<double>());
    return absl::OkStatus();
  }

  const json& document_;
  const std::string& file_;
  v1::PackageEvaluation out_;
};

}  // namespace

absl::StatusOr<v1::PackageEvaluation> ParseTaskResults(const std::string& text,
                                                       const std::string& file,
                                                       const std::string& reference) {
  json document;
  try {
    document = json::parse(text);
  } catch (const json::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat(
        file, ": is not JSON (numbers that are NaN or infinite are none): ", error.what()));
  }
  if (!document.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": expected a JSON object"));
  }
  return Reader(document, file).Read(reference);
}

std::string TaskResultsJson(const v1::PackageEvaluation& evaluation) {
  json tasks = json::array();
  for (const v1::TaskFigure& figure : evaluation.tasks()) {
    json value = {{"value", figure.value().value()}};
    if (figure.value().has_standard_error()) {
      value["standard_error"] = figure.value().standard_error();
    }
    tasks.push_back({{"task", figure.task()},
                     {"metric", figure.metric()},
                     {"value", std::move(value)},
                     {"rows", figure.rows()},
                     {"shots", figure.shots()}});
  }
  return json{{"harness", evaluation.harness()}, {"tasks", std::move(tasks)}}.dump(
      -1, ' ', false, json::error_handler_t::replace);
}

}  // namespace shiftadd::cli
