// Random packed matrices for tests and benchmarks. Owns what the view points to.
#ifndef SHIFTADD_KERNELS_TEST_MATRIX_H_
#define SHIFTADD_KERNELS_TEST_MATRIX_H_

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "kernels/packed_matrix.h"
#include "kernels/packing.h"

namespace shiftadd::kernels {

struct TestMatrixOptions {
  Encoding encoding = Encoding::kBcqShift;
  int q = 3;
  bool zeta = false;
  bool rotated = false;
  int64_t n = 16, k = 128, group = 128;
  int64_t block_rows = 16;
};

class TestMatrix {
 public:
  TestMatrix(const TestMatrixOptions& o, uint32_t seed) : random_(seed) {
    view.encoding = o.encoding;
    view.n = o.n;
    view.k = o.k;
    view.group = o.group;
    view.q = o.encoding == Encoding::kInt8Group ? 0 : o.q;
    if (o.encoding == Encoding::kInt8Group) {
      int8_.resize(o.n * o.k);
      for (int8_t& c : int8_) c = static_cast<int8_t>(random_());
      view.codes = int8_.data();
    } else {
      codes.resize(o.n * o.k);
      for (uint8_t& c : codes) c = static_cast<uint8_t>(random_()) & ((1 << o.q) - 1);
      planes.resize(o.q * o.n * view.plane_words());
      PackPlanes(codes.data(), o.n, o.k, o.q, planes.data());
      view.planes = planes.data();
    }
    const int64_t groups = o.n * view.groups();
    if (o.encoding == Encoding::kBcqShift || o.encoding == Encoding::kInt8Group) {
      scale = Halves(groups);
      view.scale = scale.data();
    }
    if (o.encoding == Encoding::kBcqShift) {
      view.table = DefaultExponentTable(o.q);
      std::vector<uint8_t> sets(groups);
      for (uint8_t& s : sets) s = static_cast<uint8_t>(random_() % view.table.count);
      exponents.resize(o.n * ((view.groups() + 1) / 2));
      PackExponents(sets.data(), o.n, view.groups(), exponents.data());
      view.exponents = exponents.data();
    }
    if (o.encoding == Encoding::kBcqFree) alpha = Halves(groups * o.q);
    if (o.encoding == Encoding::kBcqBlock8) {
      view.block_rows = o.block_rows;
      alpha = Halves((o.k + 7) / 8 * ((o.n + o.block_rows - 1) / o.block_rows) * o.q);
    }
    view.alpha = alpha.empty() ? nullptr : alpha.data();
    if (o.zeta) zeta = Halves(groups);
    view.zeta = o.zeta ? zeta.data() : nullptr;
    if (o.rotated) {
      view.rotation = Rotation::kWht128;
      signs.resize(view.plane_words());
      for (uint32_t& s : signs) s = static_cast<uint32_t>(random_());
      view.signs = signs.data();
    }
  }
  TestMatrix(const TestMatrix&) = delete;
  TestMatrix& operator=(const TestMatrix&) = delete;

  PackedMatrix view;
  std::vector<uint8_t> codes;
  std::vector<uint32_t> planes, signs;
  std::vector<uint16_t> scale, alpha, zeta;
  std::vector<uint8_t> exponents;

 private:
  std::vector<uint16_t> Halves(int64_t count) {
    std::normal_distribution<float> normal(0, 0.05f);
    std::vector<uint16_t> out(count);
    for (uint16_t& h : out) h = FloatToHalf(normal(random_));
    return out;
  }

  std::mt19937 random_;
  std::vector<int8_t> int8_;
};

// Activations with a few outliers, as a model's are.
inline std::vector<float> TestActivations(int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 1);
  std::vector<float> x(count);
  for (float& v : x) v = normal(random) * (random() % 64 == 0 ? 8.0f : 1.0f);
  return x;
}

}  // namespace shiftadd::kernels

#endif  // SHIFTADD_KERNELS_TEST_MATRIX_H_
