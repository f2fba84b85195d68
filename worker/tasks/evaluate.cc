// EVALUATE: variants against the full-precision model, and the packed executor against the
// reference.
#include "worker/evaluate/evaluate.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/base/status_macros.h"
#include "worker/serve/packed_model.h"
#include "worker/tasks/tasks.h"

namespace shiftadd {
namespace {

constexpr int64_t kServerCheckTokens = 64;

absl::StatusOr<std::unique_ptr<WeightProvider>> OpenVariant(const v1::EvaluateTask& task,
                                                            const v1::Variant& variant,
                                                            JobSession* session) {
  std::map<std::string, std::string> digests;
  for (const v1::VariantLayer& layer : variant.layers()) digests[layer.layer()] = layer.digest();
  return OpenDequantized(
      session->source().spec(), std::move(digests), task.head_digest(), task.unquantized_digest(),
      [session](const std::string& digest) { return session->store().Get(digest); },
      session->threads());
}

// The models of the task's variants: those of the last task if they are the same. On a GPU they
// keep their blocks if all of them fit beside the full model; on a CPU reading them again costs
// little beside running them.
absl::StatusOr<JobSession::Variants*> OpenVariants(const v1::EvaluateTask& task,
                                                   JobSession* session) {
  v1::EvaluateTask same;
  *same.mutable_variants() = task.variants();
  same.set_head_digest(task.head_digest());
  same.set_unquantized_digest(task.unquantized_digest());
  std::string key = same.SerializeAsString();
  JobSession::Variants& variants = session->variants();
  if (variants.key == key) return &variants;
  variants = {};
  const Device device = session->evaluation_device();
  const int number_bytes = device == session->device() ? 4 : 2;
  VariantOptions options{session->threads(), 1, device};
  if (device != Device::kCpu && session->Fits(1 + task.variants_size(), number_bytes))
    options.resident_blocks = 0;
  for (const v1::Variant& variant : task.variants()) {
    SA_ASSIGN_OR_RETURN(auto weights, OpenVariant(task, variant, session));
    SA_ASSIGN_OR_RETURN(auto model, VariantModel::Create(weights.get(), options));
    variants.weights.push_back(std::move(weights));
    variants.models.push_back(std::move(model));
  }
  variants.key = std::move(key);
  return &variants;
}

// The largest difference of the packed executor's logits from the reference's on dequantized
// weights, as a fraction of the reference logits' range. The reference runs in fp32 where the
// session runs: it wants every weight as a number once.
absl::StatusOr<double> ServerLogitError(const v1::EvaluateTask& task, const WeightProvider& variant,
                                        const TokenWindows& windows, JobSession* session,
                                        TaskControl* control) {
  const int64_t length = std::min(windows.length, kServerCheckTokens);
  const std::vector<int32_t> tokens(windows.tokens.begin(), windows.tokens.begin() + length);
  std::vector<float> expected;
  {
    const Device device = session->device() == Device::kCuda ? Device::kCuda : Device::kCpu;
    SA_ASSIGN_OR_RETURN(auto reference, ReferenceModel::Create(&variant, session->threads(),
                                                               /*resident_blocks=*/1, device));
    SA_ASSIGN_OR_RETURN(HiddenStates hidden, reference->Embed(tokens, 1, length));
    for (int64_t block = 0; block < variant.spec().blocks; ++block) {
      SA_RETURN_IF_ERROR(reference->RunBlock(block, &hidden, nullptr, control));
      ++control->progress_count;
    }
    SA_RETURN_IF_ERROR(reference->Logits(hidden, 0, &expected));
  }
  PackedModelOptions options;
  options.threads = session->threads();
  SA_ASSIGN_OR_RETURN(
      auto packed,
      PackedModel::Load(
          task.package_config_json(),
          [session](const std::string& digest) { return session->store().Get(digest); }, options));
  auto cache = packed->NewCache(length);
  std::vector<float> found;
  SA_RETURN_IF_ERROR(packed->Forward(tokens, cache.get(), /*all_logits=*/true, &found));
  if (found.size() != expected.size()) {
    return absl::InternalError(absl::StrCat("packed executor gave ", found.size(),
                                            " logits, the reference ", expected.size()));
  }
  float low = expected[0], high = expected[0], error = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    low = std::min(low, expected[i]);
    high = std::max(high, expected[i]);
    error = std::max(error, std::abs(found[i] - expected[i]));
  }
  return high > low ? error / (high - low) : 0.0;
}

// The task's share of its part's windows.
absl::StatusOr<TokenWindows> ReadShare(const v1::EvaluateTask& task, JobSession* session) {
  SA_ASSIGN_OR_RETURN(TokenWindows windows, session->ReadTokens(task.tokens_digest()));
  const int64_t first = task.first_window();
  const int64_t count = task.windows() > 0 ? task.windows() : windows.count - first;
  if (count < 1 || first + count > windows.count) {
    return absl::InvalidArgumentError(absl::StrCat("evaluate task: windows ", first, " to ",
                                                   first + count, " of ", windows.count));
  }
  const auto begin = windows.tokens.begin() + first * windows.length;
  windows.tokens = std::vector<int32_t>(begin, begin + count * windows.length);
  windows.count = count;
  return windows;
}

}  // namespace

absl::StatusOr<v1::EvaluateResult> RunEvaluate(const v1::EvaluateTask& task, JobSession* session,
                                               TaskControl* control) {
  if (task.variants().empty()) return absl::InvalidArgumentError("evaluate task: no variant");
  SA_ASSIGN_OR_RETURN(const TokenWindows windows, ReadShare(task, session));
  // The activations of PROFILING are not needed again.
  session->held().clear();
  session->SetHeldBlock(-1);
  SA_ASSIGN_OR_RETURN(JobSession::Variants* const variants, OpenVariants(task, session));
  std::vector<VariantModel*> models;
  for (const auto& model : variants->models) models.push_back(model.get());
  v1::EvaluateResult result;
  {
    SA_ASSIGN_OR_RETURN(ReferenceModel* const full, session->evaluation_model());
    PhaseTimer timer(session->metrics().measure);
    SA_ASSIGN_OR_RETURN(const std::vector<WindowScores> scores,
                        ScoreWindows(full, models, windows.tokens, windows.count, windows.length,
                                     session->threads(), control));
    for (const WindowScores& score : scores) {
      v1::WindowScore* out = result.add_windows();
      out->set_nll_full(score.nll_full);
      out->set_tokens(static_cast<uint32_t>(score.tokens));
      for (const double nll : score.nll) out->add_nll(nll);
      for (const double kl : score.kl) out->add_kl(kl);
      if (!task.token_scores()) continue;
      out->mutable_token_kl()->Assign(score.token_kl.begin(), score.token_kl.end());
      out->set_top1_agreements(static_cast<uint32_t>(score.top1_agreements));
    }
  }
  if (task.check_server()) {
    const absl::Time begin = absl::Now();
    SA_ASSIGN_OR_RETURN(const double error, ServerLogitError(task, *variants->weights.front(),
                                                             windows, session, control));
    result.set_server_max_logit_error(error);
    spdlog::info("evaluation: the server's executor compared with the reference in {:.1f} s",
                 absl::ToDoubleSeconds(absl::Now() - begin));
  }
  return result;
}

}  // namespace shiftadd
