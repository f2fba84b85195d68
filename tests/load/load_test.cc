// The load generator's short form: more clients than slots and queue on a tiny package.
#include "tests/load/load.h"

#include <gtest/gtest.h>

#include "tests/serving.h"

namespace shiftadd::testing {
namespace {

TEST(LoadTest, NoRequestFailsBut429s) {
  Serving serving;
  serving.Publish("tiny:load", 1);
  serving.StartServer({"tiny:load"}, {"--queue", "4", "--sequences", "8"});
  LoadOptions options;
  options.port = serving.http_port();
  options.pid = serving.server().pid();
  options.clients = 40;
  options.duration = absl::Seconds(4);
  const LoadReport report = RunLoad(options);
  EXPECT_EQ(report.failed(), 0) << report.ToString() << serving.ServerLog();
  EXPECT_GT(report.answered, 40) << report.ToString();
  EXPECT_GT(report.refused, 0) << report.ToString();
  EXPECT_EQ(report.tokens, report.answered * options.max_tokens);
  EXPECT_EQ(report.first_token.size(), static_cast<size_t>(report.answered));
  ASSERT_FALSE(report.rss.empty());
  EXPECT_GT(report.cache.back(), 0);
  EXPECT_LT(report.cache.back(), report.rss.back());
  std::printf("%s", report.ToString().c_str());
}

TEST(LoadTest, FaultsAreCountedByKind) {
  LoadOptions options;
  options.port = 1;  // nobody listens there
  options.clients = 2;
  options.duration = absl::Milliseconds(300);
  const LoadReport report = RunLoad(options);
  EXPECT_EQ(report.answered, 0);
  ASSERT_EQ(report.failures.size(), 1u);
  EXPECT_GE(report.failed(), 2);
}

TEST(LoadTest, Percentiles) {
  EXPECT_EQ(Percentile({}, 0.5), 0);
  EXPECT_EQ(Percentile({1, 2, 3, 4}, 0.5), 3);
  EXPECT_EQ(Percentile({1, 2, 3, 4}, 0.95), 4);
  LoadReport report;
  report.rss = {9, 9, 1, 1, 2, 2, 5, 5};
  report.cache = {0, 0, 0, 0, 0, 0, 3, 3};
  EXPECT_EQ(report.rss_growth(), 1);
}

}  // namespace
}  // namespace shiftadd::testing
