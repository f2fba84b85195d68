#include "worker/reference/torch_model.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/reference/torch_seam.h"

namespace shiftadd::reference {
namespace {

// One sequence through one block, in place. With `only` just as far as that input, which alone is
// visited.
class BlockRun {
 public:
  BlockRun(const ArchitectureSpec& spec, const BlockWeights& weights, const RopeTable& rope,
           const InputVisitor* visitor, std::optional<BlockInput> only, TaskControl* control)
      : s_(spec), w_(weights), rope_(rope), visitor_(visitor), only_(only), control_(control) {}

  absl::Status Run(int64_t sequence, int64_t tokens, float* h) const {
    SA_RETURN_IF_ERROR(Attention(sequence, tokens, h));
    const bool enough = only_ == BlockInput::kAttn || only_ == BlockInput::kAttnOut;
    if (!enough) SA_RETURN_IF_ERROR(Mlp(sequence, tokens, h));
    if (control_ != nullptr) ++control_->progress_count;
    return absl::OkStatus();
  }

 private:
  absl::Status Attention(int64_t sequence, int64_t tokens, float* h) const {
    const at::Tensor x = Input(h, tokens, w_.attn_norm);
    SA_RETURN_IF_ERROR(Visit(BlockInput::kAttn, sequence, x));
    if (only_ == BlockInput::kAttn) return absl::OkStatus();
    const at::Tensor q = w_.q(x), k = w_.k(x), v = w_.v(x);
    SA_RETURN_IF_ERROR(Check(control_));
    const at::Tensor mixed = CausalAttention(s_, rope_, w_.form, q, k, v);
    SA_RETURN_IF_ERROR(Visit(BlockInput::kAttnOut, sequence, mixed));
    if (only_ == BlockInput::kAttnOut) return absl::OkStatus();
    Join(w_.o(mixed), w_.attn_norm, w_.attn_post_norm, h);
    return absl::OkStatus();
  }

  absl::Status Mlp(int64_t sequence, int64_t tokens, float* h) const {
    const at::Tensor x = Input(h, tokens, w_.mlp_norm);
    SA_RETURN_IF_ERROR(Visit(BlockInput::kMlp, sequence, x));
    if (only_ == BlockInput::kMlp) return absl::OkStatus();
    at::Tensor act = s_.gated ? w_.gate(x) : w_.up(x);
    SA_RETURN_IF_ERROR(Check(control_));
    Activate(s_.activation, act, s_.gated ? w_.up(x) : at::Tensor());
    SA_RETURN_IF_ERROR(Visit(BlockInput::kMlpAct, sequence, act));
    if (only_ == BlockInput::kMlpAct) return absl::OkStatus();
    Join(w_.down(act), w_.mlp_norm, w_.mlp_post_norm, h);
    return absl::OkStatus();
  }

  // What attention or MLP reads. Valid until h changes.
  at::Tensor Input(float* h, int64_t tokens, const NormWeights& norm) const {
    if (s_.norm_place != NormPlace::kAfter) return Norm(h, tokens, s_.hidden, norm, s_.norm_eps);
    return at::from_blob(h, {tokens, s_.hidden}, at::kFloat);
  }

  // Adds what attention or MLP gave to h, with the norms that stand behind it.
  void Join(const at::Tensor& y, const NormWeights& norm, const NormWeights& post, float* h) const {
    if (s_.norm_place == NormPlace::kAround) {
      Add(Norm(y.const_data_ptr<float>(), y.size(0), s_.hidden, post, s_.norm_eps), h);
      return;
    }
    Add(y, h);
    if (s_.norm_place != NormPlace::kAfter) return;
    const at::Tensor normed = Norm(h, y.size(0), s_.hidden, norm, s_.norm_eps);
    std::copy_n(normed.const_data_ptr<float>(), normed.numel(), h);
  }

  absl::Status Visit(BlockInput input, int64_t sequence, const at::Tensor& x) const {
    SA_RETURN_IF_ERROR(Check(control_));
    if (visitor_ != nullptr && only_.value_or(input) == input)
      (*visitor_)(input, sequence, x.const_data_ptr<float>(), x.size(0), x.size(1));
    return absl::OkStatus();
  }

