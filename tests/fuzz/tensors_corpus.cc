// Writes the corpora of gguf and safetensors: models of a few kilobytes.
//   make_fuzz_tensors FOLDER
#include <cstdio>
#include <filesystem>
#include <string>

#include "worker/model/testing/tiny_llama.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
    return 2;
  }
  namespace fs = std::filesystem;
  const fs::path dir = argv[1];
  fs::create_directories(dir / "gguf");
  fs::create_directories(dir / "safetensors");
  shiftadd::testing::TinyLlamaOptions options;
  options.hidden = 16;
  options.intermediate = 32;
  options.blocks = 1;
  options.heads = 2;
  options.kv_heads = 1;
  options.vocab = 260;
  if (!shiftadd::testing::WriteTinyLlamaGguf(dir / "gguf/llama", options).ok()) return 1;
  const fs::path model = fs::temp_directory_path() / "fuzz-model";
  if (!shiftadd::testing::WriteTinyLlamaDirectory(model, options).ok()) return 1;
  fs::copy_file(model / "model.safetensors", dir / "safetensors/llama",
                fs::copy_options::overwrite_existing);
  fs::remove_all(model);
  return 0;
}
