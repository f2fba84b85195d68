// Reads NumPy's .npz files (zip of .npy, stored or deflated), as far as the tests need it:
// little-endian float64, int64 and uint8 arrays.
#ifndef SHIFTADD_WORKER_QUANTIZE_TESTING_NPZ_H_
#define SHIFTADD_WORKER_QUANTIZE_TESTING_NPZ_H_

#include <zlib.h>

#include <cstdint>
#include <cstring>
#include <fstream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace shiftadd::quantize::testing {

struct NpyArray {
  std::vector<int64_t> shape;
  std::vector<double> data;  // row-major
};

template <typename T>
T LittleEndian(const std::string& bytes, size_t at) {
  T value;
  std::memcpy(&value, bytes.substr(at, sizeof(T)).data(), sizeof(T));
  return value;
}

inline std::string Inflate(const std::string& packed, size_t size) {
  std::string out(size, '\0');
  z_stream stream = {};
  if (inflateInit2(&stream, -MAX_WBITS) != Z_OK) throw std::runtime_error("inflateInit2");
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(packed.data()));
  stream.avail_in = packed.size();
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = out.size();
  const int code = inflate(&stream, Z_FINISH);
  inflateEnd(&stream);
  if (code != Z_STREAM_END) throw std::runtime_error("inflate");
  return out;
}

inline NpyArray ParseNpy(const std::string& file) {
  const size_t header = 10 + LittleEndian<uint16_t>(file, 8);
  const std::string text = file.substr(10, header - 10);
  const std::string type = text.substr(text.find("'descr': '") + 10, 3);
  if (text.find("'fortran_order': False") == std::string::npos) throw std::runtime_error("order");
  NpyArray out;
  std::istringstream shape(text.substr(text.find("'shape': (") + 10));
  int64_t dim = 0, count = 1;
  char comma;
  while (shape >> dim) {
    out.shape.push_back(dim);
    count *= dim;
    shape >> comma;
  }
  for (int64_t i = 0; i < count; ++i) {
    if (type == "<f8")
      out.data.push_back(LittleEndian<double>(file, header + 8 * i));
    else if (type == "<i8")
      out.data.push_back(static_cast<double>(LittleEndian<int64_t>(file, header + 8 * i)));
    else if (type == "|u1")
      out.data.push_back(static_cast<unsigned char>(file.at(header + i)));
    else
      throw std::runtime_error("type " + type);
  }
  return out;
}

// The arrays named in `names`. Throws std::exception on a file that is not as expected.
inline std::map<std::string, NpyArray> ReadNpz(const std::string& path,
                                               const std::vector<std::string>& names) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream buffer;
  buffer << in.rdbuf();
  const std::string zip = buffer.str();
  const size_t end = zip.rfind("PK\x05\x06");
  if (end == std::string::npos) throw std::runtime_error("no zip directory in " + path);
  size_t at = LittleEndian<uint32_t>(zip, end + 16);
  std::map<std::string, NpyArray> out;
  for (int entry = LittleEndian<uint16_t>(zip, end + 10); entry > 0; --entry) {
    const uint16_t method = LittleEndian<uint16_t>(zip, at + 10);
    const uint32_t packed = LittleEndian<uint32_t>(zip, at + 20),
                   size = LittleEndian<uint32_t>(zip, at + 24);
    const uint16_t name_size = LittleEndian<uint16_t>(zip, at + 28);
    const uint32_t local = LittleEndian<uint32_t>(zip, at + 42);
    const std::string name = zip.substr(at + 46, name_size - 4);  // without ".npy"
    const size_t data = local + 30 + LittleEndian<uint16_t>(zip, local + 26) +
                        LittleEndian<uint16_t>(zip, local + 28);
    for (const std::string& wanted : names) {
      if (wanted != name) continue;
      const std::string bytes = zip.substr(data, packed);
      out[name] = ParseNpy(method == 8 ? Inflate(bytes, size) : bytes);
    }
    at += 46 + name_size + LittleEndian<uint16_t>(zip, at + 30) +
          LittleEndian<uint16_t>(zip, at + 32);
  }
  for (const std::string& wanted : names) {
    if (out.count(wanted) == 0) throw std::runtime_error(path + " has no array " + wanted);
  }
  return out;
}

}  // namespace shiftadd::quantize::testing

#endif  // SHIFTADD_WORKER_QUANTIZE_TESTING_NPZ_H_
