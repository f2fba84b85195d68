#include "worker/export/gguf_header.h"

namespace shiftadd {
namespace {

// Type numbers of the format.
enum ValueType : uint32_t {
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9
};
constexpr uint32_t kTensorF32 = 0, kTensorF16 = 1;

template <typename T>
void Put(T value, std::string* out) {
  out->append(reinterpret_cast<const char*>(&value), sizeof(T));
}

void PutString(absl::string_view text, std::string* out) {
  Put<uint64_t>(text.size(), out);
  out->append(text.data(), text.size());
}

uint64_t Padded(uint64_t size) {
  return (size + kGgufAlignment - 1) / kGgufAlignment * kGgufAlignment;
}

}  // namespace

void GgufHeader::AddKey(absl::string_view key, uint32_t type) {
  PutString(key, &pairs_);
  Put(type, &pairs_);
  ++pair_count_;
}

void GgufHeader::Add(absl::string_view key, absl::string_view value) {
  AddKey(key, kString);
  PutString(value, &pairs_);
}

void GgufHeader::Add(absl::string_view key, uint32_t value) {
  AddKey(key, kUint32);
  Put(value, &pairs_);
}

void GgufHeader::Add(absl::string_view key, float value) {
  AddKey(key, kFloat32);
  Put(value, &pairs_);
}

void GgufHeader::Add(absl::string_view key, bool value) {
  AddKey(key, kBool);
  Put<uint8_t>(value ? 1 : 0, &pairs_);
}

void GgufHeader::Add(absl::string_view key, const std::vector<std::string>& values) {
  AddKey(key, kArray);
  Put<uint32_t>(kString, &pairs_);
  Put<uint64_t>(values.size(), &pairs_);
  for (const std::string& value : values) PutString(value, &pairs_);
}

void GgufHeader::Add(absl::string_view key, const std::vector<int32_t>& values) {
  AddKey(key, kArray);
  Put<uint32_t>(kInt32, &pairs_);
  Put<uint64_t>(values.size(), &pairs_);
  for (const int32_t value : values) Put(value, &pairs_);
}

void GgufHeader::Add(absl::string_view key, const std::vector<float>& values) {
  AddKey(key, kArray);
  Put<uint32_t>(kFloat32, &pairs_);
  Put<uint64_t>(values.size(), &pairs_);
  for (const float value : values) Put(value, &pairs_);
}

void GgufHeader::AddTensor(absl::string_view name, const std::vector<int64_t>& shape, bool half) {
  PutString(name, &tensors_);
  Put(static_cast<uint32_t>(shape.size()), &tensors_);
  uint64_t bytes = half ? 2 : 4;
  for (size_t i = shape.size(); i > 0; --i) {  // innermost first
    Put(static_cast<uint64_t>(shape[i - 1]), &tensors_);
    bytes *= static_cast<uint64_t>(shape[i - 1]);
  }
  Put(half ? kTensorF16 : kTensorF32, &tensors_);
  Put(offset_, &tensors_);
  offset_ += Padded(bytes);
  ++tensor_count_;
}

std::string GgufHeader::Finish() const {
  std::string out = "GGUF";
  Put<uint32_t>(3, &out);
  Put(tensor_count_, &out);
  Put(pair_count_, &out);
  out += pairs_;
  out += tensors_;
  out.resize(Padded(out.size()), '\0');
  return out;
}

}  // namespace shiftadd
