#include "services/cli/evaluation_format.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "services/cli/proto_json.h"
#include "services/cli/table.h"
#include "services/cli/units.h"

namespace shiftadd::cli {
namespace {

constexpr int kMostDigits = 8;

// After the point, for two digits of the error to show.
int Digits(double error) {
  if (!(error > 0) || !std::isfinite(error)) return 4;
  return std::clamp(1 - static_cast<int>(std::floor(std::log10(error))), 0, kMostDigits);
}

std::string FormatTasks(const v1::PackageEvaluation& e) {
  Table table({"task", "metric", ">", ">+- standard error", ">rows", ">shots"});
  for (const v1::TaskFigure& figure : e.tasks()) {
    const auto [value, error] = EstimateParts(figure.value());
    table.Add({figure.task(), figure.metric(), value, error,
               figure.rows() > 0 ? FormatCount(figure.rows()) : "-",
               std::to_string(figure.shots())});
  }
  return absl::StrCat(table.ToString(), "by ", e.harness().empty() ? "?" : e.harness(), "\n");
}

}  // namespace

std::pair<std::string, std::string> EstimateParts(const v1::Estimate& estimate) {
  const std::string text = FormatEstimate(estimate);
  const size_t sign = text.find(" +- ");
  if (sign == std::string::npos) return {text, "not known"};
  return {text.substr(0, sign), text.substr(sign + 4)};
}

std::string FormatEstimate(const v1::Estimate& estimate) {
  if (!estimate.has_standard_error()) return FormatFixed(estimate.value(), 4);
  const int digits = Digits(estimate.standard_error());
  return absl::StrCat(FormatFixed(estimate.value(), digits), " +- ",
                      FormatFixed(estimate.standard_error(), digits));
}

std::string FormatEvaluationLine(const v1::PackageEvaluation& e) {
  return absl::StrCat("perplexity ", FormatEstimate(e.perplexity()), " (full precision ",
                      FormatEstimate(e.perplexity_full()), "), KL ", FormatEstimate(e.kl()),
                      " nats, same top token ", FormatEstimate(e.top1_agreement()), ", ",
                      e.windows(), " windows of ", e.window_length(), " tokens");
}

std::string FormatEvaluation(const v1::PackageEvaluation& e) {
  if (e.tasks_size() > 0) return FormatTasks(e);
  Table table({"", ">", ">+- standard error"});
  const auto add = [&table](const char* name, const v1::Estimate& estimate) {
    const auto [value, error] = EstimateParts(estimate);
    table.Add({name, value, error});
  };
  add("perplexity, full precision", e.perplexity_full());
  add("perplexity", e.perplexity());
  add("KL to full precision (nats): mean", e.kl());
  add("  99 % of tokens are below", e.kl_p99());
  add("  maximum", e.kl_max());
  add("same most likely token", e.top1_agreement());
  return absl::StrCat(table.ToString(), "measured on ", FormatCount(e.tokens()),
                      " tokens: ", e.windows(), e.windows() == 1 ? " window of " : " windows of ",
                      e.window_length(), " tokens of text ", e.text_digest(),
                      e.skip() > 0 ? absl::StrCat(" after the first ", e.skip()) : "",
                      ";\nthe server's logits differ from the reference's by at most ",
                      FormatShort(e.server_max_logit_error()), " of their range\n");
}

std::vector<v1::PackageEvaluation> ParseEvaluations(
    const google::protobuf::RepeatedPtrField<std::string>& documents) {
  std::vector<v1::PackageEvaluation> evaluations;
  for (const std::string& document : documents) {
    const auto json = nlohmann::json::parse(document, nullptr, false);
    std::vector<std::string> faults;
    v1::PackageEvaluation evaluation;
    if (json.is_object()) FromJson(json, "evaluation", &evaluation, &faults);
    const bool known = evaluation.windows() > 0 || evaluation.tasks_size() > 0;
    if (json.is_object() && known) evaluations.push_back(std::move(evaluation));
  }
  return evaluations;
}

}  // namespace shiftadd::cli
