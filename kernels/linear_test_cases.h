// The matrices that tests of y = x W^T go through.
#ifndef SHIFTADD_KERNELS_LINEAR_TEST_CASES_H_
#define SHIFTADD_KERNELS_LINEAR_TEST_CASES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/test_matrix.h"

namespace shiftadd::kernels {

struct LinearCase {
  std::string name;
  TestMatrixOptions options;
};

inline std::vector<LinearCase> LinearEncodings() {
  std::vector<LinearCase> cases;
  for (int q = 1; q <= 8; ++q) {
    for (const bool zeta : {false, true}) {
      const std::string tail = std::to_string(q) + (zeta ? "_zeta" : "");
      cases.push_back({"shift" + tail, {.q = q, .zeta = zeta}});
      cases.push_back({"free" + tail, {.encoding = Encoding::kBcqFree, .q = q, .zeta = zeta}});
    }
    cases.push_back({"block8_" + std::to_string(q), {.encoding = Encoding::kBcqBlock8, .q = q}});
  }
  cases.push_back({"int8", {.encoding = Encoding::kInt8Group}});
  return cases;
}

struct LinearShape {
  int64_t n, k, group, m;
};
// Tails in rows, inputs, groups and tokens; groups that do not divide 128; whole rows; more inputs
// than one pass of a GPU's thread block.
inline constexpr LinearShape kLinearShapes[] = {
    {1, 1, 32, 1},      {16, 128, 128, 1},  {17, 576, 128, 3},  {33, 200, 64, 5},
    {5, 333, 32, 9},    {48, 256, 256, 2},  {20, 300, 1000, 4}, {31, 417, 96, 1},
    {16, 640, 160, 11}, {40, 129, 128, 70}, {3, 31, 64, 2},     {18, 240, 128, 1},
    {7, 100, 64, 6},    {19, 4736, 128, 1}, {34, 2304, 64, 2},  {16, 1152, 64, 17}};

}  // namespace shiftadd::kernels

#endif  // SHIFTADD_KERNELS_LINEAR_TEST_CASES_H_
