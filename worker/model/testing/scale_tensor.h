// Changes a tensor of a model on disk, for tests of numbers at the ends of their range.
#ifndef SHIFTADD_WORKER_MODEL_TESTING_SCALE_TENSOR_H_
#define SHIFTADD_WORKER_MODEL_TESTING_SCALE_TENSOR_H_

#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

namespace shiftadd::testing {

// Multiplies every number of an F32 tensor of a safetensors file. Throws if there is none.
inline void ScaleTensor(const std::string& path, const std::string& name, float factor) {
  std::ifstream in(path, std::ios::binary);
  std::string file((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  uint64_t header;
  std::memcpy(&header, file.substr(0, 8).c_str(), 8);
  const nlohmann::json tensor = nlohmann::json::parse(file.substr(8, header)).at(name);
  if (tensor.at("dtype") != "F32") throw std::invalid_argument(name + " is not F32");
  const auto begin = tensor.at("data_offsets").at(0).get<uint64_t>();
  const auto end = tensor.at("data_offsets").at(1).get<uint64_t>();
  for (uint64_t at = 8 + header + begin; at < 8 + header + end; at += 4) {
    float x;
    std::memcpy(&x, file.data() + at, 4);
    x *= factor;
    std::memcpy(file.data() + at, &x, 4);
  }
  std::ofstream(path, std::ios::binary) << file;
}

}  // namespace shiftadd::testing

#endif  // SHIFTADD_WORKER_MODEL_TESTING_SCALE_TENSOR_H_
