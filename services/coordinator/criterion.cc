#include "services/coordinator/criterion.h"

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"

namespace shiftadd::coordinator {
namespace {

double SizeOf(const v1::LayerReport& report) {
  return static_cast<double>(report.layer().rows() * report.layer().cols());
}

template <typename Value>
void Fill(ReportMap* reports, Value value) {
  for (auto& [name, report] : *reports) {
    for (v1::CandidateReport& c : *report.mutable_candidates()) {
      c.set_importance(c.bits() == 0 ? 0 : value(report, c));
    }
  }
}

bool HasGuided(const v1::LayerReport& report) {
  return std::any_of(report.candidates().begin(), report.candidates().end(),
                     [](const v1::CandidateReport& c) { return c.guided_error() > 0; });
}

void FillGuided(ReportMap* reports) {
  double guided = 0, output = 0;  // over layers that have both
  for (const auto& [name, report] : *reports) {
    if (!HasGuided(report)) continue;
    for (const v1::CandidateReport& c : report.candidates()) {
      guided += c.guided_error();
      output += c.output_error() * SizeOf(report);
    }
  }
  double scale = output > 0 ? guided / output : 0;
  if (guided == 0) scale = 1;  // nothing to be comparable with
  Fill(reports, [&](const v1::LayerReport& report, const v1::CandidateReport& c) {
    return HasGuided(report) ? c.guided_error() : scale * c.output_error() * SizeOf(report);
  });
}

absl::Status FillPaper(ReportMap* reports) {
  struct Sums {
    double products = 0, squares = 0;
  };
  std::map<uint32_t, Sums> fit;  // by width
  for (const auto& [name, report] : *reports) {
    for (const v1::CandidateReport& c : report.candidates()) {
      Sums& sums = fit[c.bits()];
      sums.products += c.paper_criterion() * c.output_error();
      sums.squares += c.paper_criterion() * c.paper_criterion();
    }
  }
  for (const auto& [bits, sums] : fit) {
    if (bits == 0 || sums.squares > 0) continue;
    return absl::FailedPreconditionError(absl::StrCat(
        "criterion paper: it is 0 for every layer at ", bits, " bits; use another criterion"));
  }
  Fill(reports, [&](const v1::LayerReport&, const v1::CandidateReport& c) {
    const Sums& sums = fit.at(c.bits());
    return sums.products / sums.squares * c.paper_criterion();
  });
  return absl::OkStatus();
}

absl::Status FillMeasured(ReportMap* reports) {
  for (const auto& [name, report] : *reports) {
    if (report.candidates_size() < 2) continue;  // nothing to choose, so nothing was measured
    for (const v1::CandidateReport& c : report.candidates()) {
      if (c.has_measured_kl()) continue;
      return absl::FailedPreconditionError(absl::StrCat(
          "criterion measured: layer ", name, " at ", c.bits(),
          " bits was not measured; only jobs submitted with criterion measured measure"));
    }
  }
  Fill(reports,
       [](const v1::LayerReport&, const v1::CandidateReport& c) { return c.measured_kl(); });
  return absl::OkStatus();
}

}  // namespace

absl::Status FillImportance(v1::Criterion criterion, ReportMap* reports) {
  switch (criterion) {
    case v1::CRITERION_GUIDED:
      FillGuided(reports);
      return absl::OkStatus();
    case v1::CRITERION_OUTPUT:
      Fill(reports, [](const v1::LayerReport& report, const v1::CandidateReport& c) {
        return c.output_error() * SizeOf(report);
      });
      return absl::OkStatus();
    case v1::CRITERION_WEIGHT:
      Fill(reports, [](const v1::LayerReport& report, const v1::CandidateReport& c) {
        return c.weight_error() * SizeOf(report);
      });
      return absl::OkStatus();
    case v1::CRITERION_PAPER:
      return FillPaper(reports);
    case v1::CRITERION_MEASURED:
      return FillMeasured(reports);
    default:
      return absl::OkStatus();
  }
}

}  // namespace shiftadd::coordinator
