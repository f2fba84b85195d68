// The logits of a package on a GPU beside those of the CPU executor, over real text.
//
//   serve_logits_compare DIR REFERENCE TEXT [windows] [length]
//
// DIR is an OCI image layout, TEXT plain. Both executors keep their defaults (8-bit activations for
// rotated packages). Prints, over all tokens: the greatest and the mean absolute difference beside
// the greatest logit, how often the likeliest token is the same, the mean KL divergence CPU ‖ GPU
// in nats, and each one's perplexity.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "services/base/status_macros.h"
#include "worker/model/tokenizer.h"
#include "worker/serve/cuda/cuda_model.h"
#include "worker/serve/package_config.h"
#include "worker/serve/package_source.h"
#include "worker/serve/packed_model.h"

namespace shiftadd {
namespace {

struct Sums {
  double largest = 0, worst = 0, difference = 0, kl = 0, cpu_loss = 0, gpu_loss = 0;
  int64_t tokens = 0, same = 0, predicted = 0;
};

double LogSum(const float* x, int64_t n) {
  const double top = *std::max_element(x, x + n);
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += std::exp(x[i] - top);
  return top + std::log(sum);
}

void AddToken(const float* cpu, const float* gpu, int64_t vocab, int32_t next, Sums* sums) {
  const double cpu_log = LogSum(cpu, vocab), gpu_log = LogSum(gpu, vocab);
  double difference = 0;
  for (int64_t i = 0; i < vocab; ++i) {
    const double d = std::abs(cpu[i] - gpu[i]);
    sums->worst = std::max(sums->worst, d);
    sums->largest = std::max(sums->largest, double{std::abs(cpu[i])});
    difference += d;
    const double log_p = cpu[i] - cpu_log;
    sums->kl += std::exp(log_p) * (log_p - (gpu[i] - gpu_log));
  }
  sums->difference += difference / static_cast<double>(vocab);
  sums->same +=
      std::max_element(cpu, cpu + vocab) - cpu == std::max_element(gpu, gpu + vocab) - gpu;
  ++sums->tokens;
  if (next < 0) return;
  sums->cpu_loss += cpu_log - cpu[next];
  sums->gpu_loss += gpu_log - gpu[next];
  ++sums->predicted;
}

absl::Status Compare(const std::string& directory, const std::string& reference,
                     const std::string& text, int64_t windows, int64_t length) {
  PackageLocation location;
  location.reference = reference;
  location.package_dir = directory;
  SA_ASSIGN_OR_RETURN(const ResolvedPackage package, ResolvePackage(location));
  SA_ASSIGN_OR_RETURN(const PackageConfig config, ParsePackageConfig(package.config_json));
  SA_ASSIGN_OR_RETURN(const std::string tokenizer_json, package.read(config.tokenizer));
  SA_ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::FromJson(tokenizer_json));
  SA_ASSIGN_OR_RETURN(const auto cpu, PackedModel::Load(package.config_json, package.read, {}));
  SA_ASSIGN_OR_RETURN(const auto gpu, LoadCudaModel(package.config_json, package.read, {}));
  const std::vector<int32_t> ids = tokenizer->Encode(text, true, false);
  const int64_t vocab = config.spec.vocab;
  Sums sums;
  std::vector<float> on_cpu, on_gpu;
  for (int64_t w = 0; w < windows; ++w) {
    const int64_t begin = w * length;
    if (begin + length > static_cast<int64_t>(ids.size())) break;
    const std::vector<int32_t> tokens(ids.begin() + begin, ids.begin() + begin + length);
    SA_RETURN_IF_ERROR(cpu->Forward(tokens, cpu->NewCache(length).get(), true, &on_cpu));
    SA_RETURN_IF_ERROR(gpu->Forward(tokens, gpu->NewCache(length).get(), true, &on_gpu));
    for (int64_t t = 0; t < length; ++t) {
      AddToken(&on_cpu[t * vocab], &on_gpu[t * vocab], vocab, t + 1 < length ? tokens[t + 1] : -1,
               &sums);
    }
  }
  const auto n = static_cast<double>(sums.tokens), p = static_cast<double>(sums.predicted);
  std::printf("%s (%s)\ngpu: %s\n%ld tokens in windows of %ld, %ld logits each\n",
              package.name.c_str(), package.digest.c_str(), gpu->device().c_str(),
              static_cast<long>(sums.tokens), static_cast<long>(length), static_cast<long>(vocab));
  std::printf("greatest logit %.3f; greatest difference %.4f (%.2e of it), mean %.5f\n",
              sums.largest, sums.worst, sums.worst / sums.largest, sums.difference / n);
  std::printf("likeliest token the same: %.3f %%; KL(cpu || gpu) %.3e nats\n",
              100 * static_cast<double>(sums.same) / n, sums.kl / n);
  std::printf("perplexity: cpu %.4f, gpu %.4f\n", std::exp(sums.cpu_loss / p),
              std::exp(sums.gpu_loss / p));
  return absl::OkStatus();
}

}  // namespace
}  // namespace shiftadd

int main(int argc, char** argv) {
  if (argc < 4) {
    std::fprintf(stderr, "usage: serve_logits_compare DIR REFERENCE TEXT [windows] [length]\n");
    return 2;
  }
  std::ifstream in(argv[3]);
  std::stringstream text;
  text << in.rdbuf();
  const absl::Status status =
      shiftadd::Compare(argv[1], argv[2], text.str(), argc > 4 ? std::atol(argv[4]) : 8,
                        argc > 5 ? std::atol(argv[5]) : 512);
  if (status.ok()) return 0;
  std::fprintf(stderr, "serve_logits_compare: %s\n", status.ToString().c_str());
  return 1;
}
