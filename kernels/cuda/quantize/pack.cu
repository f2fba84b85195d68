// Codes as packages store them: bit planes with positive scales in fp16, largest first.
#include "kernels/cuda/quantize/checks.h"
#include "kernels/cuda/quantize/elementwise.h"
#include "kernels/packed_matrix.h"

namespace shiftadd::kernels::quantize {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

struct PackWork {
  WidthState state;
  uint32_t* planes = nullptr;
  uint16_t* scale = nullptr;
  uint16_t* zeta = nullptr;
  float* what = nullptr;
};

__device__ __forceinline__ float Magnitude(float x) { return x < 0.0f ? -x : x; }

// How one row's group is stored.
struct StoredGroup {
  int flip = 0;           // bits of the code to turn over
  int order[8] = {};      // stored plane i is the code's plane order[i]
  __half scale[8] = {};   // free: of stored plane i; shift: the first alone
  __half zeta = {};       // with an offset
  float plane[8] = {};    // |alpha| of stored plane i, from the stored scales
  float constant = 0.0f;  // zeta, or less the sum of `plane`

  __device__ StoredGroup(const WidthState& s, int64_t row, int64_t group) {
    const int64_t at = row * s.groups + group;
    float low = 0.0f;  // the sum of the scales before they are rounded
    if (s.free_scales) {
      const float* alpha = s.scale + at * s.q;
      for (int i = 0; i < s.q; ++i) {  // stable: equal scales keep their order
        int to = i;
        while (to > 0 && Magnitude(alpha[order[to - 1]]) < Magnitude(alpha[i])) {
          order[to] = order[to - 1];
          --to;
        }
        order[to] = i;
        if (alpha[i] < 0.0f) flip |= 1 << i;
      }
      for (int i = 0; i < s.q; ++i) {
        const float value = Magnitude(alpha[order[i]]);
        low += value;
        scale[i] = __float2half_rn(value);
        plane[i] = __half2float(scale[i]);
      }
    } else {
      const float value = Magnitude(s.scale[at]);
      const float* units = s.units.set[s.set[at] & 7];
      if (s.scale[at] < 0.0f) flip = (1 << s.q) - 1;
      scale[0] = __float2half_rn(value);
      for (int i = 0; i < s.q; ++i) {
        order[i] = i;
        low += value * units[i];
        plane[i] = __half2float(scale[0]) * units[i];
      }
    }
    if (s.has_offset) {
      zeta = __float2half_rn(s.offset[at] - low);
      constant = __half2float(zeta);
      return;
    }
    for (int i = 0; i < s.q; ++i) constant -= plane[i];
  }
};

// A warp takes 32 inputs of a row, which are of one group.
__global__ void PackKernel(const __grid_constant__ PackWork work, int64_t words) {
  const WidthState& s = work.state;
  const int64_t word = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (word >= s.n * words) return;
  const int64_t row = word / words, first = word % words * 32, group = first / s.group;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const StoredGroup stored(s, row, group);
  const bool inside = first + lane < s.k;
  const int code = inside ? s.codes[row * s.k + first + lane] ^ stored.flip : 0;
  float what = stored.constant;
  for (int i = 0; i < s.q; ++i) {
    const bool bit = ((code >> stored.order[i]) & 1) != 0;
    const unsigned bits = __ballot_sync(0xffffffffu, bit);
    if (lane == 0) work.planes[(i * s.n + row) * words + first / 32] = bits;
    if (bit) what += 2.0f * stored.plane[i];
  }
  if (work.what != nullptr && inside) work.what[row * s.k + first + lane] = what;
  if (first % s.group != 0 || lane != 0) return;
  const int64_t at = row * s.groups + group;
  const int scales = s.free_scales ? s.q : 1;
  __half* const scale = reinterpret_cast<__half*>(work.scale);
  for (int i = 0; i < scales; ++i) scale[at * scales + i] = stored.scale[i];
  if (s.has_offset) reinterpret_cast<__half*>(work.zeta)[at] = stored.zeta;
}

}  // namespace
}  // namespace shiftadd::kernels::quantize

namespace shiftadd::kernels {

CudaStatus CudaPackLayer(const CudaQuantizeRecipe& recipe, int64_t n, int64_t k,
                         const CudaLayerCodes& codes, const CudaPackedCodes& out,
                         CudaStream stream) {
  using quantize::CheckPointer;
  using quantize::CheckRange;
  CudaStatus status = quantize::CheckRecipe(recipe);
  if (status.ok()) status = quantize::CheckDevice();
  if (status.ok()) status = CheckRange(codes.q, 1, 8, "codes.q");
  if (status.ok()) status = CheckRange(n, 1, quantize::kMaxRows, "n");
  if (status.ok()) status = CheckRange(k, 1, quantize::kMaxInputs, "k");
  if (status.ok()) status = CheckPointer(codes.codes, 1, "codes.codes");
  if (status.ok()) status = CheckPointer(codes.scale, 4, "codes.scale");
  if (status.ok() && !recipe.free_scales) status = CheckPointer(codes.set, 1, "codes.set");
  if (status.ok() && recipe.offset) status = CheckPointer(codes.offset, 4, "codes.offset");
  if (status.ok()) status = CheckPointer(out.planes, 4, "out.planes");
  if (status.ok()) status = CheckPointer(out.scale, 2, "out.scale");
  if (status.ok() && recipe.offset) status = CheckPointer(out.zeta, 2, "out.zeta");
  if (status.ok() && out.what != nullptr) status = CheckPointer(out.what, 4, "out.what");
  if (!status.ok()) return status;
  quantize::PackWork work;
  quantize::WidthState& s = work.state;
  s.q = codes.q;
  s.n = n;
  s.k = k;
  s.group = recipe.group;
  s.groups = (k + recipe.group - 1) / recipe.group;
  s.free_scales = recipe.free_scales;
  s.has_offset = recipe.offset;
  s.codes = codes.codes;
  s.scale = codes.scale;
  s.set = codes.set;
  s.offset = codes.offset;
  s.units = quantize::MakePlaneUnits(s.q);
  work.planes = out.planes;
  work.scale = out.scale;
  work.zeta = out.zeta;
  work.what = out.what;
  const int64_t words = (k + 31) / 32;
  const int64_t blocks = (n * words + quantize::kWarps - 1) / quantize::kWarps;
  return quantize::ToStatus(
      quantize::Launch(quantize::PackKernel, dim3(static_cast<unsigned>(blocks)),
                       quantize::kThreads, 0, static_cast<cudaStream_t>(stream), work, words),
      "packing");
}

}  // namespace shiftadd::kernels
