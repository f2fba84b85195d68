#include "services/cli/bench_report.h"

#include <algorithm>
#include <optional>
#include <set>

#include "absl/strings/str_cat.h"
#include "services/cli/table.h"
#include "services/cli/units.h"

namespace shiftadd::cli {
namespace {

using nlohmann::json;
using Json = nlohmann::ordered_json;

std::optional<double> Number(const json& figures, const char* key) {
  if (!figures.is_object()) return std::nullopt;
  const auto it = figures.find(key);
  if (it == figures.end() || !it->is_number()) return std::nullopt;
  return it->get<double>();
}

uint64_t Bytes(const json& figures, const char* key) {
  return static_cast<uint64_t>(Number(figures, key).value_or(0));
}

std::string Text(const json& figures, const char* key) {
  const auto it = figures.find(key);
  return it != figures.end() && it->is_string() ? it->get<std::string>() : "";
}

json Config(const v1::Package& package) {
  return json::parse(package.config_json(), nullptr, /*allow_exceptions=*/false);
}

constexpr int64_t kUsualContext = 512;
// Behind the context shiftadd-server decodes so many at most (worker/serve/server_bench.cc).
constexpr int64_t kDecoded = 16;

// a / b.
std::optional<double> Ratio(std::optional<double> a, std::optional<double> b) {
  if (!a.has_value() || !b.has_value() || *b <= 0) return std::nullopt;
  return *a / *b;
}

std::string Times(std::optional<double> ratio) {
  return ratio.has_value() ? absl::StrCat(FormatShort(*ratio), " x") : "-";
}

Json OrNull(std::optional<double> value) {
  return value.has_value() ? Json(*value) : Json(nullptr);
}

// How many times as fast, and how many times as little.
std::optional<double> TokenRatio(const BenchReport& r) {
  return Ratio(Number(r.source, "milliseconds_per_token"),
               Number(r.package, "milliseconds_per_token"));
}
std::optional<double> PromptRatio(const BenchReport& r) {
  return Ratio(Number(r.package, "prompt_tokens_per_second"),
               Number(r.source, "prompt_tokens_per_second"));
}
std::optional<double> SmallerRatio(const BenchReport& r, const char* key) {
  return Ratio(Number(r.source, key), Number(r.package, key));
}

std::string Fixed(const json& figures, const char* key, int digits) {
  const std::optional<double> value = Number(figures, key);
  return value.has_value() ? FormatFixed(*value, digits) : "-";
}

std::string ByteText(const json& figures, const char* key) {
  return Number(figures, key).has_value() ? FormatBytes(Bytes(figures, key)) : "-";
}

std::string Percent(double percent) { return absl::StrCat(FormatFixed(percent, 1), " %"); }

std::string SpeedTable(const BenchReport& r) {
  Table table({"", ">PACKAGE", ">FULL PRECISION", ">RATIO"});
  const std::optional<double> ms = Number(r.package, "milliseconds_per_token");
  const std::optional<double> source_ms = Number(r.source, "milliseconds_per_token");
  table.Add({"ms a token", Fixed(r.package, "milliseconds_per_token", 3),
             Fixed(r.source, "milliseconds_per_token", 3), Times(TokenRatio(r))});
  const auto rate = [](std::optional<double> x) {
    return x.has_value() ? FormatFixed(1000 / *x, 1) : "-";
  };
  table.Add({"tokens/s", rate(ms), rate(source_ms), ""});
  table.Add({"prompt tokens/s", Fixed(r.package, "prompt_tokens_per_second", 0),
             Fixed(r.source, "prompt_tokens_per_second", 0), Times(PromptRatio(r))});
  table.Add({"joules a token", Fixed(r.package, "joules_per_token", 4),
             Fixed(r.source, "joules_per_token", 4), Times(SmallerRatio(r, "joules_per_token"))});
  table.Add({"weights in memory", ByteText(r.package, "weight_bytes"),
             ByteText(r.source, "weight_bytes"), Times(SmallerRatio(r, "weight_bytes"))});
  table.Add({"resident memory", ByteText(r.package, "resident_bytes"),
             ByteText(r.source, "resident_bytes"), ""});
  table.Add({"device memory", ByteText(r.package, "device_bytes"),
             ByteText(r.source, "device_bytes"), ""});
  return table.ToString();
}

std::string SizeTable(const BenchReport& r) {
  const uint64_t fp16 = Bytes(r.package, "fp16_bytes");
  const uint64_t fp16_layers = Bytes(r.package, "fp16_layer_bytes");
  const uint64_t weights = Bytes(r.package, "weight_bytes");
  Table table({"", ">BYTES", ">IN FP16", ">SMALLER BY"});
  table.Add({"whole package", FormatBytes(r.package_bytes), FormatBytes(fp16),
             Percent(Reduction(r.package_bytes, fp16))});
  table.Add({"its linear layers", FormatBytes(r.layer_bytes), FormatBytes(fp16_layers),
             Percent(Reduction(r.layer_bytes, fp16_layers))});
  table.Add({"weights in memory", FormatBytes(weights), FormatBytes(fp16),
             Percent(Reduction(weights, fp16))});
  return table.ToString();
}

}  // namespace

double Reduction(uint64_t bytes, uint64_t of) {
  return of == 0 ? 0 : 100 * (1 - static_cast<double>(bytes) / static_cast<double>(of));
}

void FillSizes(const v1::Package& package, BenchReport* report) {
  report->digest = package.digest();
  report->package_bytes = package.bytes();
  const json config = Config(package);
  std::set<std::string> layers;
  if (config.is_object() && config.contains("layers")) {
    for (const json& layer : config["layers"]) layers.insert(Text(layer, "digest"));
  }
  for (const v1::Descriptor& blob : package.layers()) {
    if (layers.count(blob.digest()) > 0) report->layer_bytes += blob.size();
  }
}

absl::StatusOr<int64_t> BenchContext(const v1::Package& package, std::optional<int64_t> wanted) {
  const json config = Config(package);
  const std::optional<double> context =
      config.is_object() ? Number(config.value("architecture", json()), "context") : std::nullopt;
  if (!context.has_value()) return wanted.value_or(kUsualContext);  // who measures looks at it
  const int64_t longest = static_cast<int64_t>(std::clamp(*context, 0.0, 1e9)) - kDecoded;
  if (longest < 1) {
    return absl::InvalidArgumentError(absl::StrCat("the model's context has ", *context,
                                                   " tokens, expected at least ", kDecoded + 1,
                                                   " to measure it"));
  }
  if (wanted.value_or(0) > longest) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--context ", *wanted, ", expected at most ", longest, ": the model's context has ",
        longest + kDecoded, " tokens, and ", kDecoded, " are decoded"));
  }
  return wanted.value_or(std::min(kUsualContext, longest));
}

