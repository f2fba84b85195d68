// TorchModel::ScoreSequence: cross entropy and divergence from logits.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/reference/divergence.h"
#include "worker/reference/torch_model.h"
#include "worker/reference/torch_seam.h"

namespace shiftadd::reference {
namespace {

absl::Status NotFinite(int64_t sequence, int64_t token) {
  return absl::InvalidArgumentError(absl::StrCat("evaluation: window ", sequence, ", token ", token,
                                                 ": the logits are not finite"));
}

}  // namespace

absl::Status TorchModel::ScoreTokens(const std::vector<Scored>& models, int64_t sequence,
                                     int64_t begin, const std::vector<int32_t>& labels,
                                     TaskControl* control, SequenceScores* out) {
  const int64_t count = static_cast<int64_t>(labels.size());
  std::vector<at::Tensor> logits;
  for (const Scored& scored : models) {
    SA_RETURN_IF_ERROR(Check(control));
    logits.push_back(
        static_cast<TorchModel*>(scored.model)->HeadLogits(*scored.hidden, sequence, begin, count));
  }
  for (int64_t row = 0; row < count; ++row) {
    SA_RETURN_IF_ERROR(Check(control));
    const TokenReference full(logits[0].const_data_ptr<float>() + row * s_.vocab, s_.vocab);
    const double nll_full = full.Nll(labels[row]);
    if (!std::isfinite(nll_full)) return NotFinite(sequence, begin + row);
    out->nll_full += nll_full;
    for (size_t v = 0; v + 1 < models.size(); ++v) {
      const TokenScores token =
          full.Score(logits[v + 1].const_data_ptr<float>() + row * s_.vocab, labels[row]);
      if (!std::isfinite(token.nll) || !std::isfinite(token.kl))
        return NotFinite(sequence, begin + row);
      out->nll[v] += token.nll;
      out->kl[v] += token.kl;
      if (v > 0) continue;
      out->token_kl.push_back(static_cast<float>(token.kl));
      if (token.same_top) ++out->top1_agreements;
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<SequenceScores> TorchModel::ScoreSequence(const HiddenStates& h, int64_t sequence,
                                                         const int32_t* tokens,
                                                         const std::vector<Scored>& variants,
                                                         TaskControl* control) {
  std::vector<Scored> models = {{this, &h}};
  models.insert(models.end(), variants.begin(), variants.end());
  for (const Scored& scored : models) {
    auto& model = *static_cast<TorchModel*>(scored.model);
    SA_RETURN_IF_ERROR(model.CheckStates(*scored.hidden));
    if (sequence < 0 || sequence >= scored.hidden->count || scored.hidden->length != h.length ||
        model.s_.vocab != s_.vocab || model.device_ != device_) {
      return absl::InvalidArgumentError(absl::StrCat(
          "scores of sequence ", sequence, ": a model of ", model.s_.vocab, " tokens on ",
          scored.hidden->count, " sequences of ", scored.hidden->length, ", expected ", s_.vocab,
          " tokens and the full model's ", h.count, " sequences of ", h.length));
    }
    SA_RETURN_IF_ERROR(CatchTorch([&] { return model.LoadHead(); }));
  }
  SequenceScores out;
  out.nll.assign(variants.size(), 0.0);
  out.kl.assign(variants.size(), 0.0);
  SA_RETURN_IF_ERROR(CatchTorch([&]() -> absl::Status {
    // The last token has nothing to predict.
    for (int64_t begin = 0; begin < h.length - 1; begin += ScoreChunk()) {
      const int64_t end = std::min(begin + ScoreChunk(), h.length - 1);
      const std::vector<int32_t> labels(tokens + begin + 1, tokens + end + 1);
      SA_RETURN_IF_ERROR(ScoreTokens(models, sequence, begin, labels, control, &out));
      if (control != nullptr) ++control->progress_count;
    }
    return absl::OkStatus();
  }));
  return out;
}

}  // namespace shiftadd::reference
