// A safetensors file, mapped and in memory.
#include "absl/strings/string_view.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/tensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view bytes(reinterpret_cast<const char*>(data), size);
  const auto source = shiftadd::ParseSafetensors(bytes, "input");
  if (source.ok()) shiftadd::fuzz::ReadTensors(**source);
  const shiftadd::fuzz::MemoryFile file(data, size);
  const auto mapped = shiftadd::OpenSafetensors({file.path()}, "/proc/self/fd");
  shiftadd::fuzz::Require(mapped.ok() == source.ok(), "both ways of reading agree");
  return 0;
}
