#include "worker/serve/model_loader.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <mutex>
#include <new>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "kernels/cpu_linear.h"
#include "services/base/logging.h"
#include "services/base/memory_room.h"
#include "services/base/status_macros.h"
#include "worker/serve/cuda/cuda_model.h"
#include "worker/serve/package_config.h"
#include "worker/serve/server_device.h"

namespace shiftadd {
namespace {

constexpr int64_t kDefaultContext = 8192;
constexpr int64_t kDefaultCacheBytes = int64_t{512} << 20;

// For what a step computes with.
constexpr int64_t kSpareBytes = int64_t{16} << 20;

// The versions that are loaded, and what loads under way were promised.
struct Loaded {
  std::mutex mutex;
  std::set<const ModelVersion*> versions;
  int64_t promised = 0;
};
Loaded& TheLoaded() {
  static auto* const loaded = new Loaded;
  return *loaded;
}

std::string Megabytes(int64_t bytes) { return absl::StrFormat("%.1f MB", bytes / 1e6); }

// Under the lock.
int64_t Unpromised(const Loaded& loaded, const std::string& memory_root) {
  int64_t room = MemoryRoom(memory_root) - loaded.promised;
  for (const ModelVersion* version : loaded.versions) {
    if (version->model->device() != "cpu") continue;
    const EngineStats stats = version->engine->Stats();
    const int64_t to_come = std::max<int64_t>(0, stats.pages_total - stats.pages_used);
    room -= to_come * version->model->cache_page_bytes();
  }
  return std::max<int64_t>(room, 0);
}

// Weights are read blob by blob, and stay about as large as they come.
absl::Status PromiseWeights(const ResolvedPackage& package, PromisedMemory* promised) {
  return promised->Promise([&](int64_t room) -> absl::StatusOr<int64_t> {
    if (package.bytes <= room) return package.bytes;
    return absl::ResourceExhaustedError(
        absl::StrCat(package.name, " does not fit in memory: its weights are ",
                     Megabytes(package.bytes), ", ", Megabytes(room), " are free"));
  });
}

// How many pages the caches may have of `room`, once the weights are loaded.
absl::StatusOr<int64_t> CachePages(const PackedModel& model, const LoadOptions& options,
                                   int64_t context, int64_t room) {
  const int64_t page = model.cache_page_bytes();
  const int64_t whole = (context + kCachePageTokens - 1) / kCachePageTokens;
  if (page <= 0) return whole * options.sequences;
  const int64_t wanted = std::max(WantedCacheBytes(options) / page, whole);
  if (model.device() != "cpu") return wanted;  // the GPU's memory, which holds them already
  const int64_t fit = std::max<int64_t>(0, room - kSpareBytes) / page;
  if (wanted <= fit) return wanted;
  if (options.cache_bytes == 0 && fit >= whole) {
    spdlog::warn("caches get {} in place of {}: {} are free", Megabytes(fit * page),
                 Megabytes(wanted * page), Megabytes(room));
    return fit;
  }
  return absl::ResourceExhaustedError(absl::StrCat(
      "the caches do not fit in memory beside ",
      Megabytes(static_cast<int64_t>(model.weight_bytes())), " of weights: they may take ",
      Megabytes(wanted * page), " (", options.cache_bytes > 0 ? "--cache-mib, " : "",
      "a context of ", context, " tokens takes ", Megabytes(whole * page), "), ", Megabytes(room),
      " are free; a smaller --cache-mib or --context would do"));
}

// Tokens of prompt and answer together: as asked for, but for positions that were learned, of which
// there are no more.
int64_t ContextOf(const ArchitectureSpec& spec, const LoadOptions& options) {
  const int64_t asked =
      options.context > 0 ? options.context : std::min(spec.context, kDefaultContext);
  return spec.position == PositionKind::kLearned ? std::min(asked, spec.context) : asked;
}

// On the device that was asked for; the log names it.
absl::StatusOr<std::unique_ptr<PackedModel>> LoadOnDevice(const ResolvedPackage& package,
                                                          const PackageConfig& config,
                                                          const LoadOptions& options,
                                                          PromisedMemory* promised) {
  bool cuda = options.device == Device::kCuda;
  if (options.device == Device::kAuto) {
    const absl::Status fault = CudaServes();
    cuda = fault.ok();
    if (!cuda) spdlog::info("--device auto: cpu ({})", std::string(fault.message()));
  } else if (cuda) {
    SA_RETURN_IF_ERROR(Annotate(CudaServes(), "--device cuda"));
  }
  if (!cuda) {
    SA_RETURN_IF_ERROR(PromiseWeights(package, promised));
    const BlobReader read = [&](const std::string& digest) {
      absl::StatusOr<std::string> blob = package.read(digest);
      if (blob.ok()) promised->Use(static_cast<int64_t>(blob->size()));
      return blob;
    };
    return PackedModel::Load(package.config_json, read, options.model);
  }
  CudaModelOptions gpu;
  gpu.precision = options.model.precision;
  gpu.batch_invariant = options.batch_invariant;
  gpu.cache_bytes = WantedCacheBytes(options);
  gpu.cache_tokens = ContextOf(config.spec, options);
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

absl::StatusOr<ModelPtr> Load(const PackageLocation& location, const LoadOptions& options,
                              ServerMetrics* metrics) {
  const absl::Time start = absl::Now();
  SA_ASSIGN_OR_RETURN(const ResolvedPackage package, ResolvePackage(location));
  SA_ASSIGN_OR_RETURN(const PackageConfig config, ParsePackageConfig(package.config_json));
  // Whoever lets go of it last gives its memory back.
  const ModelPtr out(new ModelVersion, [](ModelVersion* version) {
    {
      const std::lock_guard<std::mutex> lock(TheLoaded().mutex);
      TheLoaded().versions.erase(version);
    }
    delete version;
    ReturnFreeMemory();
  });
  PromisedMemory promised(options.memory_root);
  SA_ASSIGN_OR_RETURN(out->model, LoadOnDevice(package, config, options, &promised));
  promised.Release();  // the weights are there
  SA_ASSIGN_OR_RETURN(const std::string tokenizer_json, package.read(config.tokenizer));
  SA_ASSIGN_OR_RETURN(out->tokenizer, Tokenizer::FromJson(tokenizer_json));
  SA_RETURN_IF_ERROR(TryOut(out->model.get()));
  ServedModel& served = out->served;
  served.name = package.name;
  served.digest = package.digest;
  served.created = package.created > 0 ? package.created : absl::ToUnixSeconds(start);
  served.context = ContextOf(config.spec, options);
  served.model = out->model.get();
  served.tokenizer = out->tokenizer.get();
  served.info = ReadTokenizerInfo(tokenizer_json, *out->tokenizer, config.spec);
  served.longest_token = LongestToken(*out->tokenizer);
  if (options.context > served.context) {
    spdlog::warn("--context {}: the model has positions for {} tokens and no more", options.context,
                 served.context);
  }
  if (served.context > config.spec.context) {
    spdlog::warn("--context {} is beyond the trained length of {} tokens", served.context,
                 config.spec.context);
  }
  const bool cpu = out->model->device() == "cpu";
  EngineOptions engine;
  engine.context = served.context;
  engine.queue = options.queue;
  engine.sequences = options.sequences;
  engine.client_queue = options.client_queue;
  engine.on_lost = options.on_lost;
  // What reading it took is free again.
  ReturnFreeMemory();
  SA_RETURN_IF_ERROR(promised.Promise([&](int64_t room) -> absl::StatusOr<int64_t> {
    SA_ASSIGN_OR_RETURN(engine.cache_pages, CachePages(*out->model, options, served.context, room));
    return cpu ? engine.cache_pages * out->model->cache_page_bytes() : 0;
  }));
  if (cpu) engine.memory_room = [root = options.memory_root] { return MemoryRoom(root); };
  out->engine = std::make_unique<Engine>(out->model.get(), out->tokenizer.get(), engine, metrics);
  {
    const std::lock_guard<std::mutex> lock(TheLoaded().mutex);
    TheLoaded().versions.insert(out.get());
  }
  promised.Release();  // what is loaded counts by itself
  spdlog::info(
      "loaded {} ({}) in {:.2f} s: {:.1f} MB of weights, on {}, {} kernels, {} threads, cache of "
      "{} "
      "pages of 32 tokens",
      served.name, served.digest, absl::ToDoubleSeconds(absl::Now() - start),
      static_cast<double>(out->model->weight_bytes()) / 1e6, out->model->device(),
      kernels::IsaName(out->model->isa()), out->model->threads(), engine.cache_pages);
  return out;
}

}  // namespace

int64_t UnpromisedRoom(const std::string& memory_root) {
  const std::lock_guard<std::mutex> lock(TheLoaded().mutex);
  return Unpromised(TheLoaded(), memory_root);
}

absl::Status PromisedMemory::Promise(
    absl::FunctionRef<absl::StatusOr<int64_t>(int64_t room)> wanted) {
  const std::lock_guard<std::mutex> lock(TheLoaded().mutex);
  SA_ASSIGN_OR_RETURN(const int64_t bytes, wanted(Unpromised(TheLoaded(), memory_root_)));
  bytes_ += bytes;
  TheLoaded().promised += bytes;
  return absl::OkStatus();
}

void PromisedMemory::Use(int64_t bytes) {
  const std::lock_guard<std::mutex> lock(TheLoaded().mutex);
  bytes = std::min(bytes, bytes_);
  bytes_ -= bytes;
  TheLoaded().promised -= bytes;
}

void PromisedMemory::Release() { Use(std::numeric_limits<int64_t>::max()); }

int64_t WantedCacheBytes(const LoadOptions& options) {
  return options.cache_bytes > 0 ? options.cache_bytes : kDefaultCacheBytes;
}

absl::StatusOr<ModelPtr> LoadModel(const PackageLocation& location, const LoadOptions& options,
                                   ServerMetrics* metrics) {
  try {
    return Load(location, options, metrics);
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("memory ran out while the package was loaded");
  }
}

}  // namespace shiftadd
