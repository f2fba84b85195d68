#include <algorithm>
#include <cmath>
#include <map>
#include <vector>

#include "kernels/cuda/activations.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/workspace.h"

namespace shiftadd::kernels {
namespace cuda {
namespace {

// Digits * tokens up to which the binary path is the faster one, measured on an H100.
int MostBinaryColumns(const DeviceMatrix& w, int digits) {
  return w.form == Form::kShift && w.q < 4 && digits == 1 ? 2 : kMaxBinaryColumns;
}

int SmCount() {
  int device = 0, count = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) != cudaSuccess) {
    return 132;
  }
  return count;
}

// Binary and integer tensor cores as fast as here were measured on compute capability 9.0 alone.
bool HasFastBinary() {
  int device = 0, major = 0, minor = 0;
  return cudaGetDevice(&device) == cudaSuccess &&
         cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
         cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) == cudaSuccess &&
         major == 9 && minor == 0;
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

// Tokens from which decoding to fp16 and cuBLAS are the faster one, measured on an H100.
int64_t LeastDenseTokens(const DeviceMatrix& w) {
  if (w.form == Form::kPlain) return 16;
  if (w.form == Form::kShift) return w.q < 4 ? 257 : 129;
  return 65;
}

// The path of a matrix; x.m and what follows from it are set.
CudaPath PathOf(const DeviceMatrix& w, const DeviceActivations& x,
                const CudaMultiplyOptions& options) {
  CudaPath wanted = options.path;
  if (wanted == CudaPath::kDense) return wanted;
  if (wanted == CudaPath::kAuto && options.workspace != nullptr && options.workspace->dense() &&
      x.m >= LeastDenseTokens(w)) {
    return CudaPath::kDense;
  }
  if (w.form == Form::kPlain) return CudaPath::kPlain;
  if (wanted == CudaPath::kAuto) {
    wanted = x.columns <= MostBinaryColumns(w, x.digits) ? CudaPath::kBinary : CudaPath::kInteger;
    // Where its thread blocks are enough for every multiprocessor, as measured.
    const int64_t blocks = (w.tiles() + kPromptTiles - 1) / kPromptTiles * (x.groups8 / 8);
    const int enough = w.form == Form::kShift && w.q < 4 ? 2 : 4;
    if (w.form != Form::kInt8 && !HasFastBinary()) {
      wanted = CudaPath::kHalf;
    } else if (blocks >= enough * SmCount()) {
      wanted = CudaPath::kPrompt;
    }
  }
  if (wanted == CudaPath::kHalf && w.form == Form::kInt8) return CudaPath::kInteger;
  if (wanted == CudaPath::kBinary && w.form == Form::kInt8) return CudaPath::kInteger;
  const bool prompt = x.slots == 1 && x.groups8 % kPromptGroups8 == 0;
  return wanted == CudaPath::kPrompt && !prompt ? CudaPath::kInteger : wanted;
}

PartOutput OutputOf(const Member& member, CudaPath path) {
  const DeviceMatrix& w = member.w->view();
  PartOutput out;
  out.y = member.product->y;
  out.ldy = member.product->ldy;
  out.n = static_cast<int32_t>(w.n);
  const float table_unit = w.form == Form::kShift ? member.w->shift_table().unit : 1;
  if (path == CudaPath::kHalf && w.form != Form::kInt8) {
    const int exponent = member.w->half_exponent();
    out.unit = std::ldexp(1.0f, exponent);
    out.factors.scale = static_cast<float>(std::ldexp(double{table_unit}, -exponent));
    out.factors.zeta = std::ldexp(1.0f, -exponent);
    return out;
  }
  out.unit = w.form == Form::kFree ? 2 : table_unit;
  out.factors.zeta = 1 / table_unit;
  return out;
}

// As many warps a CTA as leave all tiles resident at once: fewer units a warp, but no second wave.
// Where there are several waves anyway, few warps for short units and many for long ones, the
// beginning of a later tile asked for in L2 and, where it gains, CTAs that share the tiles
// (measured on an H100).
void ChooseWarps(const CudaMultiplyOptions& options, bool binary, const LaunchParams& p,
                 const DeviceMatrix& widest, LaunchConfig* config) {
  const int q = widest.q;
  constexpr int kFree = KindOf(Form::kFree, false, 2);  // the first kind of bcq/free
  const bool shift = config->kind >= 0 && config->kind < kFree;
  const bool many = binary && p.x.columns <= 2;
  const int most = many ? 16 : 8;
  int64_t warps = options.warps;
  // Warps that an SM holds, by the kernels' registers.
  const int64_t resident = int64_t{SmCount()} * (many ? 32 : binary ? 20 : 16);
  config->share = options.blocks != 0;
  if (warps == 0) {
    // Two columns of short rows of large blocks leave 16 warps too little each.
    warps = many && p.x.columns == 2 && shift && q == 4 && p.units <= 16 ? 8 : most;
    while (warps > 4 && p.tiles * warps > resident) warps /= 2;
    // Two warps a tile do for short units, but not where planes are expanded one by one (bcq/free).
    const bool two = binary ? !many : shift && p.x.groups8 <= 4;
    if (two && p.tiles * warps > resident && p.tiles * 2 <= resident) warps = 2;
    // For one token several waves of many warps, later tiles on their way, beat one wave of few
    // where blocks are large or rows long.
    if (many && p.x.m == 1 &&
        (p.units > 64 ||
         (warps == 4 && BlockBytes(widest.form, q, widest.zeta, widest.slots) > 1700))) {
      warps = most;
    }
    if (p.tiles * warps > resident) {
      // The kinds whose kernels share tiles.
      const bool pairs = config->kind == KindOf(Form::kShift, false, 2) ||
                         config->kind == KindOf(Form::kFree, true, 2);
      const bool share = q < (many ? 3 : 4) && p.units >= 2 * most;
      const bool spills = p.x.m == 2 && config->kind == KindOf(Form::kFree, true, 4);
      if (many ? (q > 2 && !spills) || (share && pairs)
               : share && p.x.groups8 == 2 && config->kind == KindOf(Form::kShift, false, 3)) {
        warps = most;
      }
      if (options.blocks == 0) config->share = share;
    }
  }
  config->warps = static_cast<int>(std::clamp<int64_t>(warps, 1, std::min<int64_t>(most, p.units)));
  // Not for short rows of bcq/free on the integer path, which do not wait for memory.
  if (p.tiles * config->warps > resident && (binary || shift || p.units >= 32)) {
    config->ahead_units = std::min(std::clamp(p.units / 8, 4, 32), p.units);
  }
}

// All members in one launch, widest first: the longest tiles should not be the last to start.
CudaStatus MultiplyTiled(const PackedActivations& x, std::vector<Member> members, CudaPath path,
                         const CudaMultiplyOptions& options, cudaStream_t stream) {
  const bool binary = path == CudaPath::kBinary;
  if (members.empty()) return {};
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
    params.out[i] = OutputOf(members[i], path);
    const ShiftTable& table = members[i].w->shift_table();
    params.sets[i] = binary ? table.binary : table.integer;
    tiles += w.tiles();
  }
  params.units = static_cast<int32_t>(members[0].w->view().units);
  params.x = x.view();
  params.tiles = static_cast<uint32_t>(tiles);
  config.blocks = static_cast<uint32_t>(std::max(options.blocks, 0));
  ChooseWarps(options, binary, params, members[0].w->view(), &config);
  config.programmatic = options.programmatic && x.programmatic();
  config.stream = stream;
  const auto launch = path == CudaPath::kPrompt ? LaunchPrompt
                      : path == CudaPath::kHalf ? LaunchHalf
                      : binary                  ? LaunchBinary
                                                : LaunchInteger;
  return FromCuda(launch(params, config), "launching a product");
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
  if (options.path == CudaPath::kPlain) {
    return InvalidArgument("kPlain is not a path to ask for");
  }
  auto* const workspace = static_cast<DenseWorkspace*>(options.workspace);
  if (options.path == CudaPath::kDense && workspace == nullptr) {
    return InvalidArgument("the dense path needs a workspace");
  }
  std::map<CudaPath, std::vector<Member>> members;
  for (int i = 0; i < count; ++i) {
    const auto* w = static_cast<const PackedLinear*>(products[i].w);
    members[PathOf(w->view(), x.view(), options)].push_back({w, &products[i]});
  }
  const std::vector<Member>& dense = members[CudaPath::kDense];
  if (!dense.empty()) SHIFTADD_CUDA_RETURN_IF_ERROR(workspace->Check(x));
  for (const Member& member : members[CudaPath::kPlain]) {
    SHIFTADD_CUDA_RETURN_IF_ERROR(
        FromCuda(LaunchPlain(member.w->view(), x.view(), member.product->y, member.product->ldy,
                             options.programmatic && x.programmatic(), stream),
                 "launching a product"));
  }
  for (const Member& member : members[CudaPath::kPrompt]) {
    SHIFTADD_CUDA_RETURN_IF_ERROR(MultiplyTiled(x, {member}, CudaPath::kPrompt, options, stream));
  }
  for (const CudaPath path : {CudaPath::kBinary, CudaPath::kInteger, CudaPath::kHalf}) {
    SHIFTADD_CUDA_RETURN_IF_ERROR(MultiplyTiled(x, members[path], path, options, stream));
  }
  if (dense.empty()) return {};
  SHIFTADD_CUDA_RETURN_IF_ERROR(workspace->Start(x, stream));
  for (const Member& member : dense) {
    SHIFTADD_CUDA_RETURN_IF_ERROR(workspace->Multiply(x, *member.w, *member.product, stream));
  }
  return {};
}

}  // namespace cuda

CudaStatus CudaMultiply(const CudaActivations& x, const CudaProduct* products, int count,
                        CudaStream stream, const CudaMultiplyOptions& options) {
  return cuda::Multiply(static_cast<const cuda::PackedActivations&>(x), products, count,
                        static_cast<cudaStream_t>(stream), options);
}

CudaPath CudaPathFor(const CudaActivations& x, int64_t m, const CudaLinear& w,
                     const CudaMultiplyOptions& options) {
  const auto& activations = static_cast<const cuda::PackedActivations&>(x);
  return cuda::PathOf(static_cast<const cuda::PackedLinear&>(w).view(), activations.ViewFor(m),
                      options);
}

}  // namespace shiftadd::kernels
