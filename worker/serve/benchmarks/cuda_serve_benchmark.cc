// Tokens a second of the executor on a GPU for a model of Llama 3 8B's shape with random planes.
//
//   cuda_serve_benchmark [--planes 2,3,4] [--batch 1,8,16] [--context 1024] [--blocks 32]
//                        [--group 128]     (inputs that share a scale; 0: one scale a row)
//
// A decode step is ForwardSample of `batch` sequences, greedy, from the call to the tokens on the
// host: the copy of what the step needs, one graph, the wait. The figure is the median of steps
// around the context length. "floor" is the time in which the same GPU only reads as many bytes as
// the step must (weights, head, keys and values), measured in the same run by kernels that do
// nothing else; the percentage is floor / step.
#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/benchmarks/read_floor.h"
#include "kernels/cuda/test_device.h"
#include "kernels/packed_matrix.h"
#include "services/base/or_die.h"
#include "services/packaging/package_format.h"
#include "worker/model/architecture_spec.h"
#include "worker/packed/packed_blob.h"
#include "worker/serve/cuda/cuda_model.h"
#include "worker/tensor/tensor_source.h"

namespace shiftadd {
namespace {

using kernels::cuda::Check;
using nlohmann::json;

template <typename T>
absl::string_view View(const std::vector<T>& v) {
  return {reinterpret_cast<const char*>(v.data()), v.size() * sizeof(T)};
}

ArchitectureSpec LlamaSpec(int64_t blocks) {
  ArchitectureSpec spec;
  spec.family = "llama";
  spec.vocab = 128256;
  spec.hidden = 4096;
  spec.intermediate = 14336;
  spec.blocks = blocks;
  spec.heads = 32;
  spec.kv_heads = 8;
  spec.head_dim = 128;
  spec.context = 8192;
  spec.rope_theta = 500000;
  spec.bos_token = 128000;
  spec.eos_tokens = {128001};
  return spec;
}

// A package whose blobs are made when they are read; the same planes for all layers of a shape.
class RandomPackage {
 public:
  // group 0: one scale a row.
  RandomPackage(const ArchitectureSpec& spec, int planes, int64_t group)
      : spec_(spec), planes_(planes), group_(group) {}

  std::string ConfigJson() const {
    json config;
    config["format"] = {{"major", kPackageFormatMajor}, {"minor", kPackageFormatMinor}};
    config["architecture"] = ToJson(spec_);
    config["tokenizer"] = Digest(0);
    config["unquantized"] = Digest(1);
    config["head"] = Digest(2);
    for (int64_t b = 0; b < spec_.blocks; ++b) {
      for (const LinearLayer& layer : BlockLayers(spec_, b)) {
        config["layers"].push_back({{"name", layer.name},
                                    {"bits", planes_},
                                    {"rows", layer.rows},
                                    {"cols", layer.cols},
                                    {"digest", Digest(3 + config["layers"].size())}});
      }
    }
    return config.dump();
  }

  absl::StatusOr<std::string> Read(const std::string& digest) {
    int64_t index = 0;
    if (!absl::SimpleAtoi(digest.substr(digest.size() - 18), &index)) std::abort();
    if (index == 1) return Unquantized();
    if (index == 2) return Head();
    const auto layers = BlockLayers(spec_, (index - 3) / 7);
    return Layer(layers[(index - 3) % 7]);
  }

 private:
  static std::string Digest(size_t index) {
    std::string digits = absl::StrCat(index);
    return absl::StrCat("sha256:", std::string(64 - digits.size(), '0'), digits);
  }

  template <typename T>
  std::vector<T> Random(size_t size, uint32_t mask, uint32_t base) {
    std::vector<T> out(size);
    for (T& x : out) {
      state_ ^= state_ << 13, state_ ^= state_ >> 7, state_ ^= state_ << 17;
      x = static_cast<T>((static_cast<uint32_t>(state_ >> 20) & mask) | base);
    }
    return out;
  }

  absl::StatusOr<std::string> Unquantized() {
    std::map<std::string, std::vector<float>> norms;
    std::map<int64_t, std::vector<uint32_t>> signs;
    std::vector<TensorToWrite> tensors;
    for (const auto& [name, size] : UnquantizedShapes(spec_)) {
      norms[name].assign(size, 1.0f);
      tensors.push_back({name, DType::kF32, {size}, View(norms[name])});
    }
    for (const int64_t k : {spec_.hidden, spec_.intermediate}) {
      signs[k] = Random<uint32_t>(k / 32, ~0u, 0);
      tensors.push_back({absl::StrCat("signs.", k), DType::kU32, {k / 32}, View(signs[k])});
    }
    return WriteSafetensors(std::move(tensors), {});
  }

