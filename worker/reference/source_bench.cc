#include "worker/reference/source_bench.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/rms_norm.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/zeros.h>

#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/machine/gpu.h"
#include "worker/reference/device_tensors.h"
#include "worker/reference/half_block.h"
#include "worker/reference/stream_graph.h"
#include "worker/reference/torch_seam.h"

namespace shiftadd::reference {
namespace {

struct Product {
  at::Tensor weight, bias;
  at::Tensor operator()(const at::Tensor& x) const {
    return bias.defined() ? at::linear(x, weight, bias) : at::linear(x, weight);
  }
};

Product Join(const std::vector<HalfLinear>& parts, at::ScalarType type) {
  std::vector<at::Tensor> weights, biases;
  for (const HalfLinear& part : parts) {
    weights.push_back(part.weight.to(type));
    if (part.bias.defined()) biases.push_back(part.bias.to(type));
  }
  Product out;
  out.weight = weights.size() == 1 ? weights[0] : at::cat(weights, 0);
  if (!biases.empty()) out.bias = at::cat(biases, 0);
  return out;
}

// One sequence. Everything has the type of the weights.
class PlainDecoder {
 public:
  static absl::StatusOr<std::unique_ptr<PlainDecoder>> Create(const WeightProvider& weights,
                                                              at::Device device,
                                                              at::ScalarType type, int64_t length) {
    const ArchitectureSpec& s = weights.spec();
    auto out = std::unique_ptr<PlainDecoder>(new PlainDecoder(s));
    for (int64_t b = 0; b < s.blocks; ++b) {
      SA_ASSIGN_OR_RETURN(const auto read, ReadHalfBlock(weights, b, device));
      out->blocks_.push_back({read->attn_norm.to(type), read->mlp_norm.to(type),
                              Join({read->q, read->k, read->v}, type), Join({read->o}, type),
                              Join({read->gate, read->up}, type), Join({read->down}, type),
                              at::zeros({1, s.kv_heads, length, s.head_dim}, device).to(type),
                              at::zeros({1, s.kv_heads, length, s.head_dim}, device).to(type)});
    }
    const auto read = [&](const char* name, std::vector<int64_t> shape) {
      return ReadToDevice(weights, name, shape, type, device);
    };
    SA_ASSIGN_OR_RETURN(out->embed_, read("embed", {s.vocab, s.hidden}));
    out->head_.weight = out->embed_;
    if (!s.tied_embeddings) {
      SA_ASSIGN_OR_RETURN(out->head_.weight, read("head", {s.vocab, s.hidden}));
    }
    SA_ASSIGN_OR_RETURN(out->norm_, read("final_norm", {s.hidden}));
    const RopeTensors rope = MakeRopeTensors(RopeTable(s, length), length, device);
    out->cos_ = at::cat({rope.cos, rope.cos}, 2).to(type);
    out->sin_ = at::cat({-rope.sin, rope.sin}, 2).to(type);
    out->token_ = at::zeros({1}, at::TensorOptions(device).dtype(at::kLong));
    return out;
  }

  // tokens [n] (I64) behind `position` others; the likeliest next one goes to token().
  void Run(const at::Tensor& tokens, int64_t position) {
    at::Tensor x = at::embedding(embed_, tokens);
    for (const Block& block : blocks_) {
      x = x + block.o(Attend(block, Norm(x, block.attn_norm), position));
      const at::Tensor both = block.gate_up(Norm(x, block.mlp_norm));
      const int64_t width = both.size(1) / 2;
      x = x + block.down(at::silu(both.narrow(1, 0, width)) * both.narrow(1, width, width));
    }
    const at::Tensor logits = head_(Norm(x.narrow(0, x.size(0) - 1, 1), norm_));
    token_.copy_(at::argmax(logits, -1));
  }

  const at::Tensor& token() const { return token_; }
  uint64_t bytes() const {
    uint64_t sum = embed_.nbytes() + norm_.nbytes();
    if (!s_.tied_embeddings) sum += head_.weight.nbytes();
    for (const Block& b : blocks_) {
      for (const Product* p : {&b.qkv, &b.o, &b.gate_up, &b.down}) sum += p->weight.nbytes();
      sum += b.attn_norm.nbytes() + b.mlp_norm.nbytes();
    }
    return sum;
  }

 private:
  struct Block {
    at::Tensor attn_norm, mlp_norm;
    Product qkv, o, gate_up, down;
    at::Tensor keys, values;  // [1, kv_heads, length, head_dim]
  };

  explicit PlainDecoder(const ArchitectureSpec& spec) : s_(spec) {}

  at::Tensor Norm(const at::Tensor& x, const at::Tensor& weight) const {
    return at::rms_norm(x, weight.sizes(), weight, s_.norm_eps);
  }

  // x [n, heads, dim], rotate-half.
  at::Tensor Rotate(const at::Tensor& x, int64_t position) const {
    const int64_t half = s_.head_dim / 2, n = x.size(0);
    const at::Tensor swapped = at::cat({x.narrow(2, half, half), x.narrow(2, 0, half)}, 2);
    return x * cos_.narrow(0, position, n) + swapped * sin_.narrow(0, position, n);
  }

