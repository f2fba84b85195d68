#include "absl/strings/string_view.h"
#include "services/base/digest.h"
#include "worker/quantize/layer_quantizer.h"

namespace shiftadd {
namespace {

void AppendLe64(uint64_t value, std::string* out) {
  for (int byte = 0; byte < 8; ++byte) out->push_back(static_cast<char>(value >> (8 * byte)));
}

}  // namespace

std::vector<uint32_t> RotationSigns(uint64_t seed, int64_t k) {
  std::vector<uint32_t> signs((k + 31) / 32, 0);
  for (int64_t i = 0; i < k; ++i) {
    std::string text = "wht128";
    AppendLe64(seed, &text);
    AppendLe64(static_cast<uint64_t>(k), &text);
    AppendLe64(static_cast<uint64_t>(i), &text);
    const uint32_t bit = static_cast<unsigned char>(Sha256Raw(text)[0]) & 1u;
    signs[i / 32] |= bit << (i % 32);
  }
  return signs;
}

}  // namespace shiftadd
