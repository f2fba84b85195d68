#include "services/cli/sensitivity_format.h"

#include <algorithm>
#include <map>
#include <set>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "services/cli/table.h"
#include "services/cli/units.h"

namespace shiftadd::cli {
namespace {

struct Figure {
  const char* name;
  double (*value)(const v1::CandidateReport&);
};

constexpr Figure kFigures[] = {
    {"weight", [](const v1::CandidateReport& c) { return c.weight_error(); }},
    {"output", [](const v1::CandidateReport& c) { return c.output_error(); }},
    {"guided", [](const v1::CandidateReport& c) { return c.guided_error(); }},
    {"paper", [](const v1::CandidateReport& c) { return c.paper_criterion(); }},
    {"measured", [](const v1::CandidateReport& c) { return c.measured_kl(); }},
};

const v1::CandidateReport* Narrowest(const v1::LayerReport& layer) {
  const auto least =
      std::min_element(layer.candidates().begin(), layer.candidates().end(),
                       [](const v1::CandidateReport& a, const v1::CandidateReport& b) {
                         return a.bits() < b.bits();
                       });
  return least == layer.candidates().end() ? nullptr : &*least;
}

// Null before ALLOCATING, and for a layer that was skipped.
const v1::CandidateReport* Chosen(const v1::LayerReport& layer) {
  for (const v1::CandidateReport& candidate : layer.candidates()) {
    if (candidate.bits() == layer.chosen_bits()) return &candidate;
  }
  return nullptr;
}

std::string Percent(double part, double whole) {
  return whole > 0 ? absl::StrFormat("%.1f %%", part / whole * 100) : "-";
}

std::vector<Figure> FiguresOf(const v1::JobReport& report) {
  std::vector<Figure> figures;
  for (const Figure& figure : kFigures) {
    bool any = false;
    for (const v1::LayerReport& layer : report.layers()) {
      for (const v1::CandidateReport& candidate : layer.candidates()) {
        any = any || figure.value(candidate) != 0;
      }
    }
    if (any) figures.push_back(figure);
  }
  return figures;
}

double ChosenTotal(const v1::JobReport& report) {
  double total = 0;
  for (const v1::LayerReport& layer : report.layers()) {
    if (const auto* chosen = Chosen(layer)) total += chosen->importance();
  }
  return total;
}

struct KindSums {
  int layers = 0;
  std::map<uint32_t, double> by_width;
  double chosen = 0;
};

}  // namespace

std::string FormatSensitivityByKind(const v1::JobReport& report) {
  std::vector<std::string> order;
  std::map<std::string, KindSums> kinds;
  std::set<uint32_t> widths;
  for (const v1::LayerReport& layer : report.layers()) {
    if (layer.candidates().empty()) continue;
    const std::string& kind = layer.layer().kind();
    if (kinds.count(kind) == 0) order.push_back(kind);
    KindSums& sums = kinds[kind];
    ++sums.layers;
    for (const v1::CandidateReport& candidate : layer.candidates()) {
      sums.by_width[candidate.bits()] += candidate.importance();
      widths.insert(candidate.bits());
    }
    if (const auto* chosen = Chosen(layer)) sums.chosen += chosen->importance();
  }
  if (order.empty()) return "";
  std::vector<std::string> headers = {"kind", ">layers"};
  for (const uint32_t bits : widths) headers.push_back(absl::StrCat(">at ", bits));
  headers.insert(headers.end(), {">as chosen", ">share"});
  Table table(headers);
  const double total = ChosenTotal(report);
  for (const std::string& kind : order) {
    const KindSums& sums = kinds[kind];
    std::vector<std::string> row = {kind, absl::StrCat(sums.layers)};
    for (const uint32_t bits : widths) {
      const auto sum = sums.by_width.find(bits);
      row.push_back(sum == sums.by_width.end() ? "-" : FormatShort(sum->second));
    }
    row.push_back(total > 0 ? FormatShort(sums.chosen) : "-");
    row.push_back(Percent(sums.chosen, total));
    table.Add(std::move(row));
  }
  return table.ToString();
}

std::string FormatMostSensitive(const v1::JobReport& report, int count) {
  std::vector<const v1::LayerReport*> layers;
  for (const v1::LayerReport& layer : report.layers()) {
    if (Narrowest(layer) != nullptr) layers.push_back(&layer);
  }
  if (layers.empty()) return "";
  std::stable_sort(layers.begin(), layers.end(), [](const auto* a, const auto* b) {
    return Narrowest(*a)->importance() > Narrowest(*b)->importance();
  });
  layers.resize(std::min(layers.size(), static_cast<size_t>(count)));
  const std::vector<Figure> figures = FiguresOf(report);
  std::vector<std::string> headers = {"layer", ">bits", ">criterion", ">share"};
  for (const Figure& figure : figures) headers.push_back(absl::StrCat(">", figure.name));
  Table table(headers);
  const double total = ChosenTotal(report);
  for (const v1::LayerReport* layer : layers) {
    const v1::CandidateReport* chosen = Chosen(*layer);
    const v1::CandidateReport& shown = chosen == nullptr ? *Narrowest(*layer) : *chosen;
    std::vector<std::string> row = {layer->layer().name(), absl::StrCat(shown.bits()),
                                    FormatShort(shown.importance()),
                                    chosen == nullptr ? "-" : Percent(shown.importance(), total)};
    for (const Figure& figure : figures) row.push_back(FormatShort(figure.value(shown)));
    table.Add(std::move(row));
  }
  return table.ToString();
}

}  // namespace shiftadd::cli
