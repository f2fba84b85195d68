#include "services/coordinator/layer_size.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "kernels/packed_matrix.h"
#include "services/job/recipe.h"

namespace shiftadd::coordinator {
namespace {

v1::LayerPlan Layer(uint64_t n, uint64_t k) {
  v1::LayerPlan layer;
  layer.set_rows(n);
  layer.set_cols(k);
  return layer;
}

v1::Recipe Resolved(v1::Recipe recipe) {
  FaultList faults;
  ResolveRecipe(&recipe, &faults);
  EXPECT_EQ(FaultMessage(faults.Take()), "");
  return recipe;
}

constexpr std::pair<uint64_t, uint64_t> kShapes[] = {{576, 576}, {192, 576}, {5, 37}, {1, 1}};

// What the packed format says of a layer of this shape.
uint64_t Packed(kernels::Encoding encoding, uint64_t n, uint64_t k, int64_t group, int q,
                bool zeta) {
  static const uint16_t kAny = 0;
  kernels::PackedMatrix m;
  m.encoding = encoding;
  m.n = static_cast<int64_t>(n);
  m.k = static_cast<int64_t>(k);
  m.group = encoding == kernels::Encoding::kBcqBlock8 ? 0 : group;
  m.block_rows = encoding == kernels::Encoding::kBcqBlock8 ? group : 0;
  m.q = q;
  m.zeta = zeta ? &kAny : nullptr;
  return kernels::StoredBytes(m);
}

TEST(EstimateStoredBytes, AgreesWithThePackedFormat) {
  for (const auto& [n, k] : kShapes) {
    for (const int q : {1, 3, 8}) {
      for (const uint32_t group : {32u, 64u, 128u, 0u}) {
        v1::Recipe recipe;
        recipe.set_group_size(group);
        recipe.set_whole_row(group == 0);
        const int64_t row = group == 0 ? static_cast<int64_t>(k) : group;
        for (const bool offset : {false, true}) {
          recipe.set_offset(offset);
          recipe.set_scales(v1::SCALE_KIND_SHIFT);
          EXPECT_EQ(EstimateStoredBytes(Resolved(recipe), Layer(n, k), q),
                    Packed(kernels::Encoding::kBcqShift, n, k, row, q, offset));
          recipe.set_scales(v1::SCALE_KIND_FREE);
          EXPECT_EQ(EstimateStoredBytes(Resolved(recipe), Layer(n, k), q),
                    Packed(kernels::Encoding::kBcqFree, n, k, row, q, offset));
        }
        v1::Recipe grid;
        grid.set_group_size(group);
        grid.set_whole_row(group == 0);
        for (const v1::Method method : {v1::METHOD_RTN, v1::METHOD_OPTQ}) {
          grid.set_method(method);
          EXPECT_EQ(EstimateStoredBytes(Resolved(grid), Layer(n, k), q),
                    Packed(kernels::Encoding::kBcqShift, n, k, row, q, /*zeta=*/true));
        }
        grid.set_method(v1::METHOD_LAT);
        const int64_t rows = std::clamp<int64_t>((group == 0 ? n : group) / 8, 1, n);
        EXPECT_EQ(EstimateStoredBytes(Resolved(grid), Layer(n, k), q),
                  Packed(kernels::Encoding::kBcqBlock8, n, k, rows, q, false));
      }
    }
  }
}

// Stored bits as the paper publishes them: 2.25, 3.375, 4.5 with fp16 scales of 128 weights.
TEST(EstimateStoredBytes, CountsAccAsThePaperDoes) {
  v1::Recipe recipe;
  recipe.set_method(v1::METHOD_ACC);
  recipe = Resolved(recipe);
  for (const uint32_t q : {2u, 3u, 4u}) {
    EXPECT_EQ(EstimateStoredBytes(recipe, Layer(1024, 512), q), 1024 * 512 * q * 9 / 8 / 8);
  }
  // Columns of 5 rows, each with a word and a scale a plane.
  EXPECT_EQ(EstimateStoredBytes(recipe, Layer(5, 37), 3), 3 * 37 * (4 + 2));
  recipe.set_group_size(0);
  recipe.set_whole_row(true);  // a scale a column and plane
  EXPECT_EQ(EstimateStoredBytes(recipe, Layer(1024, 512), 2), 1024 * 512 * 2 / 8 + 2 * 2 * 512);
}

TEST(EstimatePackageBytes, AccIsPublishedRaw) {
  v1::Recipe acc;
  acc.set_method(v1::METHOD_ACC);
  acc = Resolved(acc);
  EXPECT_EQ(EstimatePackageBytes(acc, Layer(64, 64), 2),
            EstimatePackageBytes(Resolved({}), Layer(64, 64), 0));
  EXPECT_GT(EstimatePackageBytes(acc, Layer(64, 64), 2),
            EstimatePackageBytes(Resolved({}), Layer(64, 64), 8));
}

}  // namespace
}  // namespace shiftadd::coordinator
