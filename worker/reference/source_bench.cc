#include "worker/reference/source_bench.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>

#include <algorithm>
#include <functional>
#include <optional>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/machine/gpu.h"
#include "worker/reference/plain_decoder.h"
#include "worker/reference/stream_graph.h"
#include "worker/reference/torch_seam.h"

namespace shiftadd::reference {
namespace {

absl::Status Measure(PlainDecoder* decoder, at::Device device, int64_t vocab,
                     const BenchOptions& options, EnergyMeter* meter, BenchFigures* figures) {
  const int64_t context = options.context;
  const at::Tensor prompt = at::arange(context, at::TensorOptions(device).dtype(at::kLong))
                                .mul(7919)
                                .remainder(std::min<int64_t>(vocab, 1000));
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
                        PlainDecoder::Create(weights, where, {type, options.context + 1}));
    SA_RETURN_IF_ERROR(Measure(decoder.get(), where, weights.spec().vocab, options, &meter, &out));
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
