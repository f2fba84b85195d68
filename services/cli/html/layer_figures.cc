// Pictures of the layers: widths, sensitivity, error by depth.
#include <algorithm>
#include <map>
#include <set>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/cli/html/markup.h"
#include "services/cli/html/plot.h"
#include "services/cli/html/report_page.h"
#include "services/cli/units.h"

namespace shiftadd::cli::html {
namespace {

constexpr uint32_t kAsChosen = ~0u;  // a width of its own, drawn last

// Kinds in the order of the model.
std::vector<std::string> KindsOf(const v1::JobReport& report) {
  std::vector<std::string> kinds;
  for (const v1::LayerReport& layer : report.layers()) {
    if (std::count(kinds.begin(), kinds.end(), layer.layer().kind()) == 0) {
      kinds.push_back(layer.layer().kind());
    }
  }
  return kinds;
}

uint32_t BlocksOf(const v1::JobReport& report) {
  uint32_t blocks = 0;
  for (const v1::LayerReport& layer : report.layers()) {
    blocks = std::max(blocks, layer.layer().block() + 1);
  }
  return blocks;
}

const v1::CandidateReport* ChosenOf(const v1::LayerReport& layer) {
  for (const v1::CandidateReport& candidate : layer.candidates()) {
    if (candidate.bits() == layer.chosen_bits()) return &candidate;
  }
  return nullptr;
}

std::string WidthStyle(uint32_t bits) { return absl::StrCat("w", std::min(bits, 8u)); }

std::string WidthText(double x, double y, uint32_t bits) {
  return absl::StrCat("<text x=\"", x, "\" y=\"", y, "\" text-anchor=\"middle\" class=\"",
                      bits >= 4 ? "off" : "on", "\">", bits, "</text>");
}

std::set<uint32_t> WidthsOf(const v1::JobReport& report) {
  std::set<uint32_t> widths;
  for (const v1::LayerReport& layer : report.layers()) {
    for (const v1::CandidateReport& candidate : layer.candidates()) widths.insert(candidate.bits());
  }
  return widths;
}

std::vector<std::pair<std::string, std::string>> WidthLegend(const std::set<uint32_t>& widths) {
  std::vector<std::pair<std::string, std::string>> entries;
  for (const uint32_t bits : widths)
    entries.push_back({WidthStyle(bits), absl::StrCat(bits, " planes")});
  return entries;
}

std::string CellTitle(const v1::LayerReport& layer) {
  const v1::CandidateReport* chosen = ChosenOf(layer);
  std::string text = absl::StrCat(layer.layer().name(), ": ");
  if (layer.chosen_bits() == 0) return text + "not quantized";
  absl::StrAppend(&text, layer.chosen_bits(), " planes");
  if (chosen != nullptr) {
    absl::StrAppend(&text, ", ", FormatFixed(chosen->stored_bits(), 2),
                    " stored bits, output error ", FormatShort(chosen->output_error()),
                    ", criterion ", FormatShort(chosen->importance()));
  }
  return text;
}

}  // namespace

std::string WidthMap(const v1::JobReport& report) {
  const std::vector<std::string> kinds = KindsOf(report);
  const uint32_t blocks = BlocksOf(report);
  const bool chosen = std::any_of(report.layers().begin(), report.layers().end(),
                                  [](const auto& l) { return l.chosen_bits() > 0; });
  if (!chosen) return "";
  const double left = 52, cell = std::min(40.0, 620.0 / std::max(blocks, 1u)), height = 26;
  std::string inside;
  for (size_t k = 0; k < kinds.size(); ++k) {
    inside += Text(left - 8, height * k + 18, kinds[k], "end");
  }
  for (const v1::LayerReport& layer : report.layers()) {
    const size_t kind = std::find(kinds.begin(), kinds.end(), layer.layer().kind()) - kinds.begin();
    const double x = left + cell * layer.layer().block(), y = height * kind;
    inside +=
        Rect(x + 1, y + 1, cell - 2, height - 2, WidthStyle(layer.chosen_bits()), CellTitle(layer));
    if (cell >= 18) inside += WidthText(x + cell / 2, y + 18, layer.chosen_bits());
  }
  const double bottom = height * kinds.size() + 16;
  const uint32_t step = std::max(1u, blocks / 10);
  for (uint32_t b = 0; b < blocks; b += step) {
    inside += Text(left + cell * (b + 0.5), bottom, absl::StrCat(b), "middle");
  }
  inside += Text(left, bottom + 18, "block");

  std::vector<std::string> headers = {">block"};
  for (const std::string& kind : kinds) headers.push_back(">" + kind);
  std::vector<std::vector<std::string>> rows(blocks, std::vector<std::string>(kinds.size() + 1));
  for (uint32_t b = 0; b < blocks; ++b) rows[b][0] = absl::StrCat(b);
  std::set<uint32_t> widths;
  for (const v1::LayerReport& layer : report.layers()) {
    const size_t kind = std::find(kinds.begin(), kinds.end(), layer.layer().kind()) - kinds.begin();
    rows[layer.layer().block()][kind + 1] =
        layer.chosen_bits() == 0 ? "-" : absl::StrCat(layer.chosen_bits());
    if (layer.chosen_bits() > 0) widths.insert(layer.chosen_bits());
  }
  return Figure("widths", "Planes by layer", "What the solver gave each layer.",
                Legend(WidthLegend(widths)) +
                    Svg(680, static_cast<int>(bottom) + 26, "Planes by block and kind", inside),
                Table(headers, rows));
}

std::string SensitivityBars(const v1::JobReport& report) {
  const std::vector<std::string> kinds = KindsOf(report);
  const std::set<uint32_t> widths = WidthsOf(report);
  std::map<std::pair<std::string, uint32_t>, double> sums;
  double largest = 0;
  for (const v1::LayerReport& layer : report.layers()) {
    for (const v1::CandidateReport& c : layer.candidates()) {
      double& sum = sums[{layer.layer().kind(), c.bits()}];
      sum += c.importance();
      largest = std::max(largest, sum);
    }
  }
  if (largest <= 0) return "";
  double smallest = largest;
  for (const auto& [key, sum] : sums) {
    if (sum > 0) smallest = std::min(smallest, sum);
  }
  const Plot plot(0, static_cast<double>(kinds.size()), smallest / 2, largest * 1.3, true);
  std::string inside =
      plot.Axes("", "criterion, sum over blocks (logarithmic)", Plot::Numbers::kNone);
  std::vector<std::vector<std::string>> rows;
  for (size_t k = 0; k < kinds.size(); ++k) {
    std::vector<std::string> row = {kinds[k]};
    const double slot = plot.X(1) - plot.X(0), bar = slot * 0.8 / widths.size();
    double x = plot.X(static_cast<double>(k)) + slot * 0.1;
    for (const uint32_t bits : widths) {
      const auto sum = sums.find({kinds[k], bits});
      const double value = sum == sums.end() ? 0 : sum->second;
      if (value > 0) {
        inside += Rect(x, plot.Y(value), bar - 2, plot.bottom() - plot.Y(value), WidthStyle(bits),
                       absl::StrCat(kinds[k], " at ", bits, " planes: ", FormatShort(value)));
      }
      row.push_back(FormatShort(value));
      x += bar;
    }
    inside += Text(plot.X(k + 0.5), plot.bottom() + 16, kinds[k], "middle");
    rows.push_back(std::move(row));
  }
  std::vector<std::string> headers = {"kind"};
  for (const uint32_t bits : widths) headers.push_back(absl::StrCat(">at ", bits));
  return Figure("sensitivity", "Sensitivity by kind",
                "What the solver minimises the sum of, for all layers of a kind at each width.",
                Legend(WidthLegend(widths)) +
                    Svg(Plot::kWidth, Plot::kHeight, "Sensitivity by kind and width", inside),
                Table(headers, rows));
}

std::string ErrorByDepth(const v1::JobReport& report) {
  const std::set<uint32_t> widths = WidthsOf(report);
  const uint32_t blocks = BlocksOf(report);
  std::map<uint32_t, std::vector<double>> sums, counts;  // by width, by block
  for (const v1::LayerReport& layer : report.layers()) {
    const auto add = [&](uint32_t width, double error) {
      sums[width].resize(blocks);
      counts[width].resize(blocks);
      sums[width][layer.layer().block()] += error;
      ++counts[width][layer.layer().block()];
    };
    for (const v1::CandidateReport& c : layer.candidates()) add(c.bits(), c.output_error());
    if (const auto* chosen = ChosenOf(layer)) add(kAsChosen, chosen->output_error());
  }
  double smallest = 1e300, largest = 0;
  for (auto& [width, errors] : sums) {
    for (uint32_t b = 0; b < blocks; ++b) {
      if (counts[width][b] > 0) errors[b] /= counts[width][b];
      if (errors[b] > 0) smallest = std::min(smallest, errors[b]);
      largest = std::max(largest, errors[b]);
    }
  }
  if (largest <= 0) return "";
  const Plot plot(0, std::max(1.0, blocks - 1.0), smallest / 1.2, largest * 1.2, true);
  std::string inside = plot.Axes(
      "block", "relative output error, mean over the block (logarithmic)", Plot::Numbers::kWhole);
  std::vector<std::pair<std::string, std::string>> legend;
  std::vector<std::string> headers = {">block"};
  std::vector<std::vector<std::string>> rows(blocks);
  for (uint32_t b = 0; b < blocks; ++b) rows[b].push_back(absl::StrCat(b));
  int colour = 0;
  for (const auto& [width, errors] : sums) {
    const std::string name = width == kAsChosen ? "as chosen" : absl::StrCat(width, " planes");
    std::vector<double> points;
    std::string dots;
    for (uint32_t b = 0; b < blocks; ++b) {
      rows[b].push_back(FormatShort(errors[b]));
      if (errors[b] <= 0) continue;
      points.insert(points.end(), {plot.X(b), plot.Y(errors[b])});
      dots += Dot(plot.X(b), plot.Y(errors[b]), absl::StrCat("c", colour % 8),
                  absl::StrCat("block ", b, ", ", name, ": ", FormatShort(errors[b])));
    }
    inside += Path(points, absl::StrCat("l", colour % 8, width == kAsChosen ? " dash" : "")) + dots;
    legend.push_back({absl::StrCat("c", colour % 8), name});
    headers.push_back(">" + name);
    ++colour;
  }
  return Figure(
      "depth", "Error by depth",
      "How far the layers' outputs are from full precision, where only they are quantized.",
      Legend(legend) + Svg(Plot::kWidth, Plot::kHeight, "Error by block", inside),
      Table(headers, rows));
}

}  // namespace shiftadd::cli::html
