#include "services/cli/report_format.h"

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "services/cli/allocation_flags.h"
#include "services/cli/bit_grid.h"
#include "services/cli/evaluation_format.h"
#include "services/cli/progress_view.h"
#include "services/cli/proto_json.h"
#include "services/cli/quality_format.h"
#include "services/cli/sensitivity_format.h"
#include "services/cli/table.h"
#include "services/cli/units.h"
#include "services/job/candidate.h"
#include "services/job/criterion_name.h"

namespace shiftadd::cli {
namespace {

constexpr size_t kColumns = 96;
constexpr int kMostSensitive = 10;

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

// Pieces with commas between, in lines of at most kColumns.
std::string Wrap(const std::vector<std::string>& pieces) {
  std::string text, line;
  for (size_t i = 0; i < pieces.size(); ++i) {
    const std::string piece = absl::StrCat(pieces[i], i + 1 < pieces.size() ? "," : "");
    if (!line.empty() && line.size() + 1 + piece.size() > kColumns) {
      absl::StrAppend(&text, line, "\n");
      line.clear();
    }
    absl::StrAppend(&line, line.empty() ? "" : " ", piece);
  }
  return text + line + "\n";
}

std::string Plain(const nlohmann::ordered_json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_array()) return value.dump();
  std::vector<std::string> items;
  for (const auto& item : value) items.push_back(Plain(item));
  return absl::StrJoin(items, " ");
}

// "rotation wht128" for every field that is set; overrides are shown apart.
std::vector<std::string> RecipeFields(const v1::Recipe& recipe) {
  const nlohmann::ordered_json json = ToJson(recipe);
  std::vector<const google::protobuf::FieldDescriptor*> fields;
  recipe.GetReflection()->ListFields(recipe, &fields);
  std::vector<std::string> pieces;
  for (const auto* field : fields) {
    if (field->number() == v1::Recipe::kOverridesFieldNumber) continue;
    pieces.push_back(absl::StrCat(field->name(), " ", Plain(json[field->name()])));
  }
  return pieces;
}

// "sha256:0123456789ab…".
std::string ShortDigest(const std::string& digest) {
  return digest.size() <= 22 ? digest : digest.substr(0, 19) + "...";
}

std::string Windows(uint32_t sequences, uint32_t length, const std::string& text_digest,
                    const char* without_text) {
  return absl::StrCat(
      sequences, " x ", length, " tokens, ",
      text_digest.empty() ? without_text : absl::StrCat("of text ", ShortDigest(text_digest)));
}

// Times of one group, the name of which is only in its first row.
class TimeRows {
 public:
  explicit TimeRows(Table* table) : table_(table) {}
  void Add(const std::string& group, std::vector<std::pair<std::string, double>> times) {
    double all = 0;
    for (const auto& [name, seconds] : times) all += seconds;
    for (size_t i = 0; i < times.size(); ++i) {
      table_->Add({i == 0 ? group : "", times[i].first, FormatSeconds(times[i].second),
                   absl::StrFormat("%.1f %%", all > 0 ? times[i].second / all * 100 : 0)});
    }
  }
  // The longest first, then by name.
  void Add(const std::string& group, const google::protobuf::Map<std::string, double>& times) {
    std::vector<std::pair<std::string, double>> sorted(times.begin(), times.end());
    std::sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) {
      return a.second != b.second ? a.second > b.second : a.first < b.first;
    });
    Add(group, std::move(sorted));
  }

 private:
  Table* table_;
};

std::string WithoutHeaders(const Table& table) {
  const std::string text = table.ToString();
  return text.substr(text.find('\n') + 1);
}

// What REFINING made of the layers; empty if it was not part of the job.
std::string FormatRefined(const v1::JobReport& report) {
  double before = 0, after = 0;
  int layers = 0;
  for (const v1::LayerReport& layer : report.layers()) {
    const v1::CandidateReport* chosen = FindCandidate(layer, layer.chosen_bits());
    if (!layer.has_refined() || chosen == nullptr) continue;
    ++layers;
    before += chosen->output_error();
    after += layer.refined().output_error();
  }
  if (layers == 0) return "";
  return absl::StrCat(layers, " layers were made again with the quantized model's inputs; mean ",
                      "relative output error ", FormatShort(before / layers), " (full model's ",
                      "inputs) -> ", FormatShort(after / layers), "\n");
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
  BitGrid grid;
  for (const v1::LayerReport& layer : report.layers()) {
    grid.Add(layer.layer(), layer.chosen_bits());
  }
  absl::StrAppend(&text, "\n", grid.ToString());
  if (const uint64_t bytes = report.job().quality().package_bytes(); bytes > 0) {
    absl::StrAppend(
        &text, "the whole package, with head, embedding and tokenizer: ", FormatBytes(bytes), "\n");
  }
  return text;
}

