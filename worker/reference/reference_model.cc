#include "worker/reference/reference_model.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/base/status_macros.h"
#include "worker/reference/block_weights.h"
#include "worker/reference/counter_random.h"
#include "worker/reference/decoder.h"
#include "worker/reference/draw.h"
#include "worker/reference/microbatch.h"
#include "worker/reference/torch_seam.h"
#include "worker/reference/transformer_ops.h"

namespace shiftadd {
namespace {

using reference::BlockCache;
using reference::BlockWeights;
using reference::CausalAttention;
using reference::Decoder;
using reference::DecoderWeights;
using reference::Linear;
using reference::ReadBlock;
using reference::ReadLinear;
using reference::ReadTensor;
using reference::RmsNorm;
using reference::RopeTable;
using reference::SwiGlu;

absl::Status CheckSpec(const ArchitectureSpec& s) {
  const std::pair<const char*, int64_t> positive[] = {
      {"vocab", s.vocab},      {"hidden", s.hidden}, {"intermediate", s.intermediate},
      {"blocks", s.blocks},    {"heads", s.heads},   {"kv_heads", s.kv_heads},
      {"head_dim", s.head_dim}};
  for (const auto& [name, value] : positive) {
    if (value < 1)
      return absl::InvalidArgumentError(absl::StrCat("architecture: ", name, " is ", value));
  }
  if (s.heads % s.kv_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "architecture: heads (", s.heads, ") is not a multiple of kv_heads (", s.kv_heads, ")"));
  }
  if (s.head_dim % 2 != 0) {
    return absl::InvalidArgumentError(absl::StrCat("architecture: head_dim is odd: ", s.head_dim));
  }
  if (s.norm != NormKind::kRms || s.activation != Activation::kSilu || !s.gated ||
      s.position != PositionKind::kRope) {
    return absl::UnimplementedError(absl::StrCat(
        "architecture: ", s.family, ": only RMS norm, gated SiLU and RoPE can be run"));
  }
  return absl::OkStatus();
}

absl::Status CheckNames(const WeightProvider& weights) {
  const ArchitectureSpec& s = weights.spec();
  std::vector<std::string> names = {"embed", "final_norm"};
  if (!s.tied_embeddings) names.push_back("head");
  for (int64_t block = 0; block < s.blocks; ++block) {
    names.push_back(absl::StrCat("blocks.", block, ".attn_norm"));
    names.push_back(absl::StrCat("blocks.", block, ".mlp_norm"));
    for (const LinearLayer& layer : BlockLayers(s, block)) {
      names.push_back(layer.name);
      const bool mlp = layer.input == BlockInput::kMlp || layer.input == BlockInput::kMlpAct;
      const bool bias = mlp ? s.mlp_bias : layer.kind == "o" ? s.o_bias : s.qkv_bias;
      if (bias) names.push_back(layer.name + ".bias");
    }
  }
  names.erase(std::remove_if(names.begin(), names.end(),
                             [&](const std::string& n) { return weights.Has(n); }),
              names.end());
  if (names.empty()) return absl::OkStatus();
  return absl::NotFoundError(
      absl::StrCat("the model lacks ", names.size(), " tensors: ", absl::StrJoin(names, ", ")));
}

absl::Status Check(const TaskControl* control) {
  return control == nullptr ? absl::OkStatus() : control->Check();
}

// One sequence through one block, in place.
class BlockRun {
 public:
  BlockRun(const ArchitectureSpec& spec, const BlockWeights& weights, const RopeTable& rope,
           const InputVisitor* visitor, TaskControl* control)
      : s_(spec), w_(weights), rope_(rope), visitor_(visitor), control_(control) {}

  absl::Status Run(int64_t sequence, int64_t tokens, float* h) const {
    SA_RETURN_IF_ERROR(Attention(sequence, tokens, h));
    SA_RETURN_IF_ERROR(Mlp(sequence, tokens, h));
    if (control_ != nullptr) ++control_->progress_count;
    return absl::OkStatus();
  }

