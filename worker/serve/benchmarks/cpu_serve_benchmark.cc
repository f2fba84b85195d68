// Tokens a second of the executor on the CPU, for a package of an OCI image layout.
//
//   cpu_serve_benchmark --package NAME:TAG --package-dir DIR
//                       [--threads 0] [--prompt 512] [--generate 128] [--batch 1 ...] [--rounds 1]
//                       [--temperature 0] [--products] [--crowding watched]
//
// "prompt": one sequence of `prompt` tokens in one call, the last token's logits. "generation":
// `batch` sequences, from a first token, `generate` steps of one token each with its logits and
// the choice of the next. "products" (with --products): the matrix products of such steps and
// nothing else. Prints one JSON object a round and test, with the bytes of weights that a token
// reads (linears and head) and the resident memory of this process: now and at its peak. With
// --products and several batches a last one, "batching": how many times the first batch's tokens a
// second the last batch gives, in products and in generation, the medians of the rounds' ratios,
// and what share of the first ratio the second is.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "kernels/cpu_linear.h"
#include "services/base/or_die.h"
#include "worker/serve/package_source.h"
#include "worker/serve/packed_executor.h"
#include "worker/serve/packed_model.h"
#include "worker/serve/sampler.h"

namespace shiftadd {
namespace {

struct Options {
  PackageLocation location;
  int threads = 0;
  int64_t prompt = 512;
  int64_t generate = 128;
  std::vector<int64_t> batches = {1};
  int rounds = 1;
  double temperature = 0;
  bool products = false;
};

double Seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// A line of /proc/self/status, KiB.
int64_t StatusKib(const std::string& name) {
  std::ifstream file("/proc/self/status");
  std::string word;
  int64_t kib = 0;
  while (file >> word) {
    if (word == name && file >> kib) return kib;
  }
  return 0;
}

// Ids spread over the vocabulary, the same in every run.
int32_t TokenAt(int64_t i, int64_t vocab) { return static_cast<int32_t>((i * 7919 + 11) % vocab); }

// Tokens a second.
double Report(const char* test, double seconds, int64_t tokens, const PackedModel& model,
              int64_t batch) {
  const double rate = static_cast<double>(tokens) / seconds;
  std::printf(
      "{\"test\": \"%s\", \"threads\": %d, \"batch\": %lld, \"tokens_per_second\": %.2f, \"isa\": "
      "\"%s\", \"weight_bytes\": %llu, \"rss_kib\": %lld, \"peak_rss_kib\": %lld}\n",
      test, model.threads(), static_cast<long long>(batch), rate, kernels::IsaName(model.isa()),
      static_cast<unsigned long long>(model.weight_bytes()),
      static_cast<long long>(StatusKib("VmRSS:")), static_cast<long long>(StatusKib("VmHWM:")));
  std::fflush(stdout);
  return rate;
}

void Prompt(PackedModel* model, const Options& options) {
  const std::unique_ptr<KvCache> cache = model->NewCache(options.prompt);
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < options.prompt; ++i) tokens.push_back(TokenAt(i, model->spec().vocab));
  std::vector<float> logits;
  const double start = Seconds();
  OrDie(model->Forward(tokens, cache.get(), /*all_logits=*/false, &logits));
  Report("prompt", Seconds() - start, options.prompt, *model, 1);
}

double Generation(PackedModel* model, const Options& options, int64_t batch) {
  const int64_t vocab = model->spec().vocab;
  std::vector<std::unique_ptr<KvCache>> caches;
  std::vector<BatchRow> rows;
  std::vector<Sampler> samplers;
  SamplingParams sampling;
  sampling.temperature = options.temperature;
  for (int64_t i = 0; i < batch; ++i) {
    caches.push_back(model->NewCache(options.generate));
    rows.push_back({TokenAt(i, vocab), caches.back().get(), true});
    samplers.emplace_back(sampling, static_cast<uint64_t>(i));
  }
  std::vector<float> logits;
  const double start = Seconds();
  for (int64_t step = 0; step < options.generate; ++step) {
    OrDie(model->ForwardBatch(rows, &logits));
    model->ForEach(batch, [&](int64_t i) {
      rows[i].token = OrDie(samplers[i].Next(logits.data() + i * vocab, vocab));
    });
  }
  return Report("generation", Seconds() - start, options.generate * batch, *model, batch);
}

double Products(PackedModel* model, const Options& options, int64_t batch) {
  auto* executor = dynamic_cast<PackedExecutor*>(model);
  if (executor == nullptr) OrDie(absl::UnimplementedError("--products is of the CPU's executor"));
  const double start = Seconds();
  for (int64_t step = 0; step < options.generate; ++step) executor->RunProducts(batch);
  return Report("products", Seconds() - start, options.generate * batch, *model, batch);
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// One round's tokens a second, the last batch's over the first's.
struct Gain {
  double products, generation;
};

Gain Round(PackedModel* model, const Options& options) {
  std::vector<double> products, generation;
  if (options.prompt > 0) Prompt(model, options);
  for (const int64_t batch : options.batches) {
    if (options.products) products.push_back(Products(model, options, batch));
    if (options.generate > 0) generation.push_back(Generation(model, options, batch));
  }
  if (products.empty() || generation.empty()) return {1, 1};
  return {products.back() / products.front(), generation.back() / generation.front()};
}

void ReportGains(const std::vector<Gain>& gains, const Options& options) {
  std::vector<double> products, generation, shares;
  for (const Gain& gain : gains) {
    products.push_back(gain.products);
    generation.push_back(gain.generation);
    shares.push_back(gain.generation / gain.products);
  }
  std::printf(
      "{\"test\": \"batching\", \"batches\": [%lld, %lld], \"products_ratio\": %.3f, "
      "\"generation_ratio\": %.3f, \"share\": %.3f}\n",
      static_cast<long long>(options.batches.front()),
      static_cast<long long>(options.batches.back()), Median(products), Median(generation),
      Median(shares));
}

int Main(int argc, char** argv) {
  Options options;
  PackedModelOptions how;
  how.half_cache = true;
  CLI::App app("Tokens a second of the executor on the CPU.");
  app.add_option("--package", options.location.reference, "Package, name:tag")->required();
  app.add_option("--package-dir", options.location.package_dir, "OCI image layout")->required();
  app.add_option("--threads", options.threads, "0: one for each usable core");
  app.add_option("--prompt", options.prompt, "Tokens of a prompt; 0: none");
  app.add_option("--generate", options.generate, "Tokens to generate; 0: none");
  app.add_option("--batch", options.batches, "Sequences that generate together, a round of each")
      ->check(CLI::Range(1, 128));
  app.add_option("--rounds", options.rounds, "How often")->check(CLI::Range(1, 1000000));
  app.add_option("--temperature", options.temperature, "Of the choice of tokens; 0: the likeliest");
  app.add_flag("--half-cache,!--float-cache", how.half_cache,
               "Keys and values in fp16, as the server has them (default), or in fp32");
  const std::map<std::string, Crowding> crowdings = {
      {"never", Crowding::kNever}, {"always", Crowding::kAlways}, {"watched", Crowding::kWatched}};
  app.add_option("--crowding", how.crowding,
                 "When the threads work as beside busy neighbours (default: as the server does)")
      ->transform(CLI::CheckedTransformer(crowdings));
  app.add_flag("--products", options.products, "Also the matrix products by themselves");
  CLI11_PARSE(app, argc, argv);
  how.threads = options.threads;
  std::unique_ptr<PackedModel> model;
  {
    const ResolvedPackage package = OrDie(ResolvePackage(options.location));
    model = OrDie(PackedModel::Load(package.config_json, package.read, how));
  }
  std::vector<float> logits;
  OrDie(model->Forward({0, 1, 2}, model->NewCache(3).get(), /*all_logits=*/false, &logits));
  std::vector<Gain> gains;
  for (int round = 0; round < options.rounds; ++round) {
    gains.push_back(Round(model.get(), options));
  }
  if (options.products && options.batches.size() > 1 && options.generate > 0) {
    ReportGains(gains, options);
  }
  return 0;
}

}  // namespace
}  // namespace shiftadd

int main(int argc, char** argv) { return shiftadd::Main(argc, argv); }
