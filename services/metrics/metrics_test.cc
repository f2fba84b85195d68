#include "services/metrics/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

namespace shiftadd::metrics {
namespace {

using testing::HasSubstr;

http::Response Ask(const http::HttpServer::Routes& routes, const std::string& path) {
  return routes.at(path).at("GET")({}, nullptr);
}

TEST(MetricsTest, ExposesTheTextFormat) {
  prometheus::Registry registry;
  AddBuildInfo(&registry, "test");
  prometheus::BuildCounter().Name("a_total").Help("A.").Register(registry).Add({{"x", "q\"\n\\"}});
  const std::string text = Expose(registry);
  EXPECT_THAT(text, HasSubstr("# TYPE shiftadd_build_info gauge\n"));
  EXPECT_THAT(text, HasSubstr("process=\"test\""));
  EXPECT_THAT(text, HasSubstr("a_total{x=\"q\\\"\\n\\\\\"} 0"));
}

TEST(MetricsTest, DurationBucketsGrow) {
  const auto buckets = DurationBuckets();
  EXPECT_TRUE(std::is_sorted(buckets.begin(), buckets.end()));
  EXPECT_EQ(std::adjacent_find(buckets.begin(), buckets.end()), buckets.end());
  EXPECT_EQ(buckets.front(), 0.001);
  EXPECT_EQ(buckets.back(), 1000);
}

TEST(MetricsTest, RoutesOfADaemon) {
  const auto registry = std::make_shared<prometheus::Registry>();
  auto& gauge = prometheus::BuildGauge().Name("g").Help("G.").Register(*registry).Add({});
  std::string reason = "loading";
  const auto routes = DaemonRoutes(
      registry, [&reason] { return reason; }, [&gauge] { gauge.Increment(); });
  EXPECT_EQ(Ask(routes, "/health").status, 200);
  EXPECT_EQ(Ask(routes, "/ready").status, 503);
  EXPECT_THAT(Ask(routes, "/ready").body, HasSubstr("loading"));
  reason = "";
  EXPECT_EQ(Ask(routes, "/ready").status, 200);
  EXPECT_THAT(Ask(routes, "/metrics").body, HasSubstr("\ng 1\n"));
  EXPECT_THAT(Ask(routes, "/metrics").body, HasSubstr("\ng 2\n"));
  EXPECT_THAT(Ask(routes, "/metrics").content_type, HasSubstr("version=0.0.4"));
  const auto bare = DaemonRoutes(registry, nullptr, nullptr);
  EXPECT_EQ(Ask(bare, "/ready").status, 200);
}

TEST(MetricsTest, PromtoolFindsNothingWrong) {
  if (std::system("command -v promtool >/dev/null") != 0) {
    GTEST_SKIP() << "promtool (package prometheus) is not installed";
  }
  prometheus::Registry registry;
  AddBuildInfo(&registry, "test");
  prometheus::BuildHistogram()
      .Name("d_seconds")
      .Help("D.")
      .Register(registry)
      .Add({{"kind", "x"}}, DurationBuckets())
      .Observe(0.1);
  FILE* promtool = popen("promtool check metrics", "w");
  ASSERT_NE(promtool, nullptr);
  const std::string text = Expose(registry);
  EXPECT_EQ(std::fwrite(text.data(), 1, text.size(), promtool), text.size());
  EXPECT_EQ(pclose(promtool), 0);
}

}  // namespace
}  // namespace shiftadd::metrics