std::string FormatBench(const BenchReport& r) {
  const auto context = static_cast<uint64_t>(Number(r.package, "context").value_or(0));
  std::string text = absl::StrCat(r.reference, " ", r.digest, "\n");
  absl::StrAppend(&text, "package: ", Text(r.package, "device"), ", ", Text(r.package, "how"),
                  "\n");
  if (r.source.is_object()) {
    absl::StrAppend(&text, "full precision: ", Text(r.source, "device"), ", ",
                    Text(r.source, "how"), ", ", r.source_path, "\n");
  } else {
    absl::StrAppend(&text, "full precision: not measured: ", r.source_fault, "\n");
  }
  absl::StrAppend(&text, "one sequence, behind ", context, " tokens; prompts of ", context,
                  " tokens\n\n", SpeedTable(r), "\n", SizeTable(r));
  if (const std::string fault = Text(r.package, "energy_fault"); !fault.empty())
    absl::StrAppend(&text, "\nenergy is not known: ", fault, "\n");
  return text;
}

nlohmann::ordered_json BenchJson(const BenchReport& r) {
  const uint64_t fp16 = Bytes(r.package, "fp16_bytes");
  const uint64_t fp16_layers = Bytes(r.package, "fp16_layer_bytes");
  return {{"reference", r.reference},
          {"digest", r.digest},
          {"package_bytes", r.package_bytes},
          {"layer_bytes", r.layer_bytes},
          {"reduction_percent",
           {{"package", Reduction(r.package_bytes, fp16)},
            {"layers", Reduction(r.layer_bytes, fp16_layers)},
            {"weights_in_memory", Reduction(Bytes(r.package, "weight_bytes"), fp16)}}},
          {"package", Json(r.package)},
          {"source", Json(r.source)},
          {"source_path", r.source_path},
          {"source_fault", r.source_fault},
          {"speedup", {{"token", OrNull(TokenRatio(r))}, {"prompt", OrNull(PromptRatio(r))}}},
          {"joules_ratio", OrNull(SmallerRatio(r, "joules_per_token"))}};
}

}  // namespace shiftadd::cli
