#include "worker/tensor/dequantize.h"

#include <algorithm>
#include <cstring>

#include "worker/tensor/dtype.h"

namespace shiftadd {
namespace {

constexpr int kSmallBlock = 32;   // Q4_0 … Q8_0
constexpr int kSuperBlock = 256;  // the K types

template <typename T>
T Load(const uint8_t* p) {
  T value;
  std::memcpy(&value, p, sizeof(T));
  return value;
}

float LoadHalf(const uint8_t* p) { return HalfToFloat(Load<uint16_t>(p)); }

// d · (q - 8): low nibbles are elements 0…15, high ones 16…31.
void DecodeQ4_0(const uint8_t* p, float* out) {
  const float d = LoadHalf(p);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>((p[2 + i] & 15) - 8);
    out[i + 16] = d * static_cast<float>((p[2 + i] >> 4) - 8);
  }
}

// d · q + m.
void DecodeQ4_1(const uint8_t* p, float* out) {
  const float d = LoadHalf(p);
  const float m = LoadHalf(p + 2);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>(p[4 + i] & 15) + m;
    out[i + 16] = d * static_cast<float>(p[4 + i] >> 4) + m;
  }
}

// The fifth bits of 32 elements stand in one 32-bit word, element 0 lowest.
int FiveBits(const uint8_t* nibbles, uint32_t high, int i) {
  const int low = i < 16 ? nibbles[i] & 15 : nibbles[i - 16] >> 4;
  return low | static_cast<int>(((high >> i) & 1u) << 4);
}

void DecodeQ5_0(const uint8_t* p, float* out) {
  const float d = LoadHalf(p);
  const uint32_t high = Load<uint32_t>(p + 2);
  for (int i = 0; i < kSmallBlock; ++i) {
    out[i] = d * static_cast<float>(FiveBits(p + 6, high, i) - 16);
  }
}

void DecodeQ5_1(const uint8_t* p, float* out) {
  const float d = LoadHalf(p);
  const float m = LoadHalf(p + 2);
  const uint32_t high = Load<uint32_t>(p + 4);
  for (int i = 0; i < kSmallBlock; ++i) {
    out[i] = d * static_cast<float>(FiveBits(p + 8, high, i)) + m;
  }
}

void DecodeQ8_0(const uint8_t* p, float* out) {
  const float d = LoadHalf(p);
  for (int i = 0; i < kSmallBlock; ++i) {
    out[i] = static_cast<float>(static_cast<int8_t>(p[2 + i])) * d;
  }
}

// Eight 6-bit scales and eight 6-bit minima in 12 bytes: the first four of each lie in the low six
// bits of bytes 0…7, the last four are split between bytes 8…11 (low bits) and the top bits of
// bytes 0…7.
void UnpackScales(const uint8_t* p, int j, int* scale, int* min) {
  if (j < 4) {
    *scale = p[j] & 63;
    *min = p[j + 4] & 63;
  } else {
    *scale = (p[j + 4] & 15) | ((p[j - 4] >> 6) << 4);
    *min = (p[j + 4] >> 4) | ((p[j] >> 6) << 4);
  }
}

// Q4_K and Q5_K: sub-block j of 32 has its scale and minimum; pairs of sub-blocks share 32 bytes of
// nibbles.
void DecodeScaleMin(const uint8_t* p, const uint8_t* high, const uint8_t* nibbles, float* out) {
  const float d = LoadHalf(p);
  const float dmin = LoadHalf(p + 2);
  for (int j = 0; j < 8; ++j) {
    int scale, min;
    UnpackScales(p + 4, j, &scale, &min);
    const float ds = d * static_cast<float>(scale);
    const float dm = dmin * static_cast<float>(min);
    const uint8_t* q = nibbles + (j / 2) * 32;
    for (int i = 0; i < 32; ++i) {
      int value = j % 2 == 0 ? q[i] & 15 : q[i] >> 4;
      if (high != nullptr) value |= ((high[i] >> j) & 1) << 4;
      out[j * 32 + i] = ds * static_cast<float>(value) - dm;
    }
  }
}

