// A GGUF file: its header, its tensors, and the model and tokenizer that it may hold.
#include <fstream>

#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/temp_dir.h"
#include "tests/fuzz/tensors.h"
#include "worker/model/model_source.h"
#include "worker/model/tokenizer.h"

namespace {

// Sources are told apart by their names, which files in memory have none of.
void OpenAsModel(const uint8_t* data, size_t size) {
  static const auto& dir = *new shiftadd::fuzz::TempDir("fuzz-gguf");
  const std::string path = dir.path() + "/model.gguf";
  std::ofstream(path, std::ios::binary | std::ios::trunc)
      .write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(size));
  const auto model = shiftadd::ModelSource::Open(path);
  if (model.ok()) {
    shiftadd::Tokenizer::FromJson((*model)->tokenizer_json()).status().IgnoreError();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const shiftadd::fuzz::MemoryFile file(data, size);
  const auto source = shiftadd::OpenGguf(file.path());
  if (!source.ok()) return 0;
  shiftadd::fuzz::ReadTensors(**source);
  OpenAsModel(data, size);
  return 0;
}