std::string FormatSpec(const v1::JobSpec& spec) {
  Table table({"", ""});
  for (const v1::RecipeOverride& o : spec.recipe().overrides()) {
    table.Add({"override",
               absl::StrCat(o.glob(), ": ",
                            o.skip() ? "as in the source" : absl::StrCat(o.bits(), " bits"))});
  }
  table.Add({"budget", absl::StrCat(FormatBudget(spec.budget()), ", ",
                                    spec.uniform() ? "one width for all layers" : "mixed widths",
                                    ", criterion ", CriterionName(spec.criterion()))});
  const v1::Calibration& c = spec.calibration();
  table.Add(
      {"calibration", Windows(c.sequences(), c.length(), c.text_digest(), "written by the model")});
  const v1::Evaluation& e = spec.evaluation();
  table.Add({"evaluation",
             absl::StrCat(Windows(e.sequences(), e.length(), e.text_digest(), "held out"),
                          e.skip() > 0 ? absl::StrCat(" after the first ", e.skip()) : "")});
  if (!spec.parent_job_id().empty()) table.Add({"candidates of", spec.parent_job_id()});
  const std::vector<std::string> fields = RecipeFields(spec.recipe());
  return (fields.empty() ? "" : Wrap(fields)) + WithoutHeaders(table);
}

std::string FormatNotes(const v1::JobReport& report) {
  std::map<std::string, std::vector<std::string>> layers;
  for (const v1::LayerReport& layer : report.layers()) {
    if (!layer.note().empty()) layers[layer.note()].push_back(layer.layer().name());
  }
  constexpr size_t kNamed = 4;
  std::string text;
  for (auto& [note, names] : layers) {
    const size_t more = names.size() > kNamed ? names.size() - kNamed : 0;
    names.resize(names.size() - more);
    absl::StrAppend(&text, note, ": ", absl::StrJoin(names, ", "),
                    more > 0 ? absl::StrCat(" and ", more, " more") : "", "\n");
  }
  return text;
}

std::string FormatTimes(const v1::JobReport& report) {
  std::vector<std::pair<std::string, double>> phases;
  for (int number = v1::JobState_MIN; number <= v1::JobState_MAX; ++number) {
    const std::string name = StateName(static_cast<v1::JobState>(number));
    if (const double seconds = StateSeconds(report, name); seconds > 0) {
      phases.emplace_back(name, seconds);
    }
  }
  Table table({"", "", ">", ">"});
  TimeRows rows(&table);
  rows.Add("phase", std::move(phases));
  rows.Add("task", report.kind_seconds());
  rows.Add("stage", report.stage_seconds());
  rows.Add("worker", report.worker_seconds());
  return WithoutHeaders(table);
}

std::string FormatReport(const v1::JobReport& report, bool with_layers,
                         const std::vector<v1::PackageEvaluation>& evaluations) {
  const v1::Job& job = report.job();
  const bool measures = !job.spec().evaluated_package().empty();
  std::string text = absl::StrCat(
      "Job ", job.job_id(), " ", StateName(job.state()), ": ",
      measures ? absl::StrCat(job.spec().evaluated_package(), " against ", job.spec().source())
               : absl::StrCat(job.spec().source(), " -> ", job.spec().output()),
      "\n");
  if (!job.package_digest().empty()) absl::StrAppend(&text, "Package ", job.package_digest(), "\n");
  if (!job.error().empty()) absl::StrAppend(&text, "Error: ", job.error(), "\n");
  const auto section = [&text](const std::string& title, const std::string& body) {
    if (!body.empty()) absl::StrAppend(&text, "\n", title, "\n", body);
  };
  for (const v1::PackageEvaluation& evaluation : evaluations) {
    section("Evaluation of the package", FormatEvaluation(evaluation));
  }
  if (measures) {
    section("Time (phase: on the wall; task, stage, worker: sum over workers)",
            FormatTimes(report));
    return text;
  }
  const std::string criterion = CriterionName(job.spec().criterion());
  section("Recipe", FormatSpec(job.spec()));
  section("Notes", FormatNotes(report));
  if (with_layers && report.layers_size() > 0) {
    section("Layers (error: relative output error at each width)", FormatLayerTable(report));
  }
  section("Allocation", FormatAllocation(report));
  section(absl::StrCat("Sensitivity by kind (sum of criterion ", criterion, " at each width)"),
          FormatSensitivityByKind(report));
  section("Most sensitive layers (figures at the width that was chosen)",
          FormatMostSensitive(report, kMostSensitive));
  section("Refined", FormatRefined(report));
  if (job.has_quality()) {
    const bool simulated = job.spec().recipe().method() == v1::METHOD_ACC;
    section("Quality", absl::StrCat(FormatQuality(job.quality()), simulated ? kSimulated : "",
                                    simulated ? "\n" : ""));
  }
  section("Time (phase: on the wall; task, stage, worker: sum over workers)", FormatTimes(report));
  return text;
}

}  // namespace shiftadd::cli
