// A folder that goes at the end of the process.
#ifndef SHIFTADD_TESTS_FUZZ_TEMP_DIR_H_
#define SHIFTADD_TESTS_FUZZ_TEMP_DIR_H_

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>

namespace shiftadd::fuzz {

// In memory where that is possible: a fuzzer writes a lot. Removed at a normal exit.
class TempDir {
 public:
  explicit TempDir(const std::string& name)
      : path_((std::filesystem::exists("/dev/shm") ? "/dev/shm/" : "/tmp/") + name + "-" +
              std::to_string(getpid())) {
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
    static std::string* to_remove = nullptr;
    to_remove = new std::string(path_);
    std::atexit([] {
      std::error_code ignored;
      std::filesystem::remove_all(*to_remove, ignored);
    });
  }
  const std::string& path() const { return path_; }

 private:
  const std::string path_;
};

}  // namespace shiftadd::fuzz

#endif  // SHIFTADD_TESTS_FUZZ_TEMP_DIR_H_
