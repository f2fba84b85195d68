#include "services/coordinator/layer_size.h"

#include <algorithm>

namespace shiftadd::coordinator {
namespace {

// What a layer's blob holds besides its tensors, and what the config says of it.
constexpr uint64_t kHeaderBytes = 640;
constexpr uint64_t kConfigBytes = 200;
constexpr uint64_t kHalf = 2;  // bytes of an fp16 number
constexpr uint64_t kWord = 4;  // of 32 bits of a plane

uint64_t CeilDiv(uint64_t a, uint64_t b) { return (a + b - 1) / b; }

// The paper's layouts. acc packs along a column, lat along a row like everything else.
uint64_t AccBytes(const v1::Recipe& recipe, uint64_t n, uint64_t k, uint64_t q) {
  const uint64_t rows = recipe.whole_row() ? n : recipe.group_size();
  const uint64_t scales = CeilDiv(n, std::max<uint64_t>(1, rows));
  return q * k * (CeilDiv(n, 32) * kWord + scales * kHalf);
}
uint64_t LatBytes(const v1::Recipe& recipe, uint64_t n, uint64_t k, uint64_t q) {
  const uint64_t group = recipe.whole_row() ? n : recipe.group_size();
  const uint64_t rows = std::clamp<uint64_t>(group / 8, 1, std::max<uint64_t>(1, n));
  return q * (n * CeilDiv(k, 32) * kWord + CeilDiv(k, 8) * CeilDiv(n, rows) * kHalf);
}

bool HasOffset(const v1::Recipe& recipe) {
  return recipe.offset() || recipe.method() == v1::METHOD_RTN || recipe.method() == v1::METHOD_OPTQ;
}

}  // namespace

uint64_t EstimateStoredBytes(const v1::Recipe& recipe, const v1::LayerPlan& layer, uint32_t q) {
  const uint64_t n = layer.rows(), k = layer.cols();
  if (q == 0) return 4 * n * k;
  if (recipe.method() == v1::METHOD_ACC) return AccBytes(recipe, n, k, q);
  if (recipe.method() == v1::METHOD_LAT) return LatBytes(recipe, n, k, q);
  const uint64_t planes = q * n * CeilDiv(k, 32) * kWord;
  const uint64_t group = recipe.whole_row() ? k : recipe.group_size();
  const uint64_t groups = CeilDiv(k, std::max<uint64_t>(1, group));
  const uint64_t offsets = HasOffset(recipe) ? kHalf * n * groups : 0;
  if (recipe.scales() == v1::SCALE_KIND_FREE) return planes + kHalf * q * n * groups + offsets;
  return planes + kHalf * n * groups + n * CeilDiv(groups, 2) + offsets;
}

uint64_t EstimatePackageBytes(const v1::Recipe& recipe, const v1::LayerPlan& layer, uint32_t q) {
  // acc's weights are the numbers its codes stand for.
  const bool raw = q == 0 || recipe.method() == v1::METHOD_ACC;
  return EstimateStoredBytes(recipe, layer, raw ? 0 : q) + kHeaderBytes + kConfigBytes;
}

}  // namespace shiftadd::coordinator