  at::Tensor Attend(const Block& block, const at::Tensor& x, int64_t position) const {
    const int64_t n = x.size(0), d = s_.head_dim;
    const at::Tensor qkv = block.qkv(x).view({n, s_.heads + 2 * s_.kv_heads, d});
    // Queries and keys are turned together.
    const at::Tensor turned = Rotate(qkv.narrow(1, 0, s_.heads + s_.kv_heads), position);
    const auto keep = [&](const at::Tensor& cache, const at::Tensor& rows) {
      cache.narrow(2, position, n).copy_(rows.transpose(0, 1).unsqueeze(0));
      return cache.narrow(2, 0, position + n);
    };
    const at::Tensor keys = keep(block.keys, turned.narrow(1, s_.heads, s_.kv_heads));
    const at::Tensor values =
        keep(block.values, qkv.narrow(1, s_.heads + s_.kv_heads, s_.kv_heads));
    const at::Tensor queries = turned.narrow(1, 0, s_.heads).transpose(0, 1).unsqueeze(0);
    const at::Tensor mixed = at::scaled_dot_product_attention(
        queries, keys, values, std::nullopt, 0.0, /*is_causal=*/n > 1, std::nullopt,
        /*enable_gqa=*/s_.heads != s_.kv_heads);
    return mixed.squeeze(0).transpose(0, 1).reshape({n, s_.heads * d});
  }

  const ArchitectureSpec s_;
  std::vector<Block> blocks_;
  at::Tensor embed_, norm_, cos_, sin_, token_;
  Product head_;
};

absl::Status Measure(PlainDecoder* decoder, at::Device device, const BenchOptions& options,
                     EnergyMeter* meter, BenchFigures* figures) {
  const int64_t context = options.context;
  const at::Tensor prompt =
      at::arange(context, at::TensorOptions(device).dtype(at::kLong)).mul(7919).remainder(1000);
  // The id on the host: waits for all of it.
  const auto id = [&] { return decoder->token().item<int64_t>(); };
  const auto timed = [&](const std::function<void()>& work) {
    return TimeRuns(
        [&] {
          return CatchTorch([&]() -> absl::Status {
            work();
            (void)id();
            return absl::OkStatus();
          });
        },
        options.seconds, meter);
  };
  const auto token = [&] { decoder->Run(decoder->token(), context); };
  std::optional<StreamGraph> graph;
  if (device.is_cuda()) graph.emplace(device);
  SA_ASSIGN_OR_RETURN(figures->prompt, timed([&] { decoder->Run(prompt, 0); }));
  if (graph.has_value()) {
    for (int i = 0; i < 3; ++i) token();
    (void)id();
    if (graph->Capture(token)) {
      absl::StrAppend(&figures->how, ", a CUDA graph a token");
      SA_ASSIGN_OR_RETURN(figures->token, timed([&] { graph->Launch(); }));
      return absl::OkStatus();
    }
    absl::StrAppend(&figures->how, ", kernel by kernel (no CUDA graph: ", graph->fault(), ")");
  }
  SA_ASSIGN_OR_RETURN(figures->token, timed(token));
  return absl::OkStatus();
}

absl::StatusOr<BenchFigures> BenchIn(const WeightProvider& weights, at::ScalarType type, bool gpu,
                                     int threads, const BenchOptions& options) {
  const DeviceUse use(gpu);
  const at::Device where = gpu ? at::kCUDA : at::kCPU;
  const std::optional<Gpu> found = gpu ? FindGpu() : std::nullopt;
  BenchFigures out;
  out.device = found.has_value() ? found->name : "cpu";
  out.how = absl::StrCat("LibTorch ", TorchVersion(), ", ", type == at::kFloat ? "fp32" : "bf16");
  if (!gpu) absl::StrAppend(&out.how, ", ", threads, " threads");
  EnergyMeter meter(gpu);
  at::set_num_threads(threads);
  SA_RETURN_IF_ERROR(CatchTorch([&]() -> absl::Status {
    SA_ASSIGN_OR_RETURN(const auto decoder,
                        PlainDecoder::Create(weights, where, type, options.context + 1));
    SA_RETURN_IF_ERROR(Measure(decoder.get(), where, options, &meter, &out));
    out.weight_bytes = decoder->bytes();
    out.resident_bytes = ResidentBytes();
    out.device_bytes = use.Bytes();
    return absl::OkStatus();
  }));
  out.energy_fault = meter.fault();
  return out;
}

}  // namespace

absl::StatusOr<BenchFigures> BenchSource(const WeightProvider& weights, Device device, int threads,
                                         const BenchOptions& options) {
  SA_RETURN_IF_ERROR(RefuseBeyondLlama(weights.spec(), "the full-precision benchmark"));
  if (options.context + 1 > weights.spec().context) {
    return absl::InvalidArgumentError(absl::StrCat("a context of ", options.context,
                                                   " tokens, expected less than ",
                                                   weights.spec().context, " of this model"));
  }
  if (device == Device::kCuda) return BenchIn(weights, at::kBFloat16, true, threads, options);
  // LibTorch has no fast product of bf16 for every processor.
  SA_ASSIGN_OR_RETURN(const BenchFigures fp32,
                      BenchIn(weights, at::kFloat, false, threads, options));
  SA_ASSIGN_OR_RETURN(const BenchFigures bf16,
                      BenchIn(weights, at::kBFloat16, false, threads, options));
  return bf16.token.median_seconds < fp32.token.median_seconds ? bf16 : fp32;
}

}  // namespace shiftadd::reference
