#include "services/coordinator/evaluation_figures.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "nlohmann/json.hpp"

namespace shiftadd::coordinator {
namespace {

// A window whose tokens diverge by `kl`, with so many nats in all and full precision one less.
v1::WindowScore Window(const std::vector<float>& kl, double nll, uint32_t agreements) {
  v1::WindowScore w;
  w.set_tokens(static_cast<uint32_t>(kl.size()));
  double sum = 0;
  for (const float x : kl) {
    w.add_token_kl(x);
    sum += x;
  }
  w.add_kl(sum);
  w.add_nll(nll);
  w.set_nll_full(nll - 1);
  w.set_top1_agreements(agreements);
  return w;
}

TEST(EvaluationFigures, AreThoseOfTheTokens) {
  // Means of 2 and 4 tokens: .2 and .4 in divergence, 3 and 2 in nats.
  const auto e = EvaluationFigures({Window({.1f, .3f}, 6, 2), Window({.4f, .4f, .2f, .6f}, 8, 1)});
  ASSERT_TRUE(e.ok()) << e.status();
  EXPECT_EQ(e->windows(), 2u);
  EXPECT_EQ(e->tokens(), 6u);
  EXPECT_NEAR(e->kl().value(), 2.0 / 6, 1e-7);
  EXPECT_NEAR(e->kl().standard_error(), .1, 1e-7);  // deviation of (.2, .4) over the root of 2
  EXPECT_NEAR(e->perplexity().value(), std::exp(14.0 / 6), 1e-9);
  EXPECT_NEAR(e->perplexity().standard_error(), std::exp(14.0 / 6) * .5, 1e-9);
  EXPECT_NEAR(e->perplexity_full().value(), std::exp(12.0 / 6), 1e-9);
  EXPECT_NEAR(e->top1_agreement().value(), .5, 1e-12);
  EXPECT_NEAR(e->top1_agreement().standard_error(), .375, 1e-12);  // of (1, .25)
  EXPECT_FLOAT_EQ(static_cast<float>(e->kl_max().value()), .6f);
  EXPECT_FLOAT_EQ(static_cast<float>(e->kl_p99().value()), .6f);  // 1 % of 6 tokens is none
  // Half of the draws of two windows miss neither; a quarter have only the first, whose greatest is
  // .3: the deviation of .6 (3/4) and .3 (1/4) is .13.
  EXPECT_NEAR(e->kl_max().standard_error(), .3 * std::sqrt(3.0 / 16), .01);
}

TEST(EvaluationFigures, TheTailLeavesOnePercentAbove) {
  std::vector<float> kl;
  for (int i = 1; i <= 250; ++i) kl.push_back(static_cast<float>(i));
  const auto e = EvaluationFigures({Window(kl, 500, 0)});
  ASSERT_TRUE(e.ok()) << e.status();
  EXPECT_EQ(e->kl_p99().value(), 248);  // 2 of 250 lie above
  EXPECT_EQ(e->kl_max().value(), 250);
  for (const v1::Estimate* estimate : {&e->kl(), &e->kl_p99(), &e->kl_max(), &e->perplexity(),
                                       &e->perplexity_full(), &e->top1_agreement()}) {
    EXPECT_FALSE(estimate->has_standard_error()) << "one window says nothing of the others";
  }
}

TEST(EvaluationFigures, AreTheSameEveryTime) {
  const std::vector<v1::WindowScore> windows = {Window({.1f, .5f}, 4, 1), Window({.2f, .3f}, 5, 2),
                                                Window({.7f, 0.f}, 6, 0)};
  const auto once = EvaluationFigures(windows), again = EvaluationFigures(windows);
  ASSERT_TRUE(once.ok());
  EXPECT_EQ(EvaluationJson(*once), EvaluationJson(*again));
  const auto json = nlohmann::json::parse(EvaluationJson(*once));
  EXPECT_EQ(json["kl_p99"]["standard_error"], once->kl_p99().standard_error());
  EXPECT_EQ(json["tokens"], 6);
}

TEST(EvaluationFigures, RefusesWhatIsNoScore) {
  EXPECT_FALSE(EvaluationFigures({}).ok());
  v1::WindowScore fewer = Window({.1f, .2f}, 4, 1);
  fewer.mutable_token_kl()->RemoveLast();
  EXPECT_FALSE(EvaluationFigures({fewer}).ok());
  v1::WindowScore nan = Window({.1f, .2f}, 4, 1);
  nan.set_kl(0, std::numeric_limits<double>::quiet_NaN());
  const auto status = EvaluationFigures({Window({.1f}, 1, 1), nan}).status();
  EXPECT_NE(status.message().find("window 1"), std::string::npos) << status;
  EXPECT_FALSE(EvaluationFigures({Window({.1f}, 1e6, 1)}).ok()) << "exp of it is not a number";
}

}  // namespace
}  // namespace shiftadd::coordinator