  absl::StatusOr<std::string> Head() {
    const int64_t n = spec_.vocab, k = spec_.hidden;
    const auto codes = Random<int8_t>(n * k, 0x7f, 0);
    const auto scales = Random<uint16_t>(n * k / 128, 0xff, 0x0c00);
    std::vector<TensorToWrite> tensors;
    std::map<std::string, std::string> metadata;
    for (const std::string name : {"embed", "head"}) {
      metadata[name + ".encoding"] = "int8/group";
      metadata[name + ".group"] = "128";
      tensors.push_back({name + ".codes", DType::kI8, {n, k}, View(codes)});
      tensors.push_back({name + ".scale", DType::kF16, {n, k / 128}, View(scales)});
    }
    return WriteSafetensors(std::move(tensors), metadata);
  }

  absl::StatusOr<std::string> Layer(const LinearLayer& layer) {
    const int64_t n = layer.rows, k = layer.cols, q = planes_;
    const int64_t group = group_ == 0 ? k : group_, groups = (k + group - 1) / group;
    Planes& of = made_[{n, k}];
    if (of.planes.empty()) {
      of.planes = Random<uint32_t>(q * n * k / 32, ~0u, 0);
      of.scale = Random<uint16_t>(n * groups, 0xff, 0x1c00);
      of.exponents = Random<uint8_t>(n * ((groups + 1) / 2), 0x11, 0);  // sets 0 and 1
    }
    return WriteSafetensors({{"planes", DType::kU32, {q, n, k / 32}, View(of.planes)},
                             {"scale", DType::kF16, {n, groups}, View(of.scale)},
                             {"exponents", DType::kU8, {n, (groups + 1) / 2}, View(of.exponents)}},
                            {{"layer", layer.name},
                             {"encoding", "bcq/shift"},
                             {"q", absl::StrCat(q)},
                             {"rows", absl::StrCat(n)},
                             {"cols", absl::StrCat(k)},
                             {"group", absl::StrCat(group)},
                             {"rotation", "wht128"}});
  }

