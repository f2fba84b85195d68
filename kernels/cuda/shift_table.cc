#include "kernels/cuda/shift_table.h"

#include <algorithm>
#include <cmath>

namespace shiftadd::kernels::cuda {
namespace {

int LowestExponent(const ExponentTable& table) {
  int lowest = table.exponents[0][0];
  for (int s = 0; s < table.count; ++s) {
    lowest = std::min<int>(lowest, table.exponents[s][table.q - 1]);  // sets descend
  }
  return lowest;
}

void SetByte(ShiftSets* sets, int byte, int value) {
  sets->words[byte / 4] |= (static_cast<uint32_t>(value) & 0xffu) << (8 * (byte % 4));
}

// What planes [first, last) of a code contribute: sum of 2 p m with zeta, of (2p - 1) m without.
int CodeValue(const int* integers, int first, int last, int code, bool zeta) {
  int value = 0;
  for (int i = first; i < last; ++i) {
    const int p = (code >> (i - first)) & 1;
    value += integers[i] * (zeta ? 2 * p : 2 * p - 1);
  }
  return value;
}

}  // namespace

std::optional<ShiftTable> MakeShiftTable(const ExponentTable& table, bool zeta) {
  const int q = table.q;
  if (q < 2 || q > 4 || table.count > kMaxTiledSets) return std::nullopt;
  const int lowest = LowestExponent(table);
  ShiftTable out;
  out.unit = std::ldexp(1.0f, lowest);
  for (int s = 0; s < table.count; ++s) {
    int integers[4] = {};
    int sum = 0;
    for (int i = 0; i < q; ++i) {
      const int shift = table.exponents[s][i] - lowest;
      if (shift > 6) return std::nullopt;
      integers[i] = 1 << shift;
      sum += integers[i];
      SetByte(&out.binary, 8 * i + s, 2 * integers[i]);
    }
    if (sum > kMaxShiftSum) return std::nullopt;
    SetByte(&out.binary, 32 + s, sum);
    const int first_planes = q == 4 ? 2 : q;
    for (int code = 0; code < 1 << first_planes; ++code) {
      SetByte(&out.integer, 8 * s + code, CodeValue(integers, 0, first_planes, code, zeta));
    }
    for (int code = 0; q == 4 && code < 4; ++code) {
      SetByte(&out.integer, 8 * s + 4 + code, CodeValue(integers, 2, 4, code, zeta));
    }
  }
  return out;
}

}  // namespace shiftadd::kernels::cuda