 private:
  absl::Status Attention(int64_t sequence, int64_t tokens, float* h) const {
    const at::Tensor x = RmsNorm(h, tokens, s_.hidden, w_.attn_norm, s_.norm_eps);
    SA_RETURN_IF_ERROR(Visit(BlockInput::kAttn, sequence, x));
    const at::Tensor q = w_.q(x), k = w_.k(x), v = w_.v(x);
    SA_RETURN_IF_ERROR(Check(control_));
    const at::Tensor mixed = CausalAttention(s_, rope_, q, k, v);
    SA_RETURN_IF_ERROR(Visit(BlockInput::kAttnOut, sequence, mixed));
    Add(w_.o(mixed), h);
    return absl::OkStatus();
  }

  absl::Status Mlp(int64_t sequence, int64_t tokens, float* h) const {
    const at::Tensor x = RmsNorm(h, tokens, s_.hidden, w_.mlp_norm, s_.norm_eps);
    SA_RETURN_IF_ERROR(Visit(BlockInput::kMlp, sequence, x));
    at::Tensor gate = w_.gate(x);
    SA_RETURN_IF_ERROR(Check(control_));
    SwiGlu(gate, w_.up(x));
    SA_RETURN_IF_ERROR(Visit(BlockInput::kMlpAct, sequence, gate));
    Add(w_.down(gate), h);
    return absl::OkStatus();
  }

  absl::Status Visit(BlockInput input, int64_t sequence, const at::Tensor& x) const {
    SA_RETURN_IF_ERROR(Check(control_));
    if (visitor_ != nullptr)
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
  TaskControl* control_;
};

class TorchModel : public ReferenceModel {
 public:
  TorchModel(const WeightProvider* weights, int threads, int resident_blocks)
      : weights_(*weights),
        s_(weights->spec()),
        threads_(threads),
        blocks_(weights, resident_blocks) {}

  const ArchitectureSpec& spec() const override { return s_; }
  void DropBlocks() override {
    blocks_.Clear();
    decoder_.reset();
  }
  absl::StatusOr<HiddenStates> Embed(const std::vector<int32_t>& tokens, int64_t count,
                                     int64_t length) override;
  absl::Status RunBlock(int64_t block, HiddenStates* h, const InputVisitor* visitor,
                        TaskControl* control) override;
  absl::Status Logits(const HiddenStates& h, int64_t sequence, std::vector<float>* out) override;
  absl::Status LogitsChunk(const HiddenStates& h, int64_t sequence, int64_t chunk,
                           std::vector<float>* out) override;
  absl::StatusOr<std::vector<int32_t>> Sample(uint64_t seed, int64_t first, int64_t count,
                                              int64_t length, TaskControl* control) override;

 private:
  absl::StatusOr<at::Tensor> EmbedMatrix();
  absl::Status LoadHead();
  absl::Status LoadDecoder(TaskControl* control);
  absl::Status CheckStates(const HiddenStates& h) const;
  absl::Status SampleMicrobatch(uint64_t seed, int64_t begin, int64_t length, TaskControl* control,
                                double share, std::vector<int32_t>* out);
  void PrepareRope(int64_t length) {
    if (rope_.length() < length) rope_ = RopeTable(s_, length);
  }