  static void Add(const at::Tensor& x, float* h) {
    const float* values = x.const_data_ptr<float>();
    for (int64_t i = 0; i < x.numel(); ++i) h[i] += values[i];
  }

  const ArchitectureSpec& s_;
  const BlockWeights& w_;
  const RopeTable& rope_;
  const InputVisitor* visitor_;
  const std::optional<BlockInput> only_;
  TaskControl* control_;
};

// Of models whose states are on the host anyway.
class PlainHostCopy : public HostCopy {
 public:
  PlainHostCopy(int64_t count, int64_t length, int64_t hidden)
      : numbers_(length * hidden), data_(static_cast<size_t>(count * numbers_)) {}

  absl::Status Add(int64_t first, const HiddenStates& some) override {
    std::copy(some.data.begin(), some.data.end(), data_.begin() + first * numbers_);
    return absl::OkStatus();
  }
  absl::StatusOr<const float*> Wait() override { return data_.data(); }

 private:
  const int64_t numbers_;  // of a sequence
  std::vector<float> data_;
};

}  // namespace

TorchModel::TorchModel(const WeightProvider* weights, int threads, int resident_blocks,
                       at::Device device, at::ScalarType products)
    : weights_(*weights),
      s_(weights->spec()),
      threads_(threads),
      device_(device),
      products_(products),
      blocks_(weights, resident_blocks, device, products) {}

absl::StatusOr<at::Tensor> TorchModel::EmbedMatrix() {
  if (!embed_.defined()) {
    SA_ASSIGN_OR_RETURN(embed_, ReadTensor(weights_, "embed", {s_.vocab, s_.embed_dim()}));
  }
  return embed_;
}

absl::Status TorchModel::LoadHead() {
  std::lock_guard<std::mutex> lock(ends_mutex_);
  if (head_.head.loaded()) return absl::OkStatus();
  if (s_.has_final_norm) {
    SA_ASSIGN_OR_RETURN(head_.norm, ReadNorm(weights_, "final_norm", device_));
  }
  if (s_.embed_width > 0) {
    SA_ASSIGN_OR_RETURN(head_.proj, ReadLinear(weights_, "head_proj", s_.embed_width, s_.hidden,
                                               /*bias=*/false, device_, products_));
  }
  if (s_.tied_embeddings) {
    SA_ASSIGN_OR_RETURN(at::Tensor embed, EmbedMatrix());
    const c10::InferenceMode normal(false);
    head_.head = Linear(embed.to(device_).to(products_), std::nullopt);
  } else {
    SA_ASSIGN_OR_RETURN(head_.head, ReadLinear(weights_, "head", s_.vocab, s_.embed_dim(),
                                               /*bias=*/false, device_, products_));
  }
  return absl::OkStatus();
}

absl::Status TorchModel::LoadEmbedding() {
  SA_ASSIGN_OR_RETURN(const at::Tensor unused, EmbedMatrix());
  (void)unused;
  if (s_.embed_norm && !embed_norm_.weight.defined()) {
    SA_ASSIGN_OR_RETURN(embed_norm_, ReadNorm(weights_, "embed_norm", at::kCPU));
  }
  if (s_.position == PositionKind::kLearned && !positions_.defined()) {
    SA_ASSIGN_OR_RETURN(positions_, ReadTensor(weights_, "positions",
                                               {s_.context + s_.position_offset, s_.hidden}));
  }
  if (s_.embed_width > 0 && !embed_proj_.loaded()) {
    SA_ASSIGN_OR_RETURN(embed_proj_,
                        ReadLinear(weights_, "embed_proj", s_.hidden, s_.embed_width, false));
  }
  return absl::OkStatus();
}

// One sequence's embeddings, [length, hidden], as its first block reads them.
void TorchModel::EmbedSequence(const int32_t* tokens, int64_t length, float* h) const {
  const int64_t width = s_.embed_dim();
  at::Tensor x = at::empty({length, width}, at::kFloat);
  float* rows = x.mutable_data_ptr<float>();
  const float scale = static_cast<float>(s_.embed_scale);
  for (int64_t t = 0; t < length; ++t) {
    const float* row = embed_.const_data_ptr<float>() + tokens[t] * width;
    for (int64_t i = 0; i < width; ++i) rows[t * width + i] = row[i] * scale;
  }
  if (embed_proj_.loaded()) x = embed_proj_(x);
  if (positions_.defined()) x = x + positions_.narrow(0, s_.position_offset, length);
  if (embed_norm_.weight.defined()) {
    x = Norm(x.const_data_ptr<float>(), length, s_.hidden, embed_norm_, s_.norm_eps);
  }
  std::copy_n(x.const_data_ptr<float>(), x.numel(), h);
}

absl::Status TorchModel::CheckStates(const HiddenStates& h) const {
  if (h.hidden != s_.hidden || h.count < 0 || h.length < 1 ||
      static_cast<int64_t>(h.data.size()) != h.count * h.length * h.hidden) {
    return absl::InvalidArgumentError(absl::StrCat("hidden states: ", h.data.size(),
                                                   " numbers for [", h.count, ", ", h.length, ", ",
                                                   h.hidden, "], hidden of the model ", s_.hidden));
  }
  return absl::OkStatus();
}

absl::Status TorchModel::CheckTokens(const std::vector<int32_t>& tokens, int64_t count,
                                     int64_t length) const {
  if (count < 0 || length < 1 || static_cast<int64_t>(tokens.size()) != count * length) {
    return absl::InvalidArgumentError(
        absl::StrCat(tokens.size(), " tokens for [", count, ", ", length, "]"));
  }
  if (s_.position == PositionKind::kLearned && length > s_.context) {
    return absl::InvalidArgumentError(
        absl::StrCat("sequences of ", length, " tokens, the model has positions for ", s_.context));
  }
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || tokens[i] >= s_.vocab) {
      return absl::InvalidArgumentError(
          absl::StrCat("token ", i, " is ", tokens[i], ", the vocabulary has ", s_.vocab));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<HiddenStates> TorchModel::Embed(const std::vector<int32_t>& tokens, int64_t count,
                                               int64_t length) {
  SA_RETURN_IF_ERROR(CheckTokens(tokens, count, length));
  HiddenStates h{count, length, s_.hidden, {}};
  SA_RETURN_IF_ERROR(CatchTorch([&]() -> absl::Status {
    std::lock_guard<std::mutex> lock(ends_mutex_);
    SA_RETURN_IF_ERROR(LoadEmbedding());
    h.data.resize(count * length * s_.hidden);
    for (int64_t i = 0; i < count; ++i) {
      EmbedSequence(tokens.data() + i * length, length, h.data.data() + i * length * s_.hidden);
    }
    return absl::OkStatus();
  }));
  return h;
}

absl::StatusOr<std::unique_ptr<HostCopy>> TorchModel::NewHostCopy(int64_t count, int64_t length) {
  return std::make_unique<PlainHostCopy>(count, length, s_.hidden);
}

absl::StatusOr<HiddenStates> TorchModel::FromHostCopy(std::shared_ptr<HostCopy> copy, int64_t count,
                                                      int64_t length) {
  SA_ASSIGN_OR_RETURN(const float* const rows, copy->Wait());
  HiddenStates h{count, length, s_.hidden, {}, nullptr};
  h.data.assign(rows, rows + count * length * s_.hidden);
  return h;
}

absl::Status TorchModel::CheckRun(int64_t begin, int64_t end, const HiddenStates& h) const {
  if (begin < 0 || begin > end || end > s_.blocks) {
    return absl::InvalidArgumentError(
        absl::StrCat("blocks ", begin, " to ", end, " of a model of ", s_.blocks));
  }
  return CheckStates(h);
}

absl::StatusOr<const BlockWeights*> TorchModel::PrepareBlock(int64_t block, int64_t length) {
  const BlockWeights* weights = nullptr;
  SA_RETURN_IF_ERROR(CatchTorch([&]() -> absl::Status {
    decoder_.reset();
    SA_ASSIGN_OR_RETURN(weights, blocks_.Get(block));
    PrepareRope(length);
    return absl::OkStatus();
  }));
  return weights;
}

absl::Status TorchModel::RunBlock(int64_t block, HiddenStates* h, const InputVisitor* visitor,
                                  TaskControl* control) {
  SA_RETURN_IF_ERROR(CheckRun(block, block + 1, *h));
  SA_ASSIGN_OR_RETURN(const BlockWeights* const weights, PrepareBlock(block, h->length));
  const BlockRun run(s_, *weights, rope_, visitor, std::nullopt, control);
  return ParallelFor(h->count, threads_, [&](int64_t sequence) {
    return run.Run(sequence, h->length, h->data.data() + sequence * h->length * h->hidden);
  });
}

absl::Status TorchModel::RunBlocks(int64_t begin, int64_t end, HiddenStates* h,
                                   TaskControl* control) {
  SA_RETURN_IF_ERROR(CheckRun(begin, end, *h));
  for (int64_t block = begin; block < end; ++block)
    SA_RETURN_IF_ERROR(RunBlock(block, h, nullptr, control));
  return absl::OkStatus();
}

absl::Status TorchModel::VisitInput(int64_t block, BlockInput input, const HiddenStates& h,
                                    const InputVisitor& visitor, TaskControl* control) {
  SA_RETURN_IF_ERROR(CheckRun(block, block + 1, h));
  SA_ASSIGN_OR_RETURN(const BlockWeights* const weights, PrepareBlock(block, h.length));
  const BlockRun run(s_, *weights, rope_, &visitor, input, control);
  return ParallelFor(h.count, threads_, [&](int64_t sequence) {
    const auto begin = h.data.begin() + sequence * h.length * h.hidden;
    std::vector<float> copy(begin, begin + h.length * h.hidden);
    return run.Run(sequence, h.length, copy.data());
  });
}

at::Tensor TorchModel::HeadLogits(const HiddenStates& h, int64_t sequence, int64_t begin,
                                  int64_t tokens) const {
  const float* x = h.data.data() + (sequence * h.length + begin) * h.hidden;
  at::Tensor y = head_.norm.weight.defined()
                     ? Norm(x, tokens, s_.hidden, head_.norm, s_.norm_eps)
                     : at::from_blob(const_cast<float*>(x), {tokens, s_.hidden}, at::kFloat);
  if (head_.proj.loaded()) y = head_.proj(y);
  at::Tensor logits = head_.head(y);
  SoftCap(s_.logit_cap, logits);
  return logits;
}

absl::Status TorchModel::LogitsChunk(const HiddenStates& h, int64_t sequence, int64_t chunk,
                                     std::vector<float>* out) {
  SA_RETURN_IF_ERROR(CheckStates(h));
  const int64_t begin = chunk * kLogitsChunk;
  if (sequence < 0 || sequence >= h.count || chunk < 0 || begin >= h.length) {
    return absl::InvalidArgumentError(absl::StrCat("sequence ", sequence, ", chunk ", chunk,
                                                   " of hidden states [", h.count, ", ", h.length,
                                                   "]"));
  }
  return CatchTorch([&]() -> absl::Status {
    SA_RETURN_IF_ERROR(LoadHead());
    const int64_t tokens = std::min(kLogitsChunk, h.length - begin);
    const at::Tensor logits = HeadLogits(h, sequence, begin, tokens).cpu();
    const float* values = logits.const_data_ptr<float>();
    out->assign(values, values + logits.numel());
    return absl::OkStatus();
  });
}

absl::Status TorchModel::Logits(const HiddenStates& h, int64_t sequence, std::vector<float>* out) {
  out->clear();
  std::vector<float> part;
  for (int64_t chunk = 0; chunk * kLogitsChunk < h.length; ++chunk) {
    SA_RETURN_IF_ERROR(LogitsChunk(h, sequence, chunk, &part));
    out->insert(out->end(), part.begin(), part.end());
  }
  return absl::OkStatus();
}

}  // namespace shiftadd::reference
