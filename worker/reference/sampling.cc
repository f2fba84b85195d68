// Self-written calibration text: TorchModel::Sample.
#include "worker/reference/sampling.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/reference/counter_random.h"
#include "worker/reference/draw.h"
#include "worker/reference/torch_model.h"
#include "worker/reference/torch_seam.h"

namespace shiftadd::reference {

namespace {

// Below it, a sequence more costs next to nothing: reading the weights is what takes the time.
constexpr int64_t kFewestTogether = 4;

}  // namespace

int32_t FirstToken(const ArchitectureSpec& spec, uint64_t seed, int64_t sequence) {
  return static_cast<int32_t>(spec.bos_token >= 0
                                  ? spec.bos_token
                                  : UniformAt(seed, sequence, 0) * static_cast<double>(spec.vocab));
}

absl::StatusOr<int32_t> NextToken(const ArchitectureSpec& spec, const float* logits, uint64_t seed,
                                  int64_t sequence, int64_t t) {
  const int64_t token = DrawFromSoftmax(logits, spec.vocab, UniformAt(seed, sequence, t));
  if (token >= 0) return static_cast<int32_t>(token);
  return absl::InvalidArgumentError(absl::StrCat("sampling: the logits of sequence ", sequence,
                                                 ", token ", t, " are not finite"));
}

absl::Status TorchModel::LoadDecoder(TaskControl* control) {
  if (decoder_ != nullptr) return absl::OkStatus();
  blocks_.Clear();
  SA_ASSIGN_OR_RETURN(
      decoder_, DecoderWeights::Read(weights_, &DecodeKernelsFor(kernels::DetectIsa()), control));
  return absl::OkStatus();
}

absl::Status TorchModel::SampleTogether(uint64_t seed, int64_t first, int64_t count, int64_t length,
                                        TaskControl* control, double share, int32_t* out) {
  Decoder decoder(decoder_.get(), static_cast<int>(count), length);
  std::vector<int32_t> tokens(count);
  for (int64_t i = 0; i < count; ++i) {
    tokens[i] = FirstToken(s_, seed, first + i);
    out[i * length] = tokens[i];
  }
  for (int64_t t = 1; t < length; ++t) {
    SA_ASSIGN_OR_RETURN(const float* const logits, decoder.Step(tokens, control));
    for (int64_t i = 0; i < count; ++i) {
      SA_ASSIGN_OR_RETURN(tokens[i], NextToken(s_, logits + i * s_.vocab, seed, first + i, t));
      out[i * length + t] = tokens[i];
    }
    if (control != nullptr) {
      ++control->progress_count;
      control->progress.fetch_add(share / static_cast<double>(length - 1));
    }
  }
  return absl::OkStatus();
}

absl::Status TorchModel::CheckSampling(int64_t first, int64_t count, int64_t length) const {
  if (first < 0 || count < 0 || length < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("sampling: first ", first, ", count ", count, ", length ", length));
  }
  if (s_.bos_token >= s_.vocab) {
    return absl::InvalidArgumentError(
        absl::StrCat("sampling: BOS is ", s_.bos_token, ", the vocabulary ", s_.vocab));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> TorchModel::Sample(uint64_t seed, int64_t first, int64_t count,
                                                        int64_t length, TaskControl* control) {
  SA_RETURN_IF_ERROR(CheckSampling(first, count, length));
  SA_RETURN_IF_ERROR(LoadDecoder(control));
  const int64_t together =
      std::clamp<int64_t>((count + threads_ - 1) / threads_, kFewestTogether, kDecodeLanes);
  const int64_t parts = (count + together - 1) / together;
  std::vector<int32_t> out(count * length);
  SA_RETURN_IF_ERROR(ParallelFor(parts, threads_, [&](int64_t part) {
    const int64_t begin = part * together, size = std::min(together, count - begin);
    return SampleTogether(seed, first + begin, size, length, control,
                          1.0 / static_cast<double>(parts), out.data() + begin * length);
  }));
  return out;
}

}  // namespace shiftadd::reference
