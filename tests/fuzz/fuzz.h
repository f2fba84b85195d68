// What the fuzz targets share. Each target is one file that defines
//   extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size)
// for libFuzzer (tests/deep.sh libfuzzer) and for corpus_main.cc, which runs the committed corpus.
#ifndef SHIFTADD_TESTS_FUZZ_FUZZ_H_
#define SHIFTADD_TESTS_FUZZ_FUZZ_H_

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace shiftadd::fuzz {

// Ends the process, so that a fuzzer keeps the input.
inline void Require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "fuzz: expected that %s\n", what);
  std::abort();
}

// A file with these bytes and nothing else, in memory; it goes with the object.
class MemoryFile {
 public:
  MemoryFile(const uint8_t* data, size_t size);
  ~MemoryFile();
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  const std::string& path() const { return path_; }

 private:
  int fd_;
  std::string path_;
};

}  // namespace shiftadd::fuzz

#endif  // SHIFTADD_TESTS_FUZZ_FUZZ_H_
