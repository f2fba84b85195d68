#include "worker/serve/server_bench.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/packed/packed_blob.h"

namespace shiftadd {
namespace {

// Tokens that are decoded before the cache is cut back: the context is this much longer at most.
constexpr int64_t kWindow = 16;

std::vector<int32_t> SomeTokens(int64_t count, int64_t vocab) {
  std::vector<int32_t> out;
  for (int64_t i = 0; i < count; ++i) out.push_back(static_cast<int32_t>(i * 7919 % vocab));
  return out;
}

class BenchSequence {
 public:
  BenchSequence(PackedModel* model, int64_t context)
      : model_(*model),
        prompt_(SomeTokens(context, model->spec().vocab)),
        cache_(model->NewCache(context + kWindow)) {}

  absl::Status Prompt() {
    cache_->Truncate(0);
    SA_RETURN_IF_ERROR(model_.Forward(prompt_, cache_.get(), /*all_logits=*/false, &logits_));
    token_ = Likeliest();
    return absl::OkStatus();
  }

  absl::Status Token() {
    const auto context = static_cast<int64_t>(prompt_.size());
    if (cache_->length() >= context + kWindow) cache_->Truncate(context);
    BatchRow row{token_, cache_.get(), /*logits=*/true};
    if (!model_.can_sample()) {
      SA_RETURN_IF_ERROR(model_.ForwardBatch({row}, &logits_));
      token_ = Likeliest();
      return absl::OkStatus();
    }
    row.sample = true;
    std::vector<int32_t> tokens;
    SA_RETURN_IF_ERROR(model_.ForwardSample({row}, &logits_, &tokens));
    token_ = std::max(tokens[0], 0);
    return absl::OkStatus();
  }

 private:
  int32_t Likeliest() const {
    return static_cast<int32_t>(std::max_element(logits_.begin(), logits_.end()) - logits_.begin());
  }

  PackedModel& model_;
  const std::vector<int32_t> prompt_;
  const std::unique_ptr<KvCache> cache_;
  std::vector<float> logits_;
  int32_t token_ = 0;
};

void CountFp16(const ArchitectureSpec& spec, BenchFigures* figures) {
  uint64_t layers = 0, rest = spec.vocab * spec.hidden * (spec.tied_embeddings ? 1 : 2);
  for (int64_t b = 0; b < spec.blocks; ++b) {
    for (const LinearLayer& layer : BlockLayers(spec, b)) layers += layer.rows * layer.cols;
  }
  for (const auto& [name, size] : UnquantizedShapes(spec)) rest += size;
  figures->fp16_layer_bytes = 2 * layers;
  figures->fp16_bytes = 2 * (layers + rest);
}

}  // namespace

absl::StatusOr<std::string> BenchPackage(const PackageLocation& location, const LoadOptions& load,
                                         const BenchOptions& options) {
  const DeviceUse use(load.device != Device::kCpu);
  SA_ASSIGN_OR_RETURN(const ModelPtr version, LoadModel(location, load, nullptr));
  PackedModel* const model = version->model.get();
  const int64_t longest = model->spec().context - kWindow;
  if (options.context > longest) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a context of ", options.context, " tokens, expected at most ", longest, " of this model"));
  }
  const bool gpu = model->device() != "cpu";
  EnergyMeter meter(gpu);
  BenchSequence sequence(model, options.context);
  BenchFigures figures;
  figures.device = model->device();
  figures.how = gpu ? "packed weights, CUDA graphs"
                    : absl::StrCat("packed weights, ", kernels::IsaName(model->isa()), " kernels, ",
                                   model->threads(), " threads");
  SA_ASSIGN_OR_RETURN(figures.prompt,
                      TimeRuns([&] { return sequence.Prompt(); }, options.seconds, &meter));
  SA_ASSIGN_OR_RETURN(figures.token,
                      TimeRuns([&] { return sequence.Token(); }, options.seconds, &meter));
  figures.energy_fault = meter.fault();
  figures.weight_bytes = model->weight_bytes();
  figures.resident_bytes = ResidentBytes();
  if (gpu) figures.device_bytes = use.Bytes();
  CountFp16(model->spec(), &figures);
  return ToJson(figures, options);
}

}  // namespace shiftadd
