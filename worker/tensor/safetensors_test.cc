#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/tensor/mapped_file.h"
#include "worker/tensor/tensor_source.h"

namespace shiftadd {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string Folder(const std::string& name) {
  const std::string path =
      ::testing::TempDir() + "/safetensors_test_" + std::to_string(::getpid()) + "_" + name;
  std::filesystem::remove_all(path);
  std::filesystem::create_directories(path);
  return path;
}

// A file with this header and `data_bytes` zero bytes after it.
std::string WithHeader(const std::string& header, size_t data_bytes) {
  const uint64_t size = header.size();
  std::string out(reinterpret_cast<const char*>(&size), 8);
  return out + header + std::string(data_bytes, '\0');
}

std::string Bytes(const std::vector<float>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * 4);
}

TEST(SafetensorsTest, WhatIsWrittenIsRead) {
  const std::string a = Bytes({1, 2, 3, 4, 5, 6}), b = "abc",
                    c = std::string("\x00\x3c\x00\xc0", 4);
  const std::vector<TensorToWrite> tensors = {{"z", DType::kF32, {2, 3}, a},
                                              {"b", DType::kU8, {3}, b},
                                              {"m", DType::kF16, {2, 1}, c},
                                              {"none", DType::kF32, {0, 7}, ""}};
  const auto file = WriteSafetensors(tensors, {{"k", "v"}});
  ASSERT_TRUE(file.ok()) << file.status();
  const auto other =
      WriteSafetensors({tensors[2], tensors[3], tensors[0], tensors[1]}, {{"k", "v"}});
  EXPECT_EQ(*file, *other) << "order must not matter";
  uint64_t header;
  std::memcpy(&header, file->data(), 8);
  EXPECT_EQ((header + 8) % 64, 0u);

  const auto source = ParseSafetensors(*file, "memory");
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ((*source)->tensors().size(), 4u);
  EXPECT_EQ((*source)->metadata().at("k"), "v");
  EXPECT_EQ((*source)->tensors().at("z").shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(*(*source)->Bytes("b"), "abc");
  float row[3];
  ASSERT_TRUE((*source)->ReadRows("z", 1, 2, row).ok());
  EXPECT_EQ(row[2], 6.0f);
  ASSERT_TRUE((*source)->ReadRows("m", 0, 2, row).ok());
  EXPECT_EQ(row[1], -2.0f);
  EXPECT_EQ((*source)->Bytes("x").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ((*source)->ReadRows("z", 1, 3, row).code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ((*source)->ReadRows("z", -1, 1, row).code(), absl::StatusCode::kOutOfRange);
}

TEST(SafetensorsTest, NanAndInfinityAreNamed) {
  const std::string a = Bytes({1, 2, 3, 4, std::nanf(""), 6});
  const std::string b = Bytes({-std::numeric_limits<float>::infinity()});
  const auto file =
      WriteSafetensors({{"weight", DType::kF32, {2, 3}, a}, {"scalar", DType::kF32, {}, b}}, {});
  const auto source = ParseSafetensors(*file, "memory");
  ASSERT_TRUE(source.ok());
  float out[6];
  EXPECT_TRUE((*source)->ReadRows("weight", 0, 1, out).ok());
  const absl::Status nan = (*source)->ReadRows("weight", 1, 2, out);
  EXPECT_EQ(nan.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(
      std::string(nan.message()),
      AllOf(HasSubstr("'weight'"), HasSubstr("element 4 (row 1, column 1)"), HasSubstr("NaN")));
  EXPECT_THAT(std::string((*source)->ReadRows("scalar", 0, 1, out).message()),
              AllOf(HasSubstr("'scalar'"), HasSubstr("infinite")));
}

TEST(SafetensorsTest, TheWriterRefuses) {
  const std::string a(8, '\0');
  EXPECT_FALSE(WriteSafetensors({{"a", DType::kF32, {3}, a}}, {}).ok()) << "size";
  EXPECT_FALSE(WriteSafetensors({{"a", DType::kF32, {2}, a}, {"a", DType::kF32, {2}, a}}, {}).ok());
  EXPECT_FALSE(WriteSafetensors({{"a", DType::kQ4_0, {32}, a}}, {}).ok());
  EXPECT_FALSE(WriteSafetensors({{"__metadata__", DType::kF32, {2}, a}}, {}).ok());
  EXPECT_FALSE(WriteSafetensors({{"\xff", DType::kF32, {2}, a}}, {}).ok());
  EXPECT_FALSE(WriteSafetensors({{"a", DType::kF32, {2}, a}}, {{"k", "\xff"}}).ok());
  EXPECT_TRUE(WriteSafetensors({}, {}).ok());
}

struct BadFile {
  const char* what;
  std::string data;
  const char* message;
};

TEST(SafetensorsTest, BadFilesAreRefused) {
  const auto one = [](const std::string& entry, size_t bytes) {
    return WithHeader("{\"a\":" + entry + "}", bytes);
  };
  const std::string good = R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]})";
  ASSERT_TRUE(ParseSafetensors(one(good, 8), "f").ok());
  const BadFile files[] = {
      {"empty", "", "at least 8"},
      {"short", "abc", "at least 8"},
      {"length past the end", std::string("\xff\xff\0\0\0\0\0\0", 8) + "{}", "past the end"},
      {"huge length", std::string(8, '\xff') + "{}", "past the end"},
      {"a GGUF file", "GGUF" + std::string(100, '\x01'), "past the end"},
      {"no JSON", WithHeader("{\"a\":", 0), "is not JSON"},
      {"a list", WithHeader("[]", 0), "expected an object"},
      {"deep", WithHeader(std::string(5000, '[') + std::string(5000, ']'), 0), "deeper"},
      {"bad UTF-8", WithHeader("{\"\xff\":1}", 0), "is not JSON"},
      {"twice", WithHeader("{\"a\":" + good + ",\"a\":" + good + "}", 8), "stands twice"},
      {"no object", one("7", 8), "not an object"},
      {"unknown field", one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1})", 8), "'x'"},
      {"no dtype", one(R"({"shape":[2],"data_offsets":[0,8]})", 8), "'dtype'"},
      {"dtype", one(R"({"dtype":"F8_E4M3","shape":[8],"data_offsets":[0,8]})", 8), "F8_E4M3"},
      {"quantized", one(R"({"dtype":"Q4_0","shape":[32],"data_offsets":[0,18]})", 18), "Q4_0"},
      {"no shape", one(R"({"dtype":"F32","data_offsets":[0,8]})", 8), "'shape'"},
      {"negative", one(R"({"dtype":"F32","shape":[-2],"data_offsets":[0,8]})", 8), "shape [-2]"},
      {"fraction", one(R"({"dtype":"F32","shape":[2.5],"data_offsets":[0,8]})", 8), "shape"},
      {"overflow",
       one(R"({"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,8]})", 8),
       "too large"},
      {"absurd", one(R"({"dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,8]})", 8),
       "shape"},
      {"many dimensions",
       one(R"({"dtype":"F32","shape":[1,1,1,1,1,1,1,1,2],"data_offsets":[0,8]})", 8),
       "9 dimensions"},
      {"no offsets", one(R"({"dtype":"F32","shape":[2]})", 8), "'data_offsets'"},
      {"three offsets", one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8,9]})", 8),
       "'data_offsets'"},
      {"reversed", one(R"({"dtype":"F32","shape":[2],"data_offsets":[8,0]})", 8), "do not lie"},
      {"past the end", one(good, 7), "do not lie"},
      {"size", one(R"({"dtype":"F32","shape":[3],"data_offsets":[0,8]})", 8), "expected 12"},
      {"rest", one(good, 9), "belong to no tensor"},
      {"gap", one(R"({"dtype":"F32","shape":[2],"data_offsets":[4,12]})", 12), "expected 0"},
      {"overlap",
       WithHeader("{\"a\":" + good + R"(,"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
                  12),
       "overlap"},
      {"metadata", WithHeader(R"({"__metadata__":{"a":1}})", 0), "__metadata__"},
  };
  for (const BadFile& file : files) {
    const auto source = ParseSafetensors(file.data, "the-file");
    EXPECT_EQ(source.status().code(), absl::StatusCode::kInvalidArgument) << file.what;
    EXPECT_THAT(std::string(source.status().message()),
                AllOf(HasSubstr("the-file"), HasSubstr(file.message)))
        << file.what;
  }
}

TEST(SafetensorsTest, FilesAreOneSource) {
  const std::string folder = Folder("shards");
  const std::string a = Bytes({1, 2}), b = Bytes({3});
  ASSERT_TRUE(WriteFile(folder + "/1.safetensors",
                        *WriteSafetensors({{"a", DType::kF32, {2}, a}}, {{"format", "pt"}}))
                  .ok());
  ASSERT_TRUE(WriteFile(folder + "/2.safetensors",
                        *WriteSafetensors({{"b", DType::kF32, {1}, b}}, {{"format", "pt"}}))
                  .ok());
  const auto source =
      OpenSafetensors({folder + "/2.safetensors", folder + "/1.safetensors"}, folder);
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ((*source)->files().size(), 2u);
  EXPECT_EQ((*source)->tensors().at("b").file, "2.safetensors");

  const auto twice =
      OpenSafetensors({folder + "/1.safetensors", folder + "/1.safetensors"}, folder);
  EXPECT_THAT(std::string(twice.status().message()), HasSubstr("stands twice"));
  EXPECT_EQ(OpenSafetensors({folder + "/3.safetensors"}, folder).status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(OpenSafetensors({folder}, folder).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace shiftadd
