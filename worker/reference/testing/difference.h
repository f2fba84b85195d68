// How far statistics of one executor are from those of another.
#ifndef SHIFTADD_WORKER_REFERENCE_TESTING_DIFFERENCE_H_
#define SHIFTADD_WORKER_REFERENCE_TESTING_DIFFERENCE_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace shiftadd::testing {

// Root of the mean square difference, as a fraction of that of what is expected.
inline double Difference(const std::vector<float>& found, const std::vector<float>& expected) {
  EXPECT_EQ(found.size(), expected.size());
  double error = 0, size = 0;
  for (size_t i = 0; i < std::min(found.size(), expected.size()); ++i) {
    error += std::pow(double{found[i]} - expected[i], 2);
    size += double{expected[i]} * expected[i];
  }
  return std::sqrt(error / size);
}

}  // namespace shiftadd::testing

#endif  // SHIFTADD_WORKER_REFERENCE_TESTING_DIFFERENCE_H_
