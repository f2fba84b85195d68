#include "services/coordinator/evaluation_figures.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace shiftadd::coordinator {
namespace {

using Windows = std::vector<v1::WindowScore>;

constexpr int kDraws = 1000;
constexpr uint64_t kDrawSeed = 1;
constexpr uint64_t kBeyond = 100;  // p99: one token in so many may lie above

// The sample's standard deviation over the root of its size: of a mean over windows.
void SetDeviation(const std::vector<double>& by_window, double factor, v1::Estimate* out) {
  const auto n = static_cast<double>(by_window.size());
  if (n < 2) return;
  double mean = 0, squares = 0;
  for (const double x : by_window) mean += x;
  mean /= n;
  for (const double x : by_window) squares += (x - mean) * (x - mean);
  out->set_standard_error(factor * std::sqrt(squares / (n - 1) / n));
}

std::vector<double> ByWindow(const Windows& windows, const WindowSum& sum) {
  std::vector<double> means;
  means.reserve(windows.size());
  for (const v1::WindowScore& w : windows) means.push_back(sum(w) / w.tokens());
  return means;
}

// Every token's divergence with its window, the greatest first.
using Ranked = std::vector<std::pair<float, uint32_t>>;

// p99 and maximum where window w counts times[w] times.
std::pair<double, double> Tail(const Ranked& ranked, const Windows& windows,
                               const std::vector<uint32_t>& times) {
  uint64_t tokens = 0;
  for (size_t w = 0; w < windows.size(); ++w) tokens += uint64_t{times[w]} * windows[w].tokens();
  const uint64_t above = tokens / kBeyond;  // so many may lie above the p99
  uint64_t seen = 0;
  double most = 0;
  for (const auto& [kl, window] : ranked) {
    if (times[window] == 0) continue;
    if (seen == 0) most = kl;
    seen += times[window];
    if (seen > above) return {kl, most};
  }
  return {0, most};
}

double Deviation(const std::vector<double>& values) {
  v1::Estimate e;
  SetDeviation(values, std::sqrt(static_cast<double>(values.size())), &e);
  return e.standard_error();
}

// Tails have no simple error: windows are drawn again, with replacement, and the tail's deviation
// over the draws is it.
void FillTail(const Windows& windows, v1::PackageEvaluation* out) {
  Ranked ranked;
  for (uint32_t w = 0; w < windows.size(); ++w) {
    for (const float kl : windows[w].token_kl()) ranked.emplace_back(kl, w);
  }
  std::sort(ranked.begin(), ranked.end(), std::greater<>());
  const auto [p99, most] = Tail(ranked, windows, std::vector<uint32_t>(windows.size(), 1));
  out->mutable_kl_p99()->set_value(p99);
  out->mutable_kl_max()->set_value(most);
  if (windows.size() < 2) return;
  std::mt19937_64 random(kDrawSeed);
  std::vector<double> p99s, mosts;
  for (int draw = 0; draw < kDraws; ++draw) {
    std::vector<uint32_t> times(windows.size(), 0);
    for (size_t i = 0; i < windows.size(); ++i) ++times[(random() >> 32) * windows.size() >> 32];
    const auto [drawn_p99, drawn_most] = Tail(ranked, windows, times);
    p99s.push_back(drawn_p99);
    mosts.push_back(drawn_most);
  }
  out->mutable_kl_p99()->set_standard_error(Deviation(p99s));
  out->mutable_kl_max()->set_standard_error(Deviation(mosts));
}

absl::Status Check(const Windows& windows) {
  if (windows.empty()) return absl::InternalError("evaluation: no window was scored");
  for (size_t i = 0; i < windows.size(); ++i) {
    const v1::WindowScore& w = windows[i];
    if (w.tokens() == 0 || w.nll_size() != 1 || w.kl_size() != 1 ||
        static_cast<uint32_t>(w.token_kl_size()) != w.tokens()) {
      return absl::InternalError(
          absl::StrCat("evaluation: window ", i, " has ", w.tokens(), " tokens, scores of ",
                       w.kl_size(), " variants and ", w.token_kl_size(),
                       " single tokens, expected one variant and all tokens"));
    }
    const bool finite = std::isfinite(w.nll_full()) && std::isfinite(w.nll(0)) &&
                        std::isfinite(w.kl(0)) &&
                        std::all_of(w.token_kl().begin(), w.token_kl().end(),
                                    [](float x) { return std::isfinite(x); });
    if (!finite) {
      return absl::InternalError(absl::StrCat("evaluation: window ", i, ": cross entropy ",
                                              w.nll(0), ", divergence ", w.kl(0),
                                              ": expected finite numbers"));
    }
  }
  return absl::OkStatus();
}

nlohmann::json EstimateJson(const v1::Estimate& estimate) {
  nlohmann::json json = {{"value", estimate.value()}};
  if (estimate.has_standard_error()) json["standard_error"] = estimate.standard_error();
  return json;
}

}  // namespace

