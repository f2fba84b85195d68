#include "worker/reference/decoder.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/packed_matrix.h"
#include "services/base/status_macros.h"

namespace shiftadd::reference {
namespace {

constexpr int64_t kLanes = kDecodeLanes;

int64_t RoundUp(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

absl::StatusOr<std::vector<float>> ReadExactly(const WeightProvider& weights,
                                               const std::string& name, int64_t size) {
  SA_ASSIGN_OR_RETURN(std::vector<float> values, weights.Read(name));
  if (static_cast<int64_t>(values.size()) == size) return values;
  return absl::InvalidArgumentError(
      absl::StrCat("tensor ", name, ": ", values.size(), " elements, expected ", size));
}

DecoderMatrix PackMatrix(const std::vector<float>& w, int64_t rows, int64_t cols, int lanes) {
  DecoderMatrix m{rows, cols, {}, {}};
  m.panels.assign(static_cast<size_t>(RoundUp(rows, lanes) * cols), 0);
  for (int64_t row = 0; row < rows; ++row) {
    uint16_t* out = m.panels.data() + row / lanes * lanes * cols + row % lanes;
    for (int64_t k = 0; k < cols; ++k) out[k * lanes] = kernels::FloatToHalf(w[row * cols + k]);
  }
  return m;
}

absl::StatusOr<DecoderMatrix> ReadMatrix(const WeightProvider& weights, const std::string& name,
                                         int64_t rows, int64_t cols, bool bias, int lanes) {
  SA_ASSIGN_OR_RETURN(const std::vector<float> w, ReadExactly(weights, name, rows * cols));
  DecoderMatrix m = PackMatrix(w, rows, cols, lanes);
  if (bias) {
    SA_ASSIGN_OR_RETURN(m.bias, ReadExactly(weights, absl::StrCat(name, ".bias"), rows));
  }
  return m;
}

}  // namespace

absl::StatusOr<DecoderWeights::NormVectors> DecoderWeights::ReadNorm(const WeightProvider& weights,
                                                                     const std::string& name) {
  const ArchitectureSpec& s = weights.spec();
  NormVectors norm;
  SA_ASSIGN_OR_RETURN(norm.weight, ReadExactly(weights, name, s.hidden));
  if (s.norm == NormKind::kLayer) {
    SA_ASSIGN_OR_RETURN(norm.bias, ReadExactly(weights, name + ".bias", s.hidden));
  }
  return norm;
}

absl::Status DecoderWeights::ReadEnds(const WeightProvider& weights) {
  const ArchitectureSpec& s = spec_;
  const int64_t width = s.embed_dim();
  const auto matrix = [&](const char* name, int64_t rows, int64_t cols) {
    return ReadMatrix(weights, name, rows, cols, /*bias=*/false, kernels_->lanes);
  };
  if (s.has_final_norm) {
    SA_ASSIGN_OR_RETURN(final_norm_, ReadNorm(weights, "final_norm"));
  }
  if (s.embed_norm) {
    SA_ASSIGN_OR_RETURN(embed_norm_, ReadNorm(weights, "embed_norm"));
  }
  if (s.position == PositionKind::kLearned) {
    SA_ASSIGN_OR_RETURN(
        positions_, ReadExactly(weights, "positions", (s.context + s.position_offset) * s.hidden));
    positions_.erase(positions_.begin(), positions_.begin() + s.position_offset * s.hidden);
  }
  if (s.embed_width > 0) {
    SA_ASSIGN_OR_RETURN(embed_proj_, matrix("embed_proj", s.hidden, width));
    SA_ASSIGN_OR_RETURN(head_proj_, matrix("head_proj", width, s.hidden));
  }
  SA_ASSIGN_OR_RETURN(head_, matrix(s.tied_embeddings ? "embed" : "head", s.vocab, width));
  if (s.tied_embeddings) return absl::OkStatus();
  SA_ASSIGN_OR_RETURN(const std::vector<float> embed,
                      ReadExactly(weights, "embed", s.vocab * width));
  embed_.resize(embed.size());
  std::transform(embed.begin(), embed.end(), embed_.begin(), kernels::FloatToHalf);
  return absl::OkStatus();
}

absl::Status DecoderWeights::ReadBlock(const WeightProvider& weights, int64_t block) {
  const ArchitectureSpec& s = spec_;
  Block& b = blocks_.emplace_back();
  const std::string prefix = absl::StrCat("blocks.", block, ".");
  SA_ASSIGN_OR_RETURN(b.attn_norm, ReadNorm(weights, prefix + "attn_norm"));
  SA_ASSIGN_OR_RETURN(b.mlp_norm, ReadNorm(weights, prefix + "mlp_norm"));
  if (s.norm_place == NormPlace::kAround) {
    SA_ASSIGN_OR_RETURN(b.attn_post_norm, ReadNorm(weights, prefix + "attn_post_norm"));
    SA_ASSIGN_OR_RETURN(b.mlp_post_norm, ReadNorm(weights, prefix + "mlp_post_norm"));
  }
  if (s.qk_norm) {
    SA_ASSIGN_OR_RETURN(b.q_norm, ReadExactly(weights, prefix + "attn.q_norm", s.head_dim));
    SA_ASSIGN_OR_RETURN(b.k_norm, ReadExactly(weights, prefix + "attn.k_norm", s.head_dim));
  }
  DecoderMatrix* const gated[] = {&b.q, &b.k, &b.v, &b.o, &b.gate, &b.up, &b.down};
  DecoderMatrix* const plain[] = {&b.q, &b.k, &b.v, &b.o, &b.up, &b.down};
  DecoderMatrix* const* to = s.gated ? gated : plain;
  for (const LinearLayer& layer : BlockLayers(s, block)) {
    SA_ASSIGN_OR_RETURN(**to++, ReadMatrix(weights, layer.name, layer.rows, layer.cols,
                                           HasBias(s, layer.input), kernels_->lanes));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<DecoderWeights>> DecoderWeights::Read(const WeightProvider& weights,
                                                                     const DecodeKernels* kernels,
                                                                     TaskControl* control) {
  auto out = std::make_unique<DecoderWeights>();
  out->spec_ = weights.spec();
  out->kernels_ = kernels;
  SA_RETURN_IF_ERROR(out->ReadEnds(weights));
  for (int64_t block = 0; block < out->spec_.blocks; ++block) {
    if (control != nullptr) SA_RETURN_IF_ERROR(control->Check());
    SA_RETURN_IF_ERROR(out->ReadBlock(weights, block));
    if (control != nullptr) ++control->progress_count;
  }
  return out;
}

Decoder::Decoder(const DecoderWeights* weights, int sequences, int64_t length)
    : w_(*weights),
      sequences_(sequences),
      length_(RoundUp(length, kLanes)),
      padded_dim_(RoundUp(w_.spec_.head_dim, kLanes)) {
  const ArchitectureSpec& s = w_.spec_;
  if (s.rope()) {
    for (const bool local : {false, true}) {
      angles_[local].frequency = RopeInverseFrequencies(s, local);
      angles_[local].cos.resize(angles_[local].frequency.size());
      angles_[local].sin.resize(angles_[local].frequency.size());
    }
  }
  if (s.position == PositionKind::kAlibi) {
    const std::vector<double> slopes = AlibiSlopes(s.heads);
    slopes_.assign(slopes.begin(), slopes.end());
  }
  hidden_.resize(s.hidden * kLanes);
  x_.resize(s.hidden * kLanes);
  q_.resize(s.q_rows() * kLanes);
  mixed_.resize(s.q_rows() * kLanes);
  k_.resize(s.kv_rows() * kLanes);
  v_.resize(s.kv_rows() * kLanes);
  gate_.resize(s.intermediate * kLanes);
  up_.resize(s.intermediate * kLanes);
  scores_.resize(s.heads / s.kv_heads * length_);
  logits_.resize(sequences * s.vocab);
  const size_t heads = static_cast<size_t>(sequences * s.kv_heads * length_);
  for (int64_t b = 0; b < s.blocks; ++b) {
    keys_.emplace_back(heads * s.head_dim);
    values_.emplace_back(heads * padded_dim_);
  }
}

void Decoder::Embed(const std::vector<int32_t>& tokens) {
  const ArchitectureSpec& spec = w_.spec_;
  const int64_t width = spec.embed_dim(), lanes = w_.kernels_->lanes;
  const float scale = static_cast<float>(spec.embed_scale);
  const bool projected = spec.embed_width > 0;
  Lanes wide(projected ? width * kLanes : 0);
  Lanes& to = projected ? wide : hidden_;
  for (int s = 0; s < sequences_; ++s) {
    const int64_t row = tokens[s];
    const bool tied = w_.embed_.empty();
    const uint16_t* in = tied ? w_.head_.panels.data() + row / lanes * lanes * width + row % lanes
                              : w_.embed_.data() + row * width;
    const int64_t stride = tied ? lanes : 1;
    for (int64_t i = 0; i < width; ++i)
      to[i * kLanes + s] = kernels::HalfToFloat(in[i * stride]) * scale;
  }
  if (projected) Multiply(w_.embed_proj_, wide, &hidden_);
  if (!w_.positions_.empty()) {
    const float* row = w_.positions_.data() + position_ * spec.hidden;
    for (int64_t i = 0; i < spec.hidden; ++i) {
      for (int s = 0; s < kDecodeLanes; ++s) hidden_[i * kLanes + s] += row[i];
    }
  }
  if (spec.embed_norm) Norm(w_.embed_norm_, hidden_, &hidden_);
}

void Decoder::Norm(const DecoderWeights::NormVectors& norm, const Lanes& x, Lanes* y) const {
  const int64_t hidden = w_.spec_.hidden;
  const bool layer = !norm.bias.empty();
  float mean[kDecodeLanes] = {};
  if (layer) {
    double total[kDecodeLanes] = {};
    for (int64_t i = 0; i < hidden; ++i) {
      for (int s = 0; s < kDecodeLanes; ++s) total[s] += x[i * kLanes + s];
    }
    for (int s = 0; s < kDecodeLanes; ++s)
      mean[s] = static_cast<float>(total[s] / static_cast<double>(hidden));
  }
  float sum[2][kDecodeLanes] = {};  // two sums a sequence: not one long chain of additions
  for (int64_t i = 0; i < hidden; ++i) {
    const float* h = x.data() + i * kLanes;
    for (int s = 0; s < kDecodeLanes; ++s) {
      const float centred = h[s] - mean[s];
      sum[i % 2][s] += centred * centred;
    }
  }
  float factor[kDecodeLanes];
  for (int s = 0; s < kDecodeLanes; ++s) {
    const double square =
        (static_cast<double>(sum[0][s]) + sum[1][s]) / static_cast<double>(hidden);
    factor[s] = static_cast<float>(1.0 / std::sqrt(square + w_.spec_.norm_eps));
  }
  for (int64_t i = 0; i < hidden; ++i) {
    const float bias = layer ? norm.bias[i] : 0.0f;
    for (int s = 0; s < kDecodeLanes; ++s) {
      (*y)[i * kLanes + s] = (x[i * kLanes + s] - mean[s]) * factor[s] * norm.weight[i] + bias;
    }
  }
}

void Decoder::Input(const DecoderWeights::NormVectors& norm) {
  if (w_.spec_.norm_place == NormPlace::kAfter) {
    x_ = hidden_;
  } else {
    Norm(norm, hidden_, &x_);
  }
}

void Decoder::NormHeads(const std::vector<float>& weight, int64_t heads, Lanes* x) const {
  const int64_t dim = w_.spec_.head_dim;
  for (int64_t h = 0; h < heads; ++h) {
    float* head = x->data() + h * dim * kLanes;
    float sum[kDecodeLanes] = {};
    for (int64_t i = 0; i < dim; ++i) {
      for (int s = 0; s < kDecodeLanes; ++s) sum[s] += head[i * kLanes + s] * head[i * kLanes + s];
    }
    for (int s = 0; s < kDecodeLanes; ++s) {
      const double mean = static_cast<double>(sum[s]) / static_cast<double>(dim);
      sum[s] = static_cast<float>(1.0 / std::sqrt(mean + w_.spec_.norm_eps));
    }
    for (int64_t i = 0; i < dim; ++i) {
      for (int s = 0; s < kDecodeLanes; ++s) head[i * kLanes + s] *= sum[s] * weight[i];
    }
  }
}

void Decoder::Multiply(const DecoderMatrix& m, const Lanes& x, Lanes* y) const {
  w_.kernels_->multiply(m.panels.data(), m.rows, m.cols, x.data(), sequences_, y->data());
  if (m.bias.empty()) return;
  for (int64_t i = 0; i < m.rows; ++i) {
    for (int s = 0; s < kDecodeLanes; ++s) (*y)[i * kLanes + s] += m.bias[i];
  }
}

absl::Status Decoder::Add(const DecoderMatrix& m, const DecoderWeights::NormVectors& norm,
                          const DecoderWeights::NormVectors& post, const Lanes& x, int64_t block,
                          const char* name) {
  Multiply(m, x, &x_);
  if (w_.spec_.norm_place == NormPlace::kAround) Norm(post, x_, &x_);
  float zero[kDecodeLanes] = {};  // 0 times infinity is NaN
  for (size_t i = 0; i < hidden_.size(); i += kLanes) {
    for (int s = 0; s < kDecodeLanes; ++s) {
      hidden_[i + s] += x_[i + s];
      zero[s] += hidden_[i + s] * 0.0f;
    }
  }
  if (w_.spec_.norm_place == NormPlace::kAfter) Norm(norm, hidden_, &hidden_);
  for (int s = 0; s < sequences_; ++s) {
    if (zero[s] == 0.0f) continue;
    return absl::InvalidArgumentError(absl::StrCat("blocks.", block, ".", name,
                                                   ": the activations behind it are not finite at "
                                                   "token ",
                                                   position_));
  }
  return absl::OkStatus();
}

void Decoder::Rotate(int64_t heads, bool local, float scale, Lanes* x) const {
  const Angles& angles = angles_[local];
  const int64_t dim = w_.spec_.head_dim, half = static_cast<int64_t>(angles.frequency.size());
  if (half == 0) {
    for (int64_t i = 0; i < heads * dim * kLanes; ++i) (*x)[i] *= scale;
    return;
  }
  for (int64_t i = 0; i < heads * half; ++i) {
    const float c = angles.cos[i % half], sn = angles.sin[i % half];
    float* a = x->data() + (i / half * dim + i % half) * kLanes;
    float* b = a + half * kLanes;
    for (int s = 0; s < kDecodeLanes; ++s) {
      const float first = a[s], second = b[s];
      a[s] = (first * c - second * sn) * scale;
      b[s] = (second * c + first * sn) * scale;
    }
  }
}

void Decoder::SetAngles() {
  for (Angles& angles : angles_) {
    for (size_t i = 0; i < angles.frequency.size(); ++i) {
      const double angle = static_cast<double>(position_) * angles.frequency[i];
      angles.cos[i] = static_cast<float>(std::cos(angle));
      angles.sin[i] = static_cast<float>(std::sin(angle));
    }
  }
}

void Decoder::Remember(int64_t block) {
  const ArchitectureSpec& spec = w_.spec_;
  const int64_t dim = spec.head_dim;
  for (int64_t row = 0; row < spec.kv_rows(); ++row) {
    const int64_t head = row / dim, d = row % dim;
    for (int s = 0; s < sequences_; ++s) {
      const int64_t place = (s * spec.kv_heads + head) * length_;
      keys_[block][place * dim + (position_ / 16 * dim + d) * 16 + position_ % 16] =
          kernels::FloatToHalf(k_[row * kLanes + s]);
      values_[block][(place + position_) * padded_dim_ + d] =
          kernels::FloatToHalf(v_[row * kLanes + s]);
    }
  }
}

void Decoder::Attend(int64_t block) {
  const ArchitectureSpec& spec = w_.spec_;
  AttendArgs args;
  args.group = spec.heads / spec.kv_heads;
  args.dim = spec.head_dim;
  args.dim_padded = padded_dim_;
  args.seen = position_ + 1;
  args.scores = scores_.data();
  const int64_t window = spec.WindowOf(block);
  args.first = window > 0 ? std::max<int64_t>(0, position_ + 1 - window) : 0;
  args.cap = static_cast<float>(spec.attention_cap);
  for (int s = 0; s < sequences_; ++s) {
    for (int64_t head = 0; head < spec.kv_heads; ++head) {
      args.slopes = slopes_.empty() ? nullptr : slopes_.data() + head * args.group;
      const int64_t place = (s * spec.kv_heads + head) * length_;
      args.q = q_.data() + head * args.group * args.dim * kLanes + s;
      args.out = mixed_.data() + head * args.group * args.dim * kLanes + s;
      args.keys = keys_[block].data() + place * args.dim;
      args.values = values_[block].data() + place * padded_dim_;
      w_.kernels_->attend(args);
    }
  }
}

void Decoder::Mlp(const DecoderWeights::Block& b) {
  const ArchitectureSpec& s = w_.spec_;
  Multiply(s.gated ? b.gate : b.up, x_, &gate_);
  if (s.gated) Multiply(b.up, x_, &up_);
  const int64_t numbers = s.intermediate * kLanes;
  if (s.gated && s.activation == Activation::kSilu) {
    return w_.kernels_->swiglu(gate_.data(), up_.data(), numbers);
  }
  for (int64_t i = 0; i < numbers; ++i) {
    const float x = gate_[i];
    float y = 0;
    switch (s.activation) {
      case Activation::kSilu:
        y = x / (1.0f + std::exp(-x));
        break;
      case Activation::kGeluTanh:
        // x / 2 (1 + tanh u) = x / (1 + exp(-2 u))
        y = x / (1.0f + std::exp(-1.5957691216f * (x + 0.044715f * x * x * x)));
        break;
      case Activation::kRelu:
        y = x > 0 ? x : 0.0f;
        break;
    }
    gate_[i] = s.gated ? y * up_[i] : y;
  }
}

absl::StatusOr<const float*> Decoder::Step(const std::vector<int32_t>& tokens,
                                           TaskControl* control) {
  const ArchitectureSpec& s = w_.spec_;
  const float scale = static_cast<float>(s.score_scale());
  SetAngles();
  Embed(tokens);
  for (int64_t block = 0; block < s.blocks; ++block) {
    if (control != nullptr) SA_RETURN_IF_ERROR(control->Check());
    const DecoderWeights::Block& b = w_.blocks_[block];
    const bool local = s.IsLocal(block);
    Input(b.attn_norm);
    Multiply(b.q, x_, &q_);
    Multiply(b.k, x_, &k_);
    Multiply(b.v, x_, &v_);
    if (s.qk_norm) NormHeads(b.q_norm, s.heads, &q_);
    if (s.qk_norm) NormHeads(b.k_norm, s.kv_heads, &k_);
    Rotate(s.heads, local, scale, &q_);
    Rotate(s.kv_heads, local, 1.0f, &k_);
    Remember(block);
    Attend(block);
    SA_RETURN_IF_ERROR(Add(b.o, b.attn_norm, b.attn_post_norm, mixed_, block, "attn.o"));
    Input(b.mlp_norm);
    Mlp(b);
    SA_RETURN_IF_ERROR(Add(b.down, b.mlp_norm, b.mlp_post_norm, gate_, block, "mlp.down"));
    if (control != nullptr) ++control->progress_count;
  }
  ++position_;
  if (s.has_final_norm) {
    Norm(w_.final_norm_, hidden_, &x_);
  } else {
    x_ = hidden_;
  }
  Lanes projected(w_.head_proj_.rows * kLanes);
  if (s.embed_width > 0) Multiply(w_.head_proj_, x_, &projected);
  w_.kernels_->multiply_out(w_.head_.panels.data(), s.vocab, s.embed_dim(),
                            s.embed_width > 0 ? projected.data() : x_.data(), sequences_,
                            logits_.data());
  if (s.logit_cap > 0) {
    const float cap = static_cast<float>(s.logit_cap);
    for (float& logit : logits_) logit = cap * std::tanh(logit / cap);
  }
  return logits_.data();
}

}  // namespace shiftadd::reference
