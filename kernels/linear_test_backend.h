// What linear_test.cc runs its bodies on: each test program defines MakeLinearBackends().
#ifndef SHIFTADD_KERNELS_LINEAR_TEST_BACKEND_H_
#define SHIFTADD_KERNELS_LINEAR_TEST_BACKEND_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cpu_linear.h"
#include "kernels/packed_matrix.h"

namespace shiftadd::kernels {

class LinearBackend {
 public:
  virtual ~LinearBackend() = default;
  virtual std::string name() const = 0;
  // How far y may be from its sum in float64, in parts of the sum of the terms' magnitudes.
  virtual double tolerance() const { return 1e-5; }

  // Loads `w`, or says why not.
  virtual std::string Load(const PackedMatrix& w) = 0;
  virtual uint64_t bytes() const = 0;  // of the matrix, resident
  // Digits of x [m, k] for the matrix, and y [m, n].
  virtual Activations Prepare(const std::vector<float>& x, int64_t m, Precision precision) = 0;
  // y = x W^T of what was prepared last.
  virtual std::vector<float> Multiply() = 0;
  // All rows, unrotated: [n, k].
  virtual std::vector<float> Gather() = 0;
};

struct LinearBackends {
  std::vector<std::unique_ptr<LinearBackend>> all;
  std::string unavailable;  // why `all` is empty
};
LinearBackends MakeLinearBackends();

}  // namespace shiftadd::kernels

#endif  // SHIFTADD_KERNELS_LINEAR_TEST_BACKEND_H_
