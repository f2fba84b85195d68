// Reads all that a tensor file offers.
#ifndef SHIFTADD_TESTS_FUZZ_TENSORS_H_
#define SHIFTADD_TESTS_FUZZ_TENSORS_H_

#include <algorithm>
#include <vector>

#include "worker/tensor/tensor_source.h"

namespace shiftadd::fuzz {

// Every tensor's bytes are touched, and the first rows of each read as numbers.
inline void ReadTensors(const TensorSource& source) {
  constexpr int64_t kMaxElements = 1 << 16;
  for (const auto& [name, info] : source.tensors()) {
    const auto bytes = source.Bytes(name);
    if (!bytes.ok()) continue;
    unsigned sum = 0;
    for (const char c : *bytes) sum += static_cast<unsigned char>(c);
    if (info.shape.empty() || sum == 0) continue;
    const int64_t rows = info.shape[0];
    const int64_t row = rows > 0 ? info.elements() / rows : 0;
    if (rows <= 0 || row <= 0 || row > kMaxElements) continue;
    const int64_t some = std::min(rows, kMaxElements / row);
    std::vector<float> out(static_cast<size_t>(some * row));
    source.ReadRows(name, rows - some, rows, out.data()).IgnoreError();
  }
}

}  // namespace shiftadd::fuzz

#endif  // SHIFTADD_TESTS_FUZZ_TENSORS_H_
