// A matrix stored in panels of columns, so that the block of it that a product works on lies in one
// piece of memory: with rows of a power of two times 4 KiB apart, a block would not stay in cache.
#ifndef SHIFTADD_WORKER_QUANTIZE_PANEL_MATRIX_H_
#define SHIFTADD_WORKER_QUANTIZE_PANEL_MATRIX_H_

#include <algorithm>
#include <cstdint>
#include <vector>

namespace shiftadd::quantize {

class PanelMatrix {
 public:
  static constexpr int64_t kColumns = 64;  // of a panel; neighbours in a row's part of it

  PanelMatrix() = default;
  PanelMatrix(int64_t rows, int64_t cols)
      : rows_(rows), cols_(cols), data_((cols + kColumns - 1) / kColumns * kColumns * rows) {}

  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  bool empty() const { return data_.empty(); }
  float at(int64_t r, int64_t c) const { return data_[Index(r, c)]; }
  float& at(int64_t r, int64_t c) { return data_[Index(r, c)]; }
  // Elements (r, c) to (r, PanelEnd(c) - 1); the next row's are kColumns further on.
  const float* from(int64_t r, int64_t c) const { return data_.data() + Index(r, c); }
  // The first column behind c's panel.
  int64_t PanelEnd(int64_t c) const { return std::min((c / kColumns + 1) * kColumns, cols_); }

 private:
  int64_t Index(int64_t r, int64_t c) const {
    return (c / kColumns * rows_ + r) * kColumns + c % kColumns;
  }

  int64_t rows_ = 0, cols_ = 0;
  std::vector<float> data_;
};

}  // namespace shiftadd::quantize

#endif  // SHIFTADD_WORKER_QUANTIZE_PANEL_MATRIX_H_
