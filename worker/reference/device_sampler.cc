#include "worker/reference/device_sampler.h"

#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <vector>

#include "services/base/status_macros.h"
#include "worker/reference/host_memory.h"
#include "worker/reference/microbatch.h"
#include "worker/reference/sampling.h"
#include "worker/reference/torch_model.h"
#include "worker/reference/torch_seam.h"

namespace shiftadd::reference {

absl::StatusOr<std::unique_ptr<DeviceSampler>> DeviceSampler::Create(const WeightProvider& weights,
                                                                     at::Device device,
                                                                     at::ScalarType type,
                                                                     int64_t length) {
  auto out = std::unique_ptr<DeviceSampler>(new DeviceSampler(weights.spec(), device, length));
  SA_RETURN_IF_ERROR(CatchTorch([&]() -> absl::Status {
    SA_ASSIGN_OR_RETURN(out->decoder_,
                        PlainDecoder::Create(weights, device, {type, length, kMicrobatch, true}));
    out->host_logits_ = HostEmpty({kMicrobatch, out->s_.vocab}, at::kFloat, device);
    return absl::OkStatus();
  }));
  return out;
}

uint64_t DeviceSampler::Bytes(const ArchitectureSpec& s, at::ScalarType type, int64_t length) {
  const auto number = static_cast<int64_t>(c10::elementSize(type));
  int64_t linear = 0;
  for (int64_t block = 0; block < s.blocks; ++block) {
    for (const LinearLayer& layer : BlockLayers(s, block)) linear += layer.rows * layer.cols;
  }
  const int64_t table = s.vocab * s.embed_dim();
  const int64_t cache = 2 * s.blocks * s.kv_heads * s.head_dim * length * kMicrobatch;
  return static_cast<uint64_t>((linear + table + cache) * number + table * int64_t{4});
}

absl::Status DeviceSampler::Sample(uint64_t seed, int64_t first, int64_t count, int64_t length,
                                   int threads, TaskControl* control, int32_t* out) {
  const int64_t begin = first / kMicrobatch, end = (first + count + kMicrobatch - 1) / kMicrobatch;
  std::vector<int32_t> tokens(kMicrobatch * length);
  for (int64_t group = begin; group < end; ++group) {
    SA_RETURN_IF_ERROR(SampleGroup(seed, group, first, first + count, length, threads,
                                   1.0 / static_cast<double>(end - begin), control, tokens.data()));
    for (int64_t place = 0; place < kMicrobatch; ++place) {
      const int64_t at = group * kMicrobatch + place - first;
      if (at < 0 || at >= count) continue;
      std::copy_n(tokens.begin() + place * length, length, out + at * length);
    }
  }
  return absl::OkStatus();
}

absl::Status DeviceSampler::SampleGroup(uint64_t seed, int64_t group, int64_t begin, int64_t end,
                                        int64_t length, int threads, double share,
                                        TaskControl* control, int32_t* tokens) {
  const int64_t first = group * kMicrobatch;
  std::vector<int64_t> ids(kMicrobatch);
  for (int64_t i = 0; i < kMicrobatch; ++i) {
    ids[i] = FirstToken(s_, seed, first + i);
    tokens[i * length] = static_cast<int32_t>(ids[i]);
  }
  for (int64_t t = 1; t < length; ++t) {
    SA_RETURN_IF_ERROR(Check(control));
    SA_RETURN_IF_ERROR(CatchTorch([&]() -> absl::Status {
      decoder_->Run(at::from_blob(ids.data(), {kMicrobatch}, at::kLong).to(device_), t - 1);
      host_logits_.copy_(decoder_->logits());  // waits for the device
      return absl::OkStatus();
    }));
    const float* const logits = host_logits_.const_data_ptr<float>();
    SA_RETURN_IF_ERROR(ParallelFor(kMicrobatch, threads, [&](int64_t i) -> absl::Status {
      const absl::StatusOr<int32_t> token =
          NextToken(s_, logits + i * s_.vocab, seed, first + i, t);
      const bool asked = begin <= first + i && first + i < end;
      if (!token.ok() && asked) return token.status();
      ids[i] = token.value_or(0);
      return absl::OkStatus();
    }));
    for (int64_t i = 0; i < kMicrobatch; ++i) {
      tokens[i * length + t] = static_cast<int32_t>(ids[i]);
    }
    if (control != nullptr) {
      ++control->progress_count;
      control->progress.fetch_add(share / static_cast<double>(length - 1));
    }
  }
  return absl::OkStatus();
}

}  // namespace shiftadd::reference
