// Self-written calibration text: TorchModel::Sample.
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
    tokens[i] = static_cast<int32_t>(s_.bos_token >= 0 ? s_.bos_token
                                                       : UniformAt(seed, first + i, 0) *
                                                             static_cast<double>(s_.vocab));
    out[i * length] = tokens[i];
  }
  for (int64_t t = 1; t < length; ++t) {
    SA_ASSIGN_OR_RETURN(const float* const logits, decoder.Step(tokens, control));
    for (int64_t i = 0; i < count; ++i) {
      const int64_t token =
          DrawFromSoftmax(logits + i * s_.vocab, s_.vocab, UniformAt(seed, first + i, t));
      if (token < 0) {
        return absl::InvalidArgumentError(absl::StrCat(
            "sampling: the logits of sequence ", first + i, ", token ", t, " are not finite"));
      }
      tokens[i] = static_cast<int32_t>(token);
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