v1::Estimate MeanOver(const Windows& windows, const WindowSum& sum) {
  double total = 0, tokens = 0;
  for (const v1::WindowScore& w : windows) {
    total += sum(w);
    tokens += w.tokens();
  }
  v1::Estimate mean;
  mean.set_value(total / tokens);
  SetDeviation(ByWindow(windows, sum), 1, &mean);
  return mean;
}

v1::Estimate PerplexityOver(const Windows& windows, const WindowSum& nll) {
  const v1::Estimate mean = MeanOver(windows, nll);
  v1::Estimate perplexity;
  perplexity.set_value(std::exp(mean.value()));
  if (mean.has_standard_error()) {
    perplexity.set_standard_error(perplexity.value() * mean.standard_error());
  }
  return perplexity;
}

absl::StatusOr<v1::PackageEvaluation> EvaluationFigures(const Windows& windows) {
  if (absl::Status status = Check(windows); !status.ok()) return status;
  v1::PackageEvaluation e;
  e.set_windows(static_cast<uint32_t>(windows.size()));
  uint64_t tokens = 0;
  for (const v1::WindowScore& w : windows) tokens += w.tokens();
  e.set_tokens(tokens);
  *e.mutable_perplexity_full() =
      PerplexityOver(windows, [](const v1::WindowScore& w) { return w.nll_full(); });
  *e.mutable_perplexity() =
      PerplexityOver(windows, [](const v1::WindowScore& w) { return w.nll(0); });
  *e.mutable_kl() = MeanOver(windows, [](const v1::WindowScore& w) { return w.kl(0); });
  *e.mutable_top1_agreement() =
      MeanOver(windows, [](const v1::WindowScore& w) { return double{1} * w.top1_agreements(); });
  FillTail(windows, &e);
  if (!std::isfinite(e.perplexity().value()) || !std::isfinite(e.perplexity_full().value())) {
    return absl::InternalError(absl::StrCat("evaluation: perplexity ", e.perplexity().value(),
                                            ", full precision ", e.perplexity_full().value(),
                                            ": expected finite numbers"));
  }
  return e;
}

std::string EvaluationJson(const v1::PackageEvaluation& e) {
  const nlohmann::json json = {{"text_digest", e.text_digest()},
                               {"skip", e.skip()},
                               {"windows", e.windows()},
                               {"window_length", e.window_length()},
                               {"tokens", e.tokens()},
                               {"perplexity_full", EstimateJson(e.perplexity_full())},
                               {"perplexity", EstimateJson(e.perplexity())},
                               {"kl", EstimateJson(e.kl())},
                               {"kl_p99", EstimateJson(e.kl_p99())},
                               {"kl_max", EstimateJson(e.kl_max())},
                               {"top1_agreement", EstimateJson(e.top1_agreement())},
                               {"server_max_logit_error", e.server_max_logit_error()},
                               {"device_class", e.device_class()},
                               {"quantizer_version", e.quantizer_version()}};
  return json.dump();
}

}  // namespace shiftadd::coordinator
