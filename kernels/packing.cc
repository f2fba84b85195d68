#include "kernels/packing.h"

#include <algorithm>

namespace shiftadd::kernels {

void PackPlanes(const uint8_t* codes, int64_t n, int64_t k, int q, uint32_t* planes) {
  const int64_t words = (k + 31) / 32;
  for (int64_t row = 0; row < n; ++row) {
    for (int64_t word = 0; word < words; ++word) {
      uint32_t bits[8] = {};
      const uint8_t* c = codes + row * k + word * 32;
      const int count = static_cast<int>(std::min<int64_t>(32, k - word * 32));
      for (int j = 0; j < count; ++j) {
        for (int i = 0; i < q; ++i) bits[i] |= static_cast<uint32_t>((c[j] >> i) & 1) << j;
      }
      for (int i = 0; i < q; ++i) planes[(i * n + row) * words + word] = bits[i];
    }
  }
}

void UnpackPlanes(const uint32_t* planes, int64_t n, int64_t k, int q, uint8_t* codes) {
  const int64_t words = (k + 31) / 32;
  for (int64_t row = 0; row < n; ++row) {
    for (int64_t col = 0; col < k; ++col) {
      unsigned code = 0;
      for (int i = 0; i < q; ++i) {
        code |= ((planes[(i * n + row) * words + col / 32] >> (col % 32)) & 1u) << i;
      }
      codes[row * k + col] = static_cast<uint8_t>(code);
    }
  }
}

void PackExponents(const uint8_t* index, int64_t n, int64_t g, uint8_t* out) {
  const int64_t stride = (g + 1) / 2;
  for (int64_t row = 0; row < n; ++row) {
    for (int64_t b = 0; b < stride; ++b) {
      const unsigned low = index[row * g + 2 * b] & 15u;
      const unsigned high = 2 * b + 1 < g ? index[row * g + 2 * b + 1] & 15u : 0u;
      out[row * stride + b] = static_cast<uint8_t>(low | (high << 4));
    }
  }
}

void UnpackExponents(const uint8_t* packed, int64_t n, int64_t g, uint8_t* index) {
  const int64_t stride = (g + 1) / 2;
  for (int64_t row = 0; row < n; ++row) {
    for (int64_t i = 0; i < g; ++i) {
      index[row * g + i] = (packed[row * stride + i / 2] >> (4 * (i % 2))) & 15;
    }
  }
}

}  // namespace shiftadd::kernels
