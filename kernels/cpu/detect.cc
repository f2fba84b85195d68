#include <cstdlib>
#include <cstring>

#include "kernels/cpu_linear.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace shiftadd::kernels {
namespace {

#if defined(__x86_64__)

// What the operating system saves on a context switch (XCR0): 0 where it cannot be asked.
uint64_t SavedState() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c & bit_OSXSAVE) == 0) return 0;
  uint32_t low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t{high} << 32) | low;
}

Isa DetectHardware() {
  constexpr uint64_t kYmm = 0x6, kZmm = 0xe6;
  unsigned a = 0, b = 0, c = 0, d = 0;
  const uint64_t saved = SavedState();
  if ((saved & kYmm) != kYmm) return Isa::kPortable;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0) return Isa::kPortable;
  const bool has_f16c = (c & bit_F16C) != 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return Isa::kPortable;
  if (!has_f16c || (b & bit_AVX2) == 0) return Isa::kPortable;
  const unsigned need_b = bit_AVX512F | bit_AVX512BW | bit_AVX512VL | bit_AVX512DQ;
  const unsigned need_c = bit_AVX512VBMI | bit_AVX512VNNI;
  if ((saved & kZmm) == kZmm && (b & need_b) == need_b && (c & need_c) == need_c) {
    return Isa::kAvx512;
  }
  return Isa::kAvx2;
}

#else

Isa DetectHardware() { return Isa::kPortable; }

#endif

Isa Lowered(Isa hardware) {
  const char* wanted = std::getenv("SHIFTADD_ISA");
  if (wanted == nullptr) return hardware;
  for (const Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512}) {
    if (std::strcmp(wanted, IsaName(isa)) == 0) return isa < hardware ? isa : hardware;
  }
  return hardware;
}

}  // namespace

Isa DetectIsa() {
  static const Isa chosen = Lowered(DetectHardware());
  return chosen;
}

const char* IsaName(Isa isa) {
  switch (isa) {
    case Isa::kPortable:
      return "portable";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
  }
  return "unknown";
}

}  // namespace shiftadd::kernels
