#include <unistd.h>

#include <filesystem>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/tensor/mapped_file.h"
#include "worker/tensor/tensor_source.h"
#include "worker/tensor/testing/gguf_builder.h"

namespace shiftadd {
namespace {

using ::testing::AllOf;
using testing::GgufBuilder;
using ::testing::HasSubstr;

class GgufTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<TensorSource>> Open(const std::string& data) {
    EXPECT_TRUE(WriteFile(path_, data).ok());
    return OpenGguf(path_);
  }
  void ExpectRefused(const std::string& data, const std::string& message) {
    const auto source = Open(data);
    EXPECT_EQ(source.status().code(), absl::StatusCode::kInvalidArgument) << message;
    EXPECT_THAT(std::string(source.status().message()),
                AllOf(HasSubstr(path_), HasSubstr(message)));
  }
  void TearDown() override { std::filesystem::remove(path_); }

  const std::string path_ =
      ::testing::TempDir() + "/gguf_test_" + std::to_string(::getpid()) + ".gguf";
};

template <typename T>
void Patch(std::string* data, size_t at, T value) {
  data->replace(at, sizeof(T), reinterpret_cast<const char*>(&value), sizeof(T));
}

std::string Raw(uint32_t type, uint64_t count, const std::string& rest) {
  return std::string(reinterpret_cast<const char*>(&type), 4) +
         std::string(reinterpret_cast<const char*>(&count), 8) + rest;
}

GgufBuilder Good() {
  GgufBuilder builder;
  builder.AddString("general.architecture", "llama");
  builder.AddTensor("a", 0, {2, 3}, std::string(24, '\0'));
  builder.AddTensor("b", 0, {4}, std::string(16, '\0'));
  return builder;
}

// Where the description of tensor "a" goes on after its name: rank, two dimensions, type, offset.
size_t AfterName(const std::string& data) {
  return data.find(std::string("\x01\0\0\0\0\0\0\0a", 9)) + 9;
}

TEST_F(GgufTest, ReadsEveryKindOfValue) {
  GgufBuilder builder = Good();
  builder.AddU32("u32", 4000000000u);
  builder.AddF32("f32", 0.5f);
  builder.AddBool("bool", true);
  builder.AddStrings("strings", {"x", "", "\xff"});
  builder.AddInts("ints", {-1, 2});
  builder.AddRaw("i64", 11, std::string(8, '\xff'));
  builder.AddRaw("u8", 0, "\x7f");
  builder.AddRaw("nested", 9, Raw(9, 1, Raw(1, 2, "\xff\x02")));
  const auto source = Open(builder.Finish());
  ASSERT_TRUE(source.ok()) << source.status();
  const nlohmann::json& m = (*source)->metadata();
  EXPECT_EQ(m.at("u32"), 4000000000u);
  EXPECT_EQ(m.at("f32"), 0.5);
  EXPECT_EQ(m.at("bool"), true);
  EXPECT_EQ(m.at("strings").size(), 3u);
  EXPECT_EQ(m.at("ints")[0], -1);
  EXPECT_EQ(m.at("i64"), -1);
  EXPECT_EQ(m.at("u8"), 127);
  EXPECT_EQ(m.at("nested")[0][0], -1);
  EXPECT_EQ((*source)->tensors().at("a").shape, (std::vector<int64_t>{2, 3}));
  EXPECT_TRUE(Open(builder.Finish(2)).ok()) << "version 2";
}

TEST_F(GgufTest, WrongPreamble) {
  std::string data = Good().Finish();
  data[0] = 'X';
  ExpectRefused(data, "expected \"GGUF\"");
  ExpectRefused("", "needs 4 bytes");
  ExpectRefused(Good().Finish(1), "version 1, expected 2 or 3");
  ExpectRefused(Good().Finish(4), "version 4");
  ExpectRefused(Good().Finish(0x03000000u), "big-endian");
  data = Good().Finish();
  Patch<uint64_t>(&data, 8, uint64_t{1} << 60);
  ExpectRefused(data, "more than the file can hold");
  data = Good().Finish();
  Patch<uint64_t>(&data, 16, ~uint64_t{0});
  ExpectRefused(data, "more than the file can hold");
}

TEST_F(GgufTest, WrongMetadata) {
  const auto with = [](uint32_t type, const std::string& value) {
    GgufBuilder builder = Good();
    builder.AddRaw("key", type, value);
    return builder.Finish();
  };
  ExpectRefused(with(13, "1234"), "unknown type 13");
  ExpectRefused(with(7, "\x02"), "expected 0 or 1");
  ExpectRefused(with(9, Raw(99, 1, "")), "unknown type 99");
  ExpectRefused(with(9, Raw(0, ~uint64_t{0}, "")), "more than the file");
  std::string deep;
  for (int i = 0; i < 1000; ++i) deep += Raw(9, 1, "");
  ExpectRefused(with(9, deep), "nested deeper");
  ExpectRefused(with(8, std::string(8, '\xff')), "left in the file");
  GgufBuilder builder = Good();
  builder.AddU32("general.architecture", 1);
  ExpectRefused(builder.Finish(), "stands twice");
  for (uint32_t alignment : {0u, 3u, 1u << 20}) {
    GgufBuilder aligned = Good();
    aligned.AddU32("general.alignment", alignment);
    ExpectRefused(aligned.Finish(), "power of two");
  }
}

TEST_F(GgufTest, WrongTensors) {
  const std::string good = Good().Finish();
  const size_t at = AfterName(good);
  std::string data = good;
  Patch<uint32_t>(&data, at, 5);
  ExpectRefused(data, "has 5 dimensions");
  data = good;
  Patch<uint64_t>(&data, at + 4, 0);
  ExpectRefused(data, "dimension 0 is 0");
  data = good;
  Patch<uint64_t>(&data, at + 4, uint64_t{1} << 61);
  ExpectRefused(data, "too large");
  data = good;
  Patch<uint32_t>(&data, at + 20, 10);
  ExpectRefused(data, "ggml type 10");
  data = good;
  Patch<uint32_t>(&data, at + 20, 12);
  ExpectRefused(data, "does not fill blocks of 256");
  data = good;
  Patch<uint64_t>(&data, at + 24, 32);
  ExpectRefused(data, "overlap");
  data = good;
  Patch<uint64_t>(&data, at + 24, 8);
  ExpectRefused(data, "not a multiple");
  data = good;
  Patch<uint64_t>(&data, at + 24, ~uint64_t{0} - 31);
  ExpectRefused(data, "past the end");
  GgufBuilder twice = Good();
  twice.AddTensor("a", 0, {1}, std::string(4, '\0'));
  ExpectRefused(twice.Finish(), "stands twice");
  GgufBuilder name;
  name.AddTensor("\xff", 0, {1}, std::string(4, '\0'));
  ExpectRefused(name.Finish(), "not UTF-8");
}

TEST_F(GgufTest, EveryTruncationIsRefused) {
  const std::string good = Good().Finish();
  // The last tensor's 16 bytes are followed by 16 of padding, which may be missing.
  for (size_t size = 0; size < good.size() - 16; ++size) {
    EXPECT_FALSE(Open(good.substr(0, size)).ok()) << size;
  }
  EXPECT_TRUE(Open(good.substr(0, good.size() - 16)).ok());
}

TEST_F(GgufTest, NoSuchFile) {
  EXPECT_EQ(OpenGguf(path_ + ".none").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(OpenGguf(::testing::TempDir()).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace shiftadd
