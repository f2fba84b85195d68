#include "worker/tensor/dequantize.h"

#include <cmath>
#include <cstring>
#include <fstream>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "worker/tensor/dtype.h"

namespace shiftadd {
namespace {

using nlohmann::json;

constexpr DType kAll[] = {DType::kF64,  DType::kF32,  DType::kF16,  DType::kBF16, DType::kI8,
                          DType::kI32,  DType::kI64,  DType::kU8,   DType::kU32,  DType::kQ4_0,
                          DType::kQ4_1, DType::kQ5_0, DType::kQ5_1, DType::kQ8_0, DType::kQ4_K,
                          DType::kQ5_K, DType::kQ6_K};

DType ByName(const std::string& name) {
  for (DType dtype : kAll) {
    if (name == DTypeName(dtype)) return dtype;
  }
  ADD_FAILURE() << name;
  return DType::kF32;
}

std::string FromHex(const std::string& hex) {
  std::string out;
  for (size_t i = 0; i < hex.size(); i += 2) {
    out.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  }
  return out;
}

TEST(DequantizeTest, EqualsGolden) {
  std::ifstream in(std::string(SHIFTADD_SOURCE_DIR) + "/tests/golden/dequantized.json");
  ASSERT_TRUE(in.good());
  const json golden = json::parse(in);
  EXPECT_EQ(golden.at("cases").size(), 10u);
  for (const json& c : golden.at("cases")) {
    const DType dtype = ByName(c.at("type"));
    const std::string bytes = FromHex(c.at("bytes"));
    const std::vector<uint32_t> expected = c.at("float32_bits");
    const int64_t count = static_cast<int64_t>(expected.size());
    ASSERT_EQ(TensorBytes(dtype, {count}), bytes.size());
    std::vector<float> values(expected.size());
    Dequantize(dtype, bytes.data(), 0, count, values.data());
    for (size_t i = 0; i < expected.size(); ++i) {
      uint32_t bits;
      std::memcpy(&bits, &values[i], 4);
      if (values[i] == 0) bits &= 0x7fffffffu;  // the sign of zero is no value
      const uint32_t want = (expected[i] & 0x7fffffffu) == 0 ? 0 : expected[i];
      ASSERT_EQ(bits, want) << c.at("type") << " element " << i << ": " << values[i];
    }
    // Any part gives the same values.
    std::vector<float> part(10);
    for (int64_t begin = 0; begin + 10 <= count; begin += 7) {
      Dequantize(dtype, bytes.data(), begin, begin + 10, part.data());
      for (int64_t i = 0; i < 10; ++i) ASSERT_EQ(part[i], values[begin + i]);
    }
  }
}

TEST(DequantizeTest, PlainIntegers) {
  const int8_t bytes[] = {-128, -1, 0, 127};
  float out[4];
  Dequantize(DType::kI8, reinterpret_cast<const char*>(bytes), 0, 4, out);
  EXPECT_EQ(out[0], -128.0f);
  EXPECT_EQ(out[3], 127.0f);
  const double doubles[] = {0.1, -3.5};
  Dequantize(DType::kF64, reinterpret_cast<const char*>(doubles), 1, 2, out);
  EXPECT_EQ(out[0], -3.5f);
}

TEST(HalfTest, EveryHalfComesBack) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float value = HalfToFloat(static_cast<uint16_t>(bits));
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(HalfToFloat(FloatToHalf(value))));
      continue;
    }
    ASSERT_EQ(FloatToHalf(value), bits);
    // Between this half and the next of the same sign, rounding goes to the nearer, ties to even.
    if ((bits & 0x7fffu) >= 0x7bffu) continue;
    const float next = HalfToFloat(static_cast<uint16_t>(bits + 1));
    const float middle = static_cast<float>((static_cast<double>(value) + next) / 2);
    ASSERT_EQ(FloatToHalf(middle), bits % 2 == 0 ? bits : bits + 1) << value;
    ASSERT_EQ(FloatToHalf(std::nextafter(middle, next)), bits + 1) << value;
    ASSERT_EQ(FloatToHalf(std::nextafter(middle, value)), bits) << value;
  }
  EXPECT_EQ(FloatToHalf(65519.0f), 0x7bff);
  EXPECT_EQ(FloatToHalf(65520.0f), 0x7c00);
  EXPECT_EQ(FloatToHalf(-1e30f), 0xfc00);
}

TEST(HalfTest, Bfloat16RoundsToNearestEven) {
  EXPECT_EQ(FloatToBfloat16(1.0f), 0x3f80);
  EXPECT_EQ(FloatToBfloat16(1.00390625f), 0x3f80);  // a tie: to even
  EXPECT_EQ(FloatToBfloat16(1.01171875f), 0x3f82);  // a tie: to even
  EXPECT_EQ(FloatToBfloat16(1.0040f), 0x3f81);
  EXPECT_TRUE(std::isnan(Bfloat16ToFloat(FloatToBfloat16(std::nanf("")))));
}

TEST(DTypeTest, BytesAreCountedWithoutOverflow) {
  EXPECT_EQ(TensorBytes(DType::kF32, {}), 4u);
  EXPECT_EQ(TensorBytes(DType::kF16, {3, 5}), 30u);
  EXPECT_EQ(TensorBytes(DType::kF32, {0, 5}), 0u);
  EXPECT_EQ(TensorBytes(DType::kQ4_K, {2, 512}), 576u);
  EXPECT_FALSE(TensorBytes(DType::kQ4_K, {2, 300}).has_value());
  EXPECT_FALSE(TensorBytes(DType::kF32, {-1}).has_value());
  EXPECT_FALSE(TensorBytes(DType::kF32, {int64_t{1} << 40, int64_t{1} << 40}).has_value());
  EXPECT_FALSE(TensorBytes(DType::kF64, {int64_t{1} << 61}).has_value());
  EXPECT_EQ(TensorBytes(DType::kF64, {0, int64_t{1} << 62, int64_t{1} << 62}), 0u);
}

}  // namespace
}  // namespace shiftadd
