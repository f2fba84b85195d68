#include <gtest/gtest.h>

#include "services/job/candidate.h"
#include "services/job/criterion_name.h"

namespace shiftadd {
namespace {

TEST(CriterionName, OfEveryCriterionAndOfNone) {
  EXPECT_EQ(CriterionName(v1::CRITERION_GUIDED), "guided");
  EXPECT_EQ(CriterionName(v1::CRITERION_MEASURED), "measured");
  EXPECT_EQ(CriterionName(v1::CRITERION_UNSPECIFIED), "default");
  EXPECT_EQ(CriterionName(static_cast<v1::Criterion>(99)), "criterion 99");
}

TEST(FindCandidate, ByItsWidth) {
  v1::LayerReport report;
  for (const uint32_t bits : {2u, 4u}) report.add_candidates()->set_bits(bits);
  EXPECT_EQ(FindCandidate(report, 4), &report.candidates(1));
  EXPECT_EQ(FindCandidate(report, 3), nullptr);
}

}  // namespace
}  // namespace shiftadd
