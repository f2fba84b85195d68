// What bench makes of figures.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "services/cli/bench_report.h"

namespace shiftadd::cli {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

json Figures(double ms, double prompt, json joules, uint64_t weights) {
  return {{"device", "cuda:0, NVIDIA H100"},
          {"how", "some kernels"},
          {"context", 512},
          {"milliseconds_per_token", ms},
          {"prompt_tokens_per_second", prompt},
          {"joules_per_token", joules},
          {"energy_fault", joules.is_null() ? "no RAPL meter" : ""},
          {"weight_bytes", weights},
          {"resident_bytes", 3 << 20},
          {"device_bytes", nullptr},
          {"fp16_bytes", 1000},
          {"fp16_layer_bytes", 800}};
}

BenchReport Some() {
  BenchReport report;
  report.reference = "m:latest";
  v1::Package package;
  package.set_digest("sha256:p");
  package.set_bytes(250);
  package.set_config_json(R"({"layers": [{"digest": "a"}, {"digest": "b"}]})");
  for (const char* digest : {"a", "head", "b"}) {
    v1::Descriptor* blob = package.add_layers();
    blob->set_digest(digest);
    blob->set_size(70);
  }
  FillSizes(package, &report);
  report.package = Figures(2, 1000, 0.5, 300);
  report.source = Figures(5, 500, 2.0, 1000);
  report.source_path = "/models/m";
  return report;
}

TEST(BenchReportTest, SizesAndRatios) {
  const BenchReport report = Some();
  EXPECT_EQ(report.layer_bytes, 140u);
  const auto out = BenchJson(report);
  EXPECT_DOUBLE_EQ(out["reduction_percent"]["package"], 75);
  EXPECT_DOUBLE_EQ(out["reduction_percent"]["layers"], 82.5);
  EXPECT_DOUBLE_EQ(out["reduction_percent"]["weights_in_memory"], 70);
  EXPECT_DOUBLE_EQ(out["speedup"]["token"], 2.5);
  EXPECT_DOUBLE_EQ(out["speedup"]["prompt"], 2);
  EXPECT_DOUBLE_EQ(out["joules_ratio"], 4);
  EXPECT_THAT(FormatBench(report), AllOf(HasSubstr("2.5 x"), HasSubstr("82.5 %"),
                                         HasSubstr("500.0"), HasSubstr("/models/m")));
}

TEST(BenchReportTest, WithoutSourceOrMeter) {
  BenchReport report = Some();
  report.source = nullptr;
  report.source_fault = "name it";
  report.package = Figures(2, 1000, nullptr, 300);
  const auto out = BenchJson(report);
  EXPECT_TRUE(out["speedup"]["token"].is_null());
  EXPECT_TRUE(out["joules_ratio"].is_null());
  EXPECT_THAT(FormatBench(report), AllOf(HasSubstr("not measured: name it"),
                                         HasSubstr("energy is not known: no RAPL meter")));
}

TEST(BenchContextTest, FitsTheModel) {
  v1::Package package;
  package.set_config_json(R"({"architecture": {"context": 128}})");
  EXPECT_EQ(*BenchContext(package, std::nullopt), 112);
  EXPECT_EQ(*BenchContext(package, 112), 112);
  EXPECT_EQ(*BenchContext(package, 24), 24);
  const absl::Status beyond = BenchContext(package, 113).status();
  EXPECT_EQ(beyond.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(beyond.message(),
            "--context 113, expected at most 112: the model's context has 128 tokens, and 16 are "
            "decoded");
  package.set_config_json(R"({"architecture": {"context": 16}})");
  EXPECT_EQ(BenchContext(package, std::nullopt).status().code(),
            absl::StatusCode::kInvalidArgument);
  package.set_config_json(R"({"architecture": {"context": 4096}})");
  EXPECT_EQ(*BenchContext(package, std::nullopt), 512);
  EXPECT_EQ(*BenchContext(package, 1000), 1000);
  for (const char* unknown : {"", "{}", R"({"architecture": {}})", R"({"architecture": 7})"}) {
    package.set_config_json(unknown);
    EXPECT_EQ(*BenchContext(package, std::nullopt), 512);
    EXPECT_EQ(*BenchContext(package, 9), 9);
  }
}

}  // namespace
}  // namespace shiftadd::cli
