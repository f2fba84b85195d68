// Tokens a second of the executor on the CPU, for a package of an OCI image layout.
//
//   cpu_serve_benchmark --package NAME:TAG --package-dir DIR
//                       [--threads 0] [--prompt 512] [--generate 128] [--batch 1] [--rounds 1]
//
// "prompt": one sequence of `prompt` tokens in one call, the last token's logits. "generation":
// `batch` sequences, from a first token, `generate` steps of one token each with its logits and
// the choice of the likeliest. Prints one JSON object a round and test, with the bytes of weights
// that a token reads (linears and head) and the resident memory of this process: now and at its
// peak.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "kernels/cpu_linear.h"
#include "worker/serve/package_source.h"
#include "worker/serve/packed_model.h"
#include "worker/serve/sampler.h"

namespace shiftadd {
namespace {

struct Options {
  PackageLocation location;
  int threads = 0;
  int64_t prompt = 512;
  int64_t generate = 128;
  int64_t batch = 1;
  int rounds = 1;
};

template <typename T>
T OrDie(absl::StatusOr<T> value) {
  if (value.ok()) return *std::move(value);
  std::fprintf(stderr, "%s\n", value.status().ToString().c_str());
  std::exit(1);
}
void OrDie(const absl::Status& status) {
  if (!status.ok()) OrDie(absl::StatusOr<int>(status));
}

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

void Report(const char* test, double seconds, int64_t tokens, const PackedModel& model,
            const Options& options) {
  std::printf(
      "{\"test\": \"%s\", \"threads\": %d, \"batch\": %lld, \"tokens_per_second\": %.2f, \"isa\": "
      "\"%s\", \"weight_bytes\": %llu, \"rss_kib\": %lld, \"peak_rss_kib\": %lld}\n",
      test, model.threads(), static_cast<long long>(options.batch),
      static_cast<double>(tokens) / seconds, kernels::IsaName(model.isa()),
      static_cast<unsigned long long>(model.weight_bytes()),
      static_cast<long long>(StatusKib("VmRSS:")), static_cast<long long>(StatusKib("VmHWM:")));
  std::fflush(stdout);
}

void Prompt(PackedModel* model, const Options& options) {
  const std::unique_ptr<KvCache> cache = model->NewCache(options.prompt);
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < options.prompt; ++i) tokens.push_back(TokenAt(i, model->spec().vocab));
  std::vector<float> logits;
  const double start = Seconds();
  OrDie(model->Forward(tokens, cache.get(), /*all_logits=*/false, &logits));
  Report("prompt", Seconds() - start, options.prompt, *model, options);
}

void Generation(PackedModel* model, const Options& options) {
  const int64_t vocab = model->spec().vocab;
  std::vector<std::unique_ptr<KvCache>> caches;
  std::vector<BatchRow> rows;
  for (int64_t i = 0; i < options.batch; ++i) {
    caches.push_back(model->NewCache(options.generate));
    rows.push_back({TokenAt(i, vocab), caches.back().get(), true});
  }
  std::vector<float> logits;
  const double start = Seconds();
  for (int64_t step = 0; step < options.generate; ++step) {
    OrDie(model->ForwardBatch(rows, &logits));
    for (int64_t i = 0; i < options.batch; ++i) {
      rows[i].token = ArgMax(logits.data() + i * vocab, vocab);
    }
  }
  Report("generation", Seconds() - start, options.generate * options.batch, *model, options);
}

int Main(int argc, char** argv) {
  Options options;
  CLI::App app("Tokens a second of the executor on the CPU.");
  app.add_option("--package", options.location.reference, "Package, name:tag")->required();
  app.add_option("--package-dir", options.location.package_dir, "OCI image layout")->required();
  app.add_option("--threads", options.threads, "0: one for each usable core");
  app.add_option("--prompt", options.prompt, "Tokens of a prompt; 0: none");
  app.add_option("--generate", options.generate, "Tokens to generate; 0: none");
  app.add_option("--batch", options.batch, "Sequences that generate together");
  app.add_option("--rounds", options.rounds, "How often");
  CLI11_PARSE(app, argc, argv);
  PackedModelOptions how;
  how.threads = options.threads;
  std::unique_ptr<PackedModel> model;
  {
    const ResolvedPackage package = OrDie(ResolvePackage(options.location));
    model = OrDie(PackedModel::Load(package.config_json, package.read, how));
  }
  std::vector<float> logits;
  OrDie(model->Forward({0, 1, 2}, model->NewCache(3).get(), /*all_logits=*/false, &logits));
  for (int round = 0; round < options.rounds; ++round) {
    if (options.prompt > 0) Prompt(model.get(), options);
    if (options.generate > 0) Generation(model.get(), options);
  }
  return 0;
}

}  // namespace
}  // namespace shiftadd

int main(int argc, char** argv) { return shiftadd::Main(argc, argv); }