  const WeightProvider& weights_;
  const ArchitectureSpec s_;
  const int threads_;
  BlockCache blocks_;
  RopeTable rope_;
  std::mutex ends_mutex_;  // guards loading of embed_, final_norm_ and head_
  at::Tensor embed_, final_norm_;
  Linear head_;
  std::unique_ptr<DecoderWeights> decoder_;  // while sampling; blocks_ is empty then
};

absl::StatusOr<at::Tensor> TorchModel::EmbedMatrix() {
  if (!embed_.defined()) {
    SA_ASSIGN_OR_RETURN(embed_, ReadTensor(weights_, "embed", {s_.vocab, s_.hidden}));
  }
  return embed_;
}

absl::Status TorchModel::LoadHead() {
  std::lock_guard<std::mutex> lock(ends_mutex_);
  if (head_.loaded()) return absl::OkStatus();
  SA_ASSIGN_OR_RETURN(final_norm_, ReadTensor(weights_, "final_norm", {s_.hidden}));
  if (s_.tied_embeddings) {
    SA_ASSIGN_OR_RETURN(at::Tensor embed, EmbedMatrix());
    head_ = Linear(std::move(embed), std::nullopt);
  } else {
    SA_ASSIGN_OR_RETURN(head_, ReadLinear(weights_, "head", s_.vocab, s_.hidden, /*bias=*/false));
  }
  return absl::OkStatus();
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

absl::StatusOr<HiddenStates> TorchModel::Embed(const std::vector<int32_t>& tokens, int64_t count,
                                               int64_t length) {
  if (count < 0 || length < 1 || static_cast<int64_t>(tokens.size()) != count * length) {
    return absl::InvalidArgumentError(
        absl::StrCat(tokens.size(), " tokens for [", count, ", ", length, "]"));
  }
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || tokens[i] >= s_.vocab) {
      return absl::InvalidArgumentError(
          absl::StrCat("token ", i, " is ", tokens[i], ", the vocabulary has ", s_.vocab));
    }
  }
  HiddenStates h{count, length, s_.hidden, {}};
  SA_RETURN_IF_ERROR(CatchTorch([&]() -> absl::Status {
    std::lock_guard<std::mutex> lock(ends_mutex_);
    SA_ASSIGN_OR_RETURN(const at::Tensor embed, EmbedMatrix());
    h.data.resize(count * length * s_.hidden);
    for (size_t i = 0; i < tokens.size(); ++i) {
      std::copy_n(embed.const_data_ptr<float>() + tokens[i] * s_.hidden, s_.hidden,
                  h.data.data() + i * s_.hidden);
    }
    return absl::OkStatus();
  }));
  return h;
}

absl::Status TorchModel::RunBlock(int64_t block, HiddenStates* h, const InputVisitor* visitor,
                                  TaskControl* control) {
  if (block < 0 || block >= s_.blocks) {
    return absl::InvalidArgumentError(absl::StrCat("block ", block, " of a model of ", s_.blocks));
  }
  SA_RETURN_IF_ERROR(CheckStates(*h));
  const BlockWeights* weights = nullptr;
  SA_RETURN_IF_ERROR(CatchTorch([&]() -> absl::Status {
    decoder_.reset();
    SA_ASSIGN_OR_RETURN(weights, blocks_.Get(block));
    PrepareRope(h->length);
    return absl::OkStatus();
  }));
  const BlockRun run(s_, *weights, rope_, visitor, control);
  return ParallelFor(h->count, threads_, [&](int64_t sequence) {
    return run.Run(sequence, h->length, h->data.data() + sequence * h->length * h->hidden);
  });
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
    const float* x = h.data.data() + (sequence * h.length + begin) * h.hidden;
    const at::Tensor logits = head_(RmsNorm(x, tokens, s_.hidden, final_norm_, s_.norm_eps));
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

}  // namespace

absl::StatusOr<std::unique_ptr<ReferenceModel>> ReferenceModel::Create(
    const WeightProvider* weights, int threads, int resident_blocks) {
  if (threads < 1 || resident_blocks < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("reference model: threads ", threads, ", resident_blocks ", resident_blocks));
  }
  SA_RETURN_IF_ERROR(CheckSpec(weights->spec()));
  SA_RETURN_IF_ERROR(CheckNames(*weights));
  InitTorch();
  return std::unique_ptr<ReferenceModel>(
      std::make_unique<TorchModel>(weights, threads, resident_blocks));
}

}  // namespace shiftadd
