#include "worker/tensor/testing/gguf_builder.h"

namespace shiftadd::testing {
namespace {

constexpr size_t kAlignment = 32;

template <typename T>
void Append(T value, std::string* out) {
  out->append(reinterpret_cast<const char*>(&value), sizeof(T));
}

void AppendString(absl::string_view value, std::string* out) {
  Append<uint64_t>(value.size(), out);
  out->append(value.data(), value.size());
}

void Pad(std::string* out) {
  out->resize((out->size() + kAlignment - 1) / kAlignment * kAlignment, '\0');
}

template <typename T>
std::string BytesOf(T value) {
  std::string out;
  Append(value, &out);
  return out;
}

}  // namespace

void GgufBuilder::AddRaw(const std::string& key, uint32_t type, absl::string_view value) {
  AppendString(key, &pairs_);
  Append(type, &pairs_);
  pairs_.append(value.data(), value.size());
  ++pair_count_;
}

void GgufBuilder::AddString(const std::string& key, absl::string_view value) {
  std::string bytes;
  AppendString(value, &bytes);
  AddRaw(key, 8, bytes);
}

void GgufBuilder::AddU32(const std::string& key, uint32_t value) { AddRaw(key, 4, BytesOf(value)); }
void GgufBuilder::AddF32(const std::string& key, float value) { AddRaw(key, 6, BytesOf(value)); }
void GgufBuilder::AddBool(const std::string& key, bool value) {
  AddRaw(key, 7, BytesOf<uint8_t>(value ? 1 : 0));
}

void GgufBuilder::AddStrings(const std::string& key, const std::vector<std::string>& values) {
  std::string bytes = BytesOf<uint32_t>(8);
  Append<uint64_t>(values.size(), &bytes);
  for (const std::string& value : values) AppendString(value, &bytes);
  AddRaw(key, 9, bytes);
}

void GgufBuilder::AddInts(const std::string& key, const std::vector<int32_t>& values) {
  std::string bytes = BytesOf<uint32_t>(5);
  Append<uint64_t>(values.size(), &bytes);
  for (int32_t value : values) Append(value, &bytes);
  AddRaw(key, 9, bytes);
}

void GgufBuilder::AddTensor(const std::string& name, uint32_t type,
                            const std::vector<int64_t>& shape, std::string data) {
  tensors_.push_back({name, type, shape, std::move(data)});
}

std::string GgufBuilder::Finish(uint32_t version) const {
  std::string out = "GGUF";
  Append(version, &out);
  Append<uint64_t>(tensors_.size(), &out);
  Append<uint64_t>(pair_count_, &out);
  out += pairs_;
  uint64_t offset = 0;
  for (const Tensor& t : tensors_) {
    AppendString(t.name, &out);
    Append(static_cast<uint32_t>(t.shape.size()), &out);
    for (size_t i = t.shape.size(); i > 0; --i) {
      Append(static_cast<uint64_t>(t.shape[i - 1]), &out);
    }
    Append(t.type, &out);
    Append(offset, &out);
    offset += (t.data.size() + kAlignment - 1) / kAlignment * kAlignment;
  }
  Pad(&out);
  for (const Tensor& t : tensors_) {
    out += t.data;
    Pad(&out);
  }
  return out;
}

}  // namespace shiftadd::testing
