#include "worker/serve/model_loader.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "kernels/cpu_linear.h"
#include "services/base/logging.h"
#include "services/base/status_macros.h"
#include "worker/serve/cuda/cuda_model.h"
#include "worker/serve/memory_room.h"
#include "worker/serve/package_config.h"
#include "worker/serve/server_device.h"

namespace shiftadd {
namespace {

constexpr int64_t kDefaultContext = 8192;
constexpr int64_t kDefaultCacheBytes = int64_t{512} << 20;

int64_t CachePages(const PackedModel& model, const LoadOptions& options, int64_t context) {
  const int64_t page = model.cache_page_bytes();
  const int64_t whole = (context + kCachePageTokens - 1) / kCachePageTokens;
  if (page <= 0) return whole * options.sequences;
  const int64_t bytes = options.cache_bytes > 0 ? options.cache_bytes : kDefaultCacheBytes;
  return std::max(bytes / page, whole);
}

// On the device that was asked for; the log names it.
absl::StatusOr<std::unique_ptr<PackedModel>> LoadOnDevice(const ResolvedPackage& package,
                                                          const PackageConfig& config,
                                                          const LoadOptions& options) {
  bool cuda = options.device == Device::kCuda;
  if (options.device == Device::kAuto) {
    const absl::Status fault = CudaServes();
    cuda = fault.ok();
    if (!cuda) spdlog::info("--device auto: cpu ({})", std::string(fault.message()));
  } else if (cuda) {
    SA_RETURN_IF_ERROR(Annotate(CudaServes(), "--device cuda"));
  }
  if (!cuda) return PackedModel::Load(package.config_json, package.read, options.model);
  CudaModelOptions gpu;
  gpu.precision = options.model.precision;
  gpu.batch_invariant = options.batch_invariant;
  gpu.cache_bytes = options.cache_bytes > 0 ? options.cache_bytes : kDefaultCacheBytes;
  gpu.cache_tokens =
      options.context > 0 ? options.context : std::min(config.spec.context, kDefaultContext);
  absl::StatusOr<std::unique_ptr<PackedModel>> model =
      LoadCudaModel(package.config_json, package.read, gpu);
  return model.ok() ? std::move(model) : Annotate(model.status(), "--device cuda");
}

// One token through the model: what is loaded computes.
absl::Status TryOut(PackedModel* model) {
  const std::unique_ptr<KvCache> cache = model->NewCache(1);
  std::vector<float> logits;
  SA_RETURN_IF_ERROR(model->Forward({0}, cache.get(), /*all_logits=*/false, &logits));
  for (const float logit : logits) {
    if (!std::isfinite(logit)) {
      return absl::InternalError("the model gives logits that are no numbers");
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelPtr> LoadModel(const PackageLocation& location, const LoadOptions& options,
                                   ServerMetrics* metrics) {
  const absl::Time start = absl::Now();
  SA_ASSIGN_OR_RETURN(const ResolvedPackage package, ResolvePackage(location));
  SA_ASSIGN_OR_RETURN(const PackageConfig config, ParsePackageConfig(package.config_json));
  // Whoever lets go of it last gives its memory back.
  const ModelPtr out(new ModelVersion, [](ModelVersion* version) {
    delete version;
    ReturnFreeMemory();
  });
  SA_ASSIGN_OR_RETURN(out->model, LoadOnDevice(package, config, options));
  SA_ASSIGN_OR_RETURN(const std::string tokenizer_json, package.read(config.tokenizer));
  SA_ASSIGN_OR_RETURN(out->tokenizer, Tokenizer::FromJson(tokenizer_json));
  SA_RETURN_IF_ERROR(TryOut(out->model.get()));
  ServedModel& served = out->served;
  served.name = package.name;
  served.digest = package.digest;
  served.created = package.created > 0 ? package.created : absl::ToUnixSeconds(start);
  served.context =
      options.context > 0 ? options.context : std::min(config.spec.context, kDefaultContext);
  served.model = out->model.get();
  served.tokenizer = out->tokenizer.get();
  served.info = ReadTokenizerInfo(tokenizer_json, *out->tokenizer, config.spec);
  served.longest_token = LongestToken(*out->tokenizer);
  if (served.context > config.spec.context) {
    spdlog::warn("--context {} is beyond the trained length of {} tokens", served.context,
                 config.spec.context);
  }
  EngineOptions engine;
  engine.context = served.context;
  engine.queue = options.queue;
  engine.sequences = options.sequences;
  engine.cache_pages = CachePages(*out->model, options, served.context);
  out->engine = std::make_unique<Engine>(out->model.get(), out->tokenizer.get(), engine, metrics);
  ReturnFreeMemory();  // what reading it took
  spdlog::info(
      "loaded {} ({}) in {:.2f} s: {:.1f} MB of weights, on {}, {} kernels, {} threads, cache of "
      "{} "
      "pages of 32 tokens",
      served.name, served.digest, absl::ToDoubleSeconds(absl::Now() - start),
      static_cast<double>(out->model->weight_bytes()) / 1e6, out->model->device(),
      kernels::IsaName(out->model->isa()), out->model->threads(), engine.cache_pages);
  return out;
}

}  // namespace shiftadd
