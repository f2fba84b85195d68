// Self-written calibration text: TorchModel::Sample.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/reference/counter_random.h"
#include "worker/reference/draw.h"
#include "worker/reference/microbatch.h"
#include "worker/reference/torch_model.h"
#include "worker/reference/torch_seam.h"

namespace shiftadd::reference {

absl::Status TorchModel::LoadDecoder(TaskControl* control) {
  if (decoder_ != nullptr) return absl::OkStatus();
  SA_RETURN_IF_ERROR(LoadHead());
  blocks_.Clear();
  auto decoder = std::make_unique<DecoderWeights>();
  decoder->spec = s_;
  decoder->final_norm = final_norm_;
  decoder->head = head_;
  SA_ASSIGN_OR_RETURN(decoder->embed, EmbedMatrix());
  for (int64_t block = 0; block < s_.blocks; ++block) {
    SA_RETURN_IF_ERROR(Check(control));
    SA_ASSIGN_OR_RETURN(std::shared_ptr<BlockWeights> weights, ReadBlock(weights_, block));
    weights->Pack(kMicrobatch);
    decoder->blocks.push_back(std::move(weights));
    if (control != nullptr) ++control->progress_count;
  }
  decoder_ = std::move(decoder);
  return absl::OkStatus();
}

absl::Status TorchModel::SampleMicrobatch(uint64_t seed, int64_t begin, int64_t length,
                                          TaskControl* control, double share,
                                          std::vector<int32_t>* out) {
  Decoder decoder(decoder_.get(), &rope_, length);
  std::vector<int32_t> tokens(kMicrobatch);
  for (int64_t i = 0; i < kMicrobatch; ++i) {
    tokens[i] = static_cast<int32_t>(s_.bos_token >= 0 ? s_.bos_token
                                                       : UniformAt(seed, begin + i, 0) *
                                                             static_cast<double>(s_.vocab));
    (*out)[i * length] = tokens[i];
  }
  for (int64_t t = 1; t < length; ++t) {
    SA_ASSIGN_OR_RETURN(const at::Tensor logits, decoder.Step(tokens, control));
    for (int64_t i = 0; i < kMicrobatch; ++i) {
      const int64_t token = DrawFromSoftmax(logits.const_data_ptr<float>() + i * s_.vocab, s_.vocab,
                                            UniformAt(seed, begin + i, t));
      if (token < 0) {
        return absl::InternalError(absl::StrCat("sampling: the logits of sequence ", begin + i,
                                                ", token ", t, " are not finite"));
      }
      tokens[i] = static_cast<int32_t>(token);
      (*out)[i * length + t] = tokens[i];
    }
    if (control != nullptr) {
      ++control->progress_count;
      control->progress.fetch_add(share / static_cast<double>(length - 1));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> TorchModel::Sample(uint64_t seed, int64_t first, int64_t count,
                                                        int64_t length, TaskControl* control) {
  if (first < 0 || count < 0 || length < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("sampling: first ", first, ", count ", count, ", length ", length));
  }
  if (s_.bos_token >= s_.vocab) {
    return absl::InvalidArgumentError(
        absl::StrCat("sampling: BOS is ", s_.bos_token, ", the vocabulary ", s_.vocab));
  }
  SA_RETURN_IF_ERROR(CatchTorch([&] {
    PrepareRope(length);
    return LoadDecoder(control);
  }));
  const int64_t begin = first / kMicrobatch, end = (first + count + kMicrobatch - 1) / kMicrobatch;
  std::vector<int32_t> out(count * length);
  SA_RETURN_IF_ERROR(
      ParallelFor(count == 0 ? 0 : end - begin, threads_, [&](int64_t m) -> absl::Status {
        const int64_t start = (begin + m) * kMicrobatch;
        std::vector<int32_t> part(kMicrobatch * length);
        SA_RETURN_IF_ERROR(SampleMicrobatch(seed, start, length, control,
                                            1.0 / static_cast<double>(end - begin), &part));
        for (int64_t s = std::max(first, start); s < std::min(first + count, start + kMicrobatch);
             ++s) {
          std::copy_n(part.begin() + (s - start) * length, length,
                      out.begin() + (s - first) * length);
        }
        return absl::OkStatus();
      }));
  return out;
}

}  // namespace shiftadd::reference
