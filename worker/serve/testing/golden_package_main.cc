// Makes what tests/golden/tiny_package holds; see its README.md.
#include <cstdio>
#include <fstream>
#include <iostream>
#include <string>

#include "absl/status/status.h"
#include "services/base/status_macros.h"
#include "worker/model/testing/tiny_llama.h"
#include "worker/serve/testing/golden_package.h"

namespace {

absl::Status Run(const std::string& command, const std::string& path) {
  using shiftadd::testing::GoldenModelOptions;
  if (command == "model") {
    return shiftadd::testing::WriteTinyLlamaDirectory(path, GoldenModelOptions());
  }
  SA_ASSIGN_OR_RETURN(const std::string answers, shiftadd::testing::GoldenAnswers(path));
  std::ofstream out(path + "/answers.json");
  out << answers << "\n";
  return out.flush() ? absl::OkStatus() : absl::InternalError(path + "/answers.json: cannot write");
}

}  // namespace

int main(int argc, char** argv) {
  const std::string command = argc == 3 ? argv[1] : "";
  if (command != "model" && command != "answers") {
    std::cerr << "usage: make_golden_package model DIR | answers PACKAGE_DIR\n";
    return 2;
  }
  const absl::Status status = Run(command, argv[2]);
  if (!status.ok()) std::cerr << status << "\n";
  return status.ok() ? 0 : 1;
}