  struct Planes {
    std::vector<uint32_t> planes;
    std::vector<uint16_t> scale;
    std::vector<uint8_t> exponents;
  };
  const ArchitectureSpec spec_;
  const int64_t planes_, group_;
  uint64_t state_ = 0x9e3779b97f4a7c15u;
  std::map<std::pair<int64_t, int64_t>, Planes> made_;
};

double Median(std::vector<double> v) {
  std::nth_element(v.begin(), v.begin() + v.size() / 2, v.end());
  return v[v.size() / 2];
}

double Seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Milliseconds to read `bytes` once, by the best of the kernels that only read.
double FloorMs(int64_t bytes) {
  constexpr int64_t kChunk = int64_t{8} << 30;
  static const kernels::cuda::DeviceVector<char> buffer(kChunk);
  static const kernels::cuda::DeviceVector<uint32_t> sink(1);
  const kernels::cuda::Stream stream;
  bytes = std::min(bytes / 16 * 16, kChunk);
  double best = 1e9;
  for (int variant = 0; variant < kernels::kReadVariants; ++variant) {
    for (int i = 0; i < 4; ++i) {
      cudaEvent_t begin, end;
      Check(cudaEventCreate(&begin));
      Check(cudaEventCreate(&end));
      Check(cudaEventRecord(begin, stream));
      Check(kernels::LaunchRead(variant, buffer.data(), bytes, sink.data(), stream));
      Check(cudaEventRecord(end, stream));
      Check(cudaEventSynchronize(end));
      float ms = 0;
      Check(cudaEventElapsedTime(&ms, begin, end));
      if (i > 0) best = std::min(best, double{ms});
      (void)cudaEventDestroy(begin);
      (void)cudaEventDestroy(end);
    }
  }
  return best;
}

void Measure(PackedModel* model, int planes, int64_t batch, int64_t context) {
  const ArchitectureSpec& spec = model->spec();
  constexpr int kSteps = 48;
  std::vector<std::unique_ptr<KvCache>> caches;
  std::vector<float> logits;
  std::vector<int32_t> prompt;
  for (int64_t i = 0; i < context; ++i) prompt.push_back(static_cast<int32_t>(i * 97 % spec.vocab));
  std::vector<double> prompts;
  for (int64_t s = 0; s < batch; ++s) {
    caches.push_back(model->NewCache(context + kSteps));
    const double start = Seconds();
    OrDie(model->Forward(prompt, caches.back().get(), false, &logits));
    prompts.push_back(Seconds() - start);
    if (batch == 1) {  // warm, and again
      for (int i = 0; i < 4; ++i) {
        caches.back()->Truncate(0);
        const double again = Seconds();
        OrDie(model->Forward(prompt, caches.back().get(), false, &logits));
        prompts.push_back(Seconds() - again);
      }
    }
  }
  for (const auto& cache : caches) cache->Truncate(context - kSteps / 2);
  const auto step = [&](bool sample, std::vector<int32_t>* tokens) {
    std::vector<BatchRow> rows;
    for (int64_t s = 0; s < batch; ++s) {
      rows.push_back({(*tokens)[s], caches[s].get(), true, sample});
    }
    const double start = Seconds();
    if (sample) {
      OrDie(model->ForwardSample(rows, &logits, tokens));
    } else {
      OrDie(model->ForwardBatch(rows, &logits));
    }
    return Seconds() - start;
  };
  std::vector<int32_t> tokens(batch, 1);
  std::vector<double> sampled, whole;
  for (int i = 0; i < kSteps; ++i) sampled.push_back(step(true, &tokens));
  for (const auto& cache : caches) cache->Truncate(context - kSteps / 2);
  for (int i = 0; i < kSteps; ++i) whole.push_back(step(false, &tokens));
  sampled.erase(sampled.begin(), sampled.begin() + 4);
  whole.erase(whole.begin(), whole.begin() + 4);
  const double seconds = Median(sampled);
  // The embedding is not read, but for a row a token.
  const int64_t embed = spec.vocab * spec.hidden * 65 / 64;
  const int64_t kv = batch * context * spec.blocks * spec.kv_heads * spec.head_dim * 2 * 2;
  const int64_t bytes = static_cast<int64_t>(model->weight_bytes()) - embed + kv;
  const double floor = FloorMs(bytes) * 1e-3;
  std::printf("%6d %6ld %8ld %9.2f %9.3f %10.1f %9.3f %8.0f%% %14.3f %14.0f\n", planes, batch,
              context, bytes / 1e6, seconds * 1e3, batch / seconds, floor * 1e3,
              100 * floor / seconds, Median(whole) * 1e3, context / Median(prompts));
  std::fflush(stdout);
}

// Until a prompt's first token: computed, and with its whole pages shared with the same prompt's.
void MeasureFirstToken(PackedModel* model, int64_t context) {
  std::vector<int32_t> prompt, tokens;
  for (int64_t i = 0; i < context; ++i) {
    prompt.push_back(static_cast<int32_t>(i * 89 % model->spec().vocab));
  }
  std::vector<float> logits;
  std::vector<double> computed, shared;
  std::unique_ptr<KvCache> first;
  int64_t given = 0;
  const auto run = [&](KvCache* cache) {
    std::vector<BatchRow> rows;
    for (int64_t i = cache->length(); i < context; ++i) rows.push_back({prompt[i], cache});
    rows.back().logits = rows.back().sample = true;
    OrDie(model->ForwardSample(rows, &logits, &tokens));
  };
  for (int i = 0; i < 6; ++i) {
    first = model->NewCache(context);
    const double start = Seconds();
    run(first.get());
    const double middle = Seconds();
    const auto second = model->NewCache(context);
    given = second->SharePrefix(*first, context - 1);
    run(second.get());
    if (i == 0) continue;  // warms up
    computed.push_back(middle - start);
    shared.push_back(Seconds() - middle);
  }
  std::printf("# first token of a prompt of %ld: %.2f ms; with %ld of its tokens shared: %.2f ms\n",
              context, Median(computed) * 1e3, given, Median(shared) * 1e3);
}

std::vector<int64_t> Numbers(const std::string& list) {
  std::vector<int64_t> out;
  for (const absl::string_view part : absl::StrSplit(list, ',')) {
    out.emplace_back();
    if (!absl::SimpleAtoi(part, &out.back())) std::exit(2);
  }
  return out;
}

int Main(int argc, char** argv) {
  std::map<std::string, std::string> flags = {{"--planes", "2,3,4"},
                                              {"--batch", "1,8,16"},
                                              {"--context", "1024"},
                                              {"--blocks", "32"},
                                              {"--group", "128"}};
  for (int i = 1; i + 1 < argc; i += 2) {
    if (flags.count(argv[i]) == 0) std::exit(2);
    flags[argv[i]] = argv[i + 1];
  }
  const std::time_t now = std::time(nullptr);
  char date[32];
  std::strftime(date, sizeof(date), "%Y-%m-%d %H:%M UTC", std::gmtime(&now));
  std::printf("%s\n%s\n", date, OrDie(DescribeCudaDevice()).c_str());
  std::printf("%6s %6s %8s %9s %9s %10s %9s %9s %14s %14s\n", "planes", "batch", "context", "MB",
              "ms", "tokens/s", "floor ms", "of floor", "ms with logits", "prompt tok/s");
  const int64_t group = Numbers(flags["--group"])[0];
  if (group != 128) std::printf("# groups of %ld inputs (0: whole rows)\n", group);
  const ArchitectureSpec spec = LlamaSpec(Numbers(flags["--blocks"])[0]);
  for (const int64_t planes : Numbers(flags["--planes"])) {
    RandomPackage package(spec, static_cast<int>(planes), group);
    const double start = Seconds();
    const auto model = OrDie(LoadCudaModel(
        package.ConfigJson(), [&](const std::string& digest) { return package.Read(digest); }, {}));
    std::printf("# %ld planes: %.1f MB on the device, made and loaded in %.1f s\n", planes,
                model->weight_bytes() / 1e6, Seconds() - start);
    MeasureFirstToken(model.get(), Numbers(flags["--context"])[0]);
    for (const int64_t batch : Numbers(flags["--batch"])) {
      Measure(model.get(), static_cast<int>(planes), batch, Numbers(flags["--context"])[0]);
    }
  }
  return 0;
}

}  // namespace
}  // namespace shiftadd

int main(int argc, char** argv) { return shiftadd::Main(argc, argv); }
