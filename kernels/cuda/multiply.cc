#include <algorithm>
#include <vector>

#include "kernels/cuda/activations.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/linear.h"

namespace shiftadd::kernels {
namespace cuda {
namespace {

// With 8 warps a CTA four CTAs fit an SM, with 16 two: what is better depends on how many tiles
// there are for an SM's slots and how many units for a tile's warps (measured on an H100).
constexpr double kManyTilesPerSm = 3.8;
constexpr int kShortTileUnits = 32;

int SmCount() {
  int device = 0, count = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) != cudaSuccess) {
    return 132;
  }
  return count;
}

struct Member {
  const PackedLinear* w;
  const CudaProduct* product;
};

bool SameChunks(const PackedActivations& x, const DeviceMatrix& w) {
  if (x.view().slots == 1 && w.slots == 1) return true;
  return x.group() == w.group;
}

CudaStatus CheckProduct(const PackedActivations& x, const CudaProduct& product, int index) {
  const std::string name = "products[" + std::to_string(index) + "]";
  if (product.w == nullptr) return InvalidArgument(name + ".w is null");
  const auto& w = static_cast<const PackedLinear&>(*product.w);
  if (w.k() != x.k()) {
    return InvalidArgument(name + ".w has k " + std::to_string(w.k()) + ", the activations " +
                           std::to_string(x.k()));
  }
  if (!SameChunks(x, w.view())) {
    return InvalidArgument(name + ".w has groups of " + std::to_string(w.group()) +
                           ", the activations were prepared for " + std::to_string(x.group()));
  }
  if (w.signs_hash() != x.signs_hash()) {
    return InvalidArgument(name + ".w is rotated with other signs than the activations");
  }
  SHIFTADD_CUDA_RETURN_IF_ERROR(
      CheckRange((name + ".ldy").c_str(), product.ldy, w.n(), INT64_MAX / x.m()));
  return CheckDevicePointer(product.y, sizeof(float), (name + ".y").c_str());
}

PartOutput OutputOf(const Member& member) {
  const DeviceMatrix& w = member.w->view();
  PartOutput out;
  out.y = member.product->y;
  out.ldy = member.product->ldy;
  out.n = static_cast<int32_t>(w.n);
  if (w.form == Form::kFree) out.unit = 2;
  if (w.form == Form::kShift) {
    out.unit = member.w->unit();
    out.zeta_unit = 1 / member.w->unit();
  }
  return out;
}

int ChooseWarps(const CudaMultiplyOptions& options, bool binary, int columns, int64_t tiles,
                int64_t units) {
  const int most = binary && columns <= 2 ? 16 : 8;
  int64_t warps = options.warps;
  if (warps == 0) {
    const bool wide = static_cast<double>(tiles) >= kManyTilesPerSm * SmCount();
    warps = binary && columns <= 2 ? (wide && units <= kShortTileUnits ? 8 : 16) : 8;
  }
  return static_cast<int>(std::clamp<int64_t>(warps, 1, std::min<int64_t>(most, units)));
}

// All members in one launch, widest first: the longest tiles should not be the last to start.
CudaStatus MultiplyTiled(const PackedActivations& x, std::vector<Member> members, bool binary,
                         const CudaMultiplyOptions& options, cudaStream_t stream) {
  std::stable_sort(members.begin(), members.end(),
                   [](const Member& a, const Member& b) { return a.w->view().q > b.w->view().q; });
  LaunchParams params;
  LaunchConfig config;
  std::fill_n(params.first_tile, kMaxCudaProducts, UINT32_MAX);
  int64_t tiles = 0;
  for (size_t i = 0; i < members.size(); ++i) {
    const DeviceMatrix& w = members[i].w->view();
    const int kind = KindOf(w.form, w.zeta, w.q);
    config.kind = i == 0 || config.kind == kind ? kind : kMixedKinds;
    params.kind[i] = static_cast<int8_t>(kind);
    params.blocks[i] = w.blocks;
    params.first_tile[i] = static_cast<uint32_t>(tiles);
    params.out[i] = OutputOf(members[i]);
    tiles += w.tiles();
  }
  params.units = static_cast<int32_t>(members[0].w->view().units);
  params.x = x.view();
  config.tiles = static_cast<uint32_t>(tiles);
  config.warps = ChooseWarps(options, binary, params.x.columns, tiles, params.units);
  config.programmatic = options.programmatic && x.programmatic();
  config.stream = stream;
  return FromCuda(binary ? LaunchBinary(params, config) : LaunchInteger(params, config),
                  "launching a product");
}

}  // namespace

CudaStatus Multiply(const PackedActivations& x, const CudaProduct* products, int count,
                    cudaStream_t stream, const CudaMultiplyOptions& options) {
  if (x.m() == 0) return InvalidArgument("the activations were not prepared yet");
  if (products == nullptr) return InvalidArgument("products is null");
  SHIFTADD_CUDA_RETURN_IF_ERROR(CheckRange("count", count, 1, kMaxCudaProducts));
  for (int i = 0; i < count; ++i) {
    SHIFTADD_CUDA_RETURN_IF_ERROR(CheckProduct(x, products[i], i));
  }
  const int columns = x.view().columns;
  if (options.path == CudaPath::kBinary && columns > kMaxBinaryColumns) {
    return InvalidArgument("the binary path takes " + std::to_string(kMaxBinaryColumns) +
                           " digits * tokens, found " + std::to_string(columns));
  }
  const bool binary = options.path == CudaPath::kBinary ||
                      (options.path == CudaPath::kAuto && columns <= kMaxBinaryColumns);
  std::vector<Member> planes, codes;
  for (int i = 0; i < count; ++i) {
    const Member member = {static_cast<const PackedLinear*>(products[i].w), &products[i]};
    const DeviceMatrix& w = member.w->view();
    if (w.form == Form::kPlain) {
      SHIFTADD_CUDA_RETURN_IF_ERROR(
          FromCuda(LaunchPlain(w, x.view(), products[i].y, products[i].ldy,
                               options.programmatic && x.programmatic(), stream),
                   "launching a product"));
    } else {
      (w.form == Form::kInt8 && binary ? codes : planes).push_back(member);
    }
  }
  if (!planes.empty()) {
    SHIFTADD_CUDA_RETURN_IF_ERROR(MultiplyTiled(x, std::move(planes), binary, options, stream));
  }
  if (codes.empty()) return {};
  return MultiplyTiled(x, std::move(codes), false, options, stream);
}

}  // namespace cuda

CudaStatus CudaMultiply(const CudaActivations& x, const CudaProduct* products, int count,
                        CudaStream stream, const CudaMultiplyOptions& options) {
  return cuda::Multiply(static_cast<const cuda::PackedActivations&>(x), products, count,
                        static_cast<cudaStream_t>(stream), options);
}

}  // namespace shiftadd::kernels
