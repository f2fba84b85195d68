#include "services/cli/report_format.h"

#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "services/cli/progress_view.h"
#include "services/cli/quality_format.h"
#include "services/cli/table.h"
#include "services/cli/units.h"

namespace shiftadd::cli {
namespace {

const v1::CandidateReport* FindCandidate(const v1::LayerReport& layer, uint32_t bits) {
  for (const v1::CandidateReport& candidate : layer.candidates()) {
    if (candidate.bits() == bits) return &candidate;
  }
  return nullptr;
}

double Weights(const v1::LayerReport& layer) {
  return static_cast<double>(layer.layer().rows()) * static_cast<double>(layer.layer().cols());
}

// What the layers of one width, or all of them, add up to.
struct Total {
  size_t layers = 0;
  double weights = 0;
  double planes = 0;  // sum over weights
  uint64_t bytes = 0;
  void Add(const v1::LayerReport& layer, const v1::CandidateReport& chosen) {
    ++layers;
    weights += Weights(layer);
    planes += Weights(layer) * chosen.bits();
    bytes += chosen.stored_bytes();
    stored += Weights(layer) * chosen.stored_bits();
  }
  double stored = 0;  // bits, sum over weights
};

std::vector<std::string> Row(const std::string& name, const Total& total, const Total& all) {
  return {name,
          absl::StrCat(total.layers),
          FormatCount(static_cast<uint64_t>(total.weights)),
          absl::StrFormat("%.1f %%", total.weights / all.weights * 100),
          FormatFixed(total.planes / total.weights, 3),
          FormatFixed(total.stored / total.weights, 3),
          FormatBytes(total.bytes)};
}

double StateSeconds(const v1::JobReport& report, const std::string& name) {
  // By the enum's full name or its short one, in any case.
  for (const auto& [key, seconds] : report.state_seconds()) {
    if (absl::AsciiStrToUpper(key) == name || key == "JOB_STATE_" + name) return seconds;
  }
  return 0;
}

}  // namespace

std::string FormatLayerTable(const v1::JobReport& report) {
  std::set<uint32_t> widths;
  for (const v1::LayerReport& layer : report.layers()) {
    for (const v1::CandidateReport& candidate : layer.candidates()) widths.insert(candidate.bits());
  }
  std::vector<std::string> headers = {">block", "kind", ">shape", ">bits"};
  for (const uint32_t bits : widths) headers.push_back(absl::StrCat(">error@", bits));
  headers.push_back(">stored bits");
  headers.push_back("worker");
  Table table(headers);
  for (const v1::LayerReport& layer : report.layers()) {
    const v1::CandidateReport* chosen = FindCandidate(layer, layer.chosen_bits());
    std::vector<std::string> row = {absl::StrCat(layer.layer().block()), layer.layer().kind(),
                                    absl::StrCat(layer.layer().rows(), "x", layer.layer().cols()),
                                    chosen == nullptr ? "-" : absl::StrCat(chosen->bits())};
    for (const uint32_t bits : widths) {
      const v1::CandidateReport* candidate = FindCandidate(layer, bits);
      row.push_back(candidate == nullptr ? "-" : FormatShort(candidate->output_error()));
    }
    row.push_back(chosen == nullptr ? "-" : FormatFixed(chosen->stored_bits(), 3));
    row.push_back(layer.worker());
    table.Add(std::move(row));
  }
  return table.ToString();
}

std::string FormatAllocation(const v1::JobReport& report) {
  std::map<uint32_t, Total> by_width;
  Total all;
  for (const v1::LayerReport& layer : report.layers()) {
    const v1::CandidateReport* chosen = FindCandidate(layer, layer.chosen_bits());
    if (chosen == nullptr) continue;
    by_width[chosen->bits()].Add(layer, *chosen);
    all.Add(layer, *chosen);
  }
  if (all.layers == 0) return "";
  Table table({"bits", ">layers", ">weights", ">share", ">planes", ">stored bits", ">size"});
  for (const auto& [bits, total] : by_width) table.Add(Row(absl::StrCat(bits), total, all));
  table.Add(Row("all", all, all));
  std::string text = table.ToString();
  if (const uint64_t bytes = report.job().quality().package_bytes(); bytes > 0) {
    absl::StrAppend(
        &text, "the whole package, with head, embedding and tokenizer: ", FormatBytes(bytes), "\n");
  }
  return text;
}

std::string FormatTimes(const v1::JobReport& report) {
  Table table({"", ""});
  for (int number = v1::JobState_MIN; number <= v1::JobState_MAX; ++number) {
    const std::string name = StateName(static_cast<v1::JobState>(number));
    if (const double seconds = StateSeconds(report, name); seconds > 0)
      table.Add({name, FormatSeconds(seconds)});
  }
  const std::map<std::string, double> workers(report.worker_seconds().begin(),
                                              report.worker_seconds().end());
  for (const auto& [worker, seconds] : workers) {
    table.Add({absl::StrCat("tasks on ", worker), FormatSeconds(seconds)});
  }
  const std::string text = table.ToString();
  return text.substr(text.find('\n') + 1);  // no headers
}

std::string FormatReport(const v1::JobReport& report) {
  const v1::Job& job = report.job();
  std::string text = absl::StrCat("Job ", job.job_id(), " ", StateName(job.state()), ": ",
                                  job.spec().source(), " -> ", job.spec().output(), "\n");
  if (!job.package_digest().empty()) absl::StrAppend(&text, "Package ", job.package_digest(), "\n");
  if (!job.error().empty()) absl::StrAppend(&text, "Error: ", job.error(), "\n");
  const auto section = [&text](const char* title, const std::string& body) {
    if (!body.empty()) absl::StrAppend(&text, "\n", title, "\n", body);
  };
  if (report.layers_size() > 0) {
    section("Layers (error: relative output error at each width)", FormatLayerTable(report));
  }
  section("Allocation", FormatAllocation(report));
  if (job.has_quality()) section("Quality", FormatQuality(job.quality()));
  section("Time", FormatTimes(report));
  return text;
}

}  // namespace shiftadd::cli