void DecodeQ4_K(const uint8_t* p, float* out) { DecodeScaleMin(p, nullptr, p + 16, out); }
void DecodeQ5_K(const uint8_t* p, float* out) { DecodeScaleMin(p, p + 16, p + 48, out); }

// 128 bytes of low nibbles, 64 of high pairs, 16 signed scales for 16 elements each, d.
void DecodeQ6_K(const uint8_t* p, float* out) {
  const float d = LoadHalf(p + 208);
  for (int e = 0; e < kSuperBlock; ++e) {
    const int half = e / 128, group = (e % 128) / 32, i = e % 32;
    const uint8_t low_byte = p[half * 64 + (group % 2) * 32 + i];
    const int low = group < 2 ? low_byte & 15 : low_byte >> 4;
    const int high = (p[128 + half * 32 + i] >> (2 * group)) & 3;
    const float scale = d * static_cast<float>(static_cast<int8_t>(p[192 + e / 16]));
    out[e] = scale * static_cast<float>((low | (high << 4)) - 32);
  }
}

void DecodeBlock(DType dtype, const uint8_t* p, float* out) {
  switch (dtype) {
    case DType::kQ4_0:
      return DecodeQ4_0(p, out);
    case DType::kQ4_1:
      return DecodeQ4_1(p, out);
    case DType::kQ5_0:
      return DecodeQ5_0(p, out);
    case DType::kQ5_1:
      return DecodeQ5_1(p, out);
    case DType::kQ8_0:
      return DecodeQ8_0(p, out);
    case DType::kQ4_K:
      return DecodeQ4_K(p, out);
    case DType::kQ5_K:
      return DecodeQ5_K(p, out);
    case DType::kQ6_K:
      return DecodeQ6_K(p, out);
    default:
      return;
  }
}

template <typename T>
void ConvertPlain(const uint8_t* p, int64_t begin, int64_t end, float* out) {
  for (int64_t i = begin; i < end; ++i) {
    out[i - begin] = static_cast<float>(Load<T>(p + i * static_cast<int64_t>(sizeof(T))));
  }
}

}  // namespace

void Dequantize(DType dtype, const char* data, int64_t begin, int64_t end, float* out) {
  const uint8_t* p = reinterpret_cast<const uint8_t*>(data);
  switch (dtype) {
    case DType::kF64:
      return ConvertPlain<double>(p, begin, end, out);
    case DType::kF32:
      if (end > begin) std::memcpy(out, p + begin * 4, static_cast<size_t>(end - begin) * 4);
      return;
    case DType::kF16:
      for (int64_t i = begin; i < end; ++i) out[i - begin] = LoadHalf(p + i * 2);
      return;
    case DType::kBF16:
      for (int64_t i = begin; i < end; ++i) {
        out[i - begin] = Bfloat16ToFloat(Load<uint16_t>(p + i * 2));
      }
      return;
    case DType::kI8:
      return ConvertPlain<int8_t>(p, begin, end, out);
    case DType::kI32:
      return ConvertPlain<int32_t>(p, begin, end, out);
    case DType::kI64:
      return ConvertPlain<int64_t>(p, begin, end, out);
    case DType::kU8:
      return ConvertPlain<uint8_t>(p, begin, end, out);
    case DType::kU32:
      return ConvertPlain<uint32_t>(p, begin, end, out);
    default:
      break;
  }
  const BlockLayout layout = LayoutOf(dtype);
  float block[kSuperBlock];
  for (int64_t i = begin; i < end;) {
    const int64_t index = i / layout.elements;
    const int64_t first = index * layout.elements;
    const int64_t stop = std::min(end, first + layout.elements);
    if (i == first && stop == first + layout.elements) {
      DecodeBlock(dtype, p + index * layout.bytes, out + (i - begin));
    } else {  // the range ends inside a block
      DecodeBlock(dtype, p + index * layout.bytes, block);
      std::copy(block + (i - first), block + (stop - first), out + (i - begin));
    }
    i = stop;
  }
}

}  // namespace shiftadd
