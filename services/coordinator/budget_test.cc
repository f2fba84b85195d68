// Allocation under every criterion, against sums taken by hand.
#include "services/coordinator/budget.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "services/base/digest.h"
#include "services/coordinator/criterion.h"
#include "services/coordinator/job_spec.h"
#include "services/job/criterion_name.h"

namespace shiftadd::coordinator {
namespace {

struct Model {
  v1::JobSpec spec;
  v1::Plan plan;
  ReportMap reports;

  // A layer with candidates of 2, 3 and 4 bits.
  v1::LayerReport& Add(const std::string& name, uint64_t rows, uint64_t cols) {
    v1::LayerPlan* layer = plan.add_layers();
    layer->set_name(name);
    layer->set_rows(rows);
    layer->set_cols(cols);
    v1::LayerReport& report = reports[name];
    *report.mutable_layer() = *layer;
    for (uint32_t q : {2u, 3u, 4u}) {
      v1::CandidateReport* c = report.add_candidates();
      c->set_bits(q);
      c->set_stored_bytes(rows * cols * q / 8);
      c->set_digest(Sha256Digest(absl::StrCat(name, q)));
    }
    return report;
  }
};

Model Empty(double planes) {
  Model m;
  m.spec.set_source("file:///m");
  m.spec.set_output("m");
  m.spec.mutable_budget()->set_planes(planes);
  m.spec.mutable_recipe()->set_hessian(v1::HESSIAN_GUIDED);
  EXPECT_TRUE(ResolveSpec(&m.spec).empty());
  return m;
}

absl::StatusOr<Allocation> Solved(const Model& m) {
  return Allocate(m.spec, m.plan, m.reports, 0, nullptr);
}

std::vector<uint32_t> Widths(const absl::StatusOr<Allocation>& a) {
  EXPECT_TRUE(a.ok()) << a.status();
  std::vector<uint32_t> widths;
  if (!a.ok()) return widths;
  for (const v1::VariantLayer& layer : a->variants.front().layers()) widths.push_back(layer.bits());
  return widths;
}

using Bits = std::vector<uint32_t>;

TEST(Allocate, GuidedErrorsNeedNoSizeAndMayBeTiny) {
  Model m = Empty(3);
  for (int l = 0; l < 2; ++l) {
    v1::LayerReport& report = m.Add(absl::StrCat("l", l), 64, 64);
    for (v1::CandidateReport& c : *report.mutable_candidates()) {
      c.set_output_error(l == 0 ? 0.1 : 0.5);  // would say otherwise
      c.set_guided_error((l == 0 ? 3e-13 : 1e-13) * std::pow(4, -static_cast<int>(c.bits())));
    }
  }
  EXPECT_EQ(Widths(Solved(m)), (Bits{3, 3}));
  m.reports["l0"].mutable_candidates(0)->set_guided_error(1e-10);
  m.reports["l0"].mutable_candidates(1)->set_guided_error(1e-10);
  const auto a = Solved(m);
  EXPECT_EQ(Widths(a), (Bits{4, 2}));
  EXPECT_NEAR(a->importance, 3e-13 / 256 + 1e-13 / 16, 1e-25);
  EXPECT_EQ(a->uniform_bits, 3u);
  EXPECT_NEAR(a->importance_uniform, 1e-10 + 1e-13 / 64, 1e-22);
}

TEST(FillImportance, ALayerWithoutGradientsIsPricedByItsOutputError) {
  Model m = Empty(3);
  for (v1::CandidateReport& c : *m.Add("with", 10, 10).mutable_candidates()) {
    c.set_output_error(0.5);
    c.set_guided_error(0.01);
  }
  for (v1::CandidateReport& c : *m.Add("without", 10, 20).mutable_candidates()) {
    c.set_output_error(0.25);
  }
  ASSERT_TRUE(FillImportance(v1::CRITERION_GUIDED, &m.reports).ok());
  EXPECT_DOUBLE_EQ(m.reports["with"].candidates(0).importance(), 0.01);
  // 0.03 of guided error for 150 of output error times weights, so 50 are worth 0.01.
  EXPECT_DOUBLE_EQ(m.reports["without"].candidates(0).importance(), 0.01);
}

TEST(FillImportance, WithoutAnyGradientsTheOutputErrorsDecide) {
  Model m = Empty(3);
  m.Add("a", 10, 10).mutable_candidates(0)->set_output_error(0.5);
  m.Add("b", 10, 20).mutable_candidates(0)->set_output_error(0.25);
  ReportMap output = m.reports;
  ASSERT_TRUE(FillImportance(v1::CRITERION_OUTPUT, &output).ok());
  ASSERT_TRUE(FillImportance(v1::CRITERION_GUIDED, &m.reports).ok());
  for (const char* layer : {"a", "b"}) {
    EXPECT_EQ(m.reports[layer].candidates(0).importance(), 50);
    EXPECT_EQ(output[layer].candidates(0).importance(), 50);
  }
}

TEST(FillImportance, RelativeErrorsCountTheLayersSize) {
  Model m = Empty(3);
  v1::CandidateReport* c = m.Add("l", 10, 20).mutable_candidates(0);
  c->set_output_error(0.5);
  c->set_weight_error(0.25);
  ASSERT_TRUE(FillImportance(v1::CRITERION_OUTPUT, &m.reports).ok());
  EXPECT_DOUBLE_EQ(m.reports["l"].candidates(0).importance(), 100);
  ASSERT_TRUE(FillImportance(v1::CRITERION_WEIGHT, &m.reports).ok());
  EXPECT_DOUBLE_EQ(m.reports["l"].candidates(0).importance(), 50);
}

TEST(FillImportance, ThePapersSlopeIsTheLeastSquaresFitAtEveryWidth) {
  Model m = Empty(3);
  const double criterion[] = {1, 2, 4}, error[] = {0.3, 0.5, 0.7};
  for (int l = 0; l < 3; ++l) {
    for (v1::CandidateReport& c : *m.Add(absl::StrCat("l", l), 8, 8).mutable_candidates()) {
      c.set_paper_criterion(criterion[l]);
      c.set_output_error(error[l] / c.bits());
    }
  }
  ASSERT_TRUE(FillImportance(v1::CRITERION_PAPER, &m.reports).ok());
  const double slope = (1 * 0.3 + 2 * 0.5 + 4 * 0.7) / (1 + 4 + 16);
  for (int l = 0; l < 3; ++l) {
    for (const v1::CandidateReport& c : m.reports[absl::StrCat("l", l)].candidates()) {
      EXPECT_NEAR(c.importance(), slope / c.bits() * criterion[l], 1e-15);
    }
  }
}

TEST(FillImportance, NamesWhatTheCandidatesLack) {
  Model m = Empty(3);
  m.Add("l0", 8, 8);
  for (const auto criterion : {v1::CRITERION_PAPER, v1::CRITERION_MEASURED}) {
    const absl::Status status = FillImportance(criterion, &m.reports);
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_NE(status.message().find("criterion " + CriterionName(criterion)), std::string::npos)
        << status;
  }
}

// A layer of a million weights counts as much as one of sixty-four.
TEST(Allocate, ThePaperCountsLayersNotWeights) {
  Model m = Empty(3);
  m.spec.set_criterion(v1::CRITERION_PAPER);
  const double criterion[] = {100, 1};
  for (int l = 0; l < 2; ++l) {
    v1::LayerReport& report = m.Add(absl::StrCat("l", l), l == 0 ? 1024 : 8, l == 0 ? 1024 : 8);
    for (v1::CandidateReport& c : *report.mutable_candidates()) {
      c.set_paper_criterion(criterion[l]);
      c.set_output_error(std::pow(4, -static_cast<int>(c.bits())) * (1 + l));
    }
  }
  const auto paper = Solved(m);
  EXPECT_EQ(Widths(paper), (Bits{4, 2}));
  EXPECT_GT(AveragesOf(paper->variants[0], m.reports).planes, 3.99);  // its average drifts
  m.spec.set_criterion(v1::CRITERION_OUTPUT);
  EXPECT_EQ(Widths(Solved(m))[0], 3u);
}

// Its integer programme, beta_b C of a layer at width b under a count of layers, is a sort by C
// that is cut where the budget says: the greater its C, the wider a layer.
TEST(Allocate, ThePapersProgrammeIsASortAndACut) {
  const double beta[] = {0.9, 0.3, 0.1};  // at 2, 3 and 4 planes
  for (const double planes : {2.2, 2.5, 3.0, 3.7}) {
    Model m = Empty(planes);
    m.spec.set_criterion(v1::CRITERION_PAPER);
    std::vector<double> criterion;
    for (int l = 0; l < 40; ++l) {
      criterion.push_back(1 + (l * 17) % 40 * 0.25);
      v1::LayerReport& report = m.Add(absl::StrFormat("l%02d", l), 8 << l % 5, 16);
      for (v1::CandidateReport& c : *report.mutable_candidates()) {
        c.set_paper_criterion(criterion[l]);
        c.set_output_error(beta[c.bits() - 2] * criterion[l]);
      }
    }
    const Bits widths = Widths(Solved(m));
    std::vector<std::pair<double, uint32_t>> layers;
    uint32_t count = 0;
    for (int l = 0; l < 40; ++l) {
      layers.emplace_back(criterion[l], widths[l]);
      count += widths[l];
    }
    EXPECT_EQ(count, std::floor(planes * 40 + 1e-9)) << planes;
    std::sort(layers.begin(), layers.end());
    for (size_t l = 1; l < layers.size(); ++l)
      EXPECT_LE(layers[l - 1].second, layers[l].second)
          << planes << " planes, C " << layers[l].first;
  }
}

TEST(Allocate, UniformGivesOneVariantOrSaysWhatIsInTheWay) {
  Model m = Empty(3.99);
  m.spec.set_uniform(true);
  m.spec.set_criterion(v1::CRITERION_OUTPUT);
  for (int l = 0; l < 3; ++l) m.Add(absl::StrCat("l", l), 64, 64);
  const auto a = Solved(m);
  EXPECT_EQ(Widths(a), (Bits{3, 3, 3}));
  EXPECT_EQ(a->variants.size(), 1u);
  EXPECT_TRUE(a->mixed_is_uniform);
  m.spec.mutable_budget()->set_planes(1.5);
  EXPECT_EQ(Solved(m).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(Solved(m).status().message().find("the least is 2.0000 planes"), std::string::npos);
}

}  // namespace
}  // namespace shiftadd::coordinator
