// Between one byte a weight and the packed form of packed_matrix.h. Exact, no allocation,
// thread-safe on disjoint outputs.
#ifndef SHIFTADD_KERNELS_PACKING_H_
#define SHIFTADD_KERNELS_PACKING_H_

#include <cstdint>

namespace shiftadd::kernels {

// codes [n, k]: bit i of a code is plane i of that weight (1 means +1), bits >= q are ignored.
// planes [q, n, ceil(k/32)], bit k%32 of a word, LSB first; pad bits become 0. 1 <= q <= 8.
void PackPlanes(const uint8_t* codes, int64_t n, int64_t k, int q, uint32_t* planes);

// The inverse; pad bits are ignored, bits >= q of the codes are 0.
void UnpackPlanes(const uint32_t* planes, int64_t n, int64_t k, int q, uint8_t* codes);

// index [n, g], each 0..15, to out [n, ceil(g/2)]: two a byte, low nibble first; an odd g pads with
// 0.
void PackExponents(const uint8_t* index, int64_t n, int64_t g, uint8_t* out);

// The inverse.
void UnpackExponents(const uint8_t* packed, int64_t n, int64_t g, uint8_t* index);

}  // namespace shiftadd::kernels

#endif  // SHIFTADD_KERNELS_PACKING_H_
