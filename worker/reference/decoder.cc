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

absl::StatusOr<std::unique_ptr<DecoderWeights>> DecoderWeights::Read(const WeightProvider& weights,
                                                                     const DecodeKernels* kernels,
                                                                     TaskControl* control) {
  auto out = std::make_unique<DecoderWeights>();
  const ArchitectureSpec& s = out->spec_ = weights.spec();
  out->kernels_ = kernels;
  SA_ASSIGN_OR_RETURN(out->final_norm_, ReadExactly(weights, "final_norm", s.hidden));
  const char* const head = s.tied_embeddings ? "embed" : "head";
  SA_ASSIGN_OR_RETURN(out->head_,
                      ReadMatrix(weights, head, s.vocab, s.hidden, /*bias=*/false, kernels->lanes));
  if (!s.tied_embeddings) {
    SA_ASSIGN_OR_RETURN(const std::vector<float> embed,
                        ReadExactly(weights, "embed", s.vocab * s.hidden));
    out->embed_.resize(embed.size());
    std::transform(embed.begin(), embed.end(), out->embed_.begin(), kernels::FloatToHalf);
  }
  for (int64_t block = 0; block < s.blocks; ++block) {
    if (control != nullptr) SA_RETURN_IF_ERROR(control->Check());
    Block& b = out->blocks_.emplace_back();
    const std::string prefix = absl::StrCat("blocks.", block, ".");
    SA_ASSIGN_OR_RETURN(b.attn_norm, ReadExactly(weights, prefix + "attn_norm", s.hidden));
    SA_ASSIGN_OR_RETURN(b.mlp_norm, ReadExactly(weights, prefix + "mlp_norm", s.hidden));
    const struct {
      DecoderMatrix* m;
      const char* name;
      int64_t rows, cols;
      bool bias;
    } matrices[] = {{&b.q, "attn.q", s.q_rows(), s.hidden, s.qkv_bias},
                    {&b.k, "attn.k", s.kv_rows(), s.hidden, s.qkv_bias},
                    {&b.v, "attn.v", s.kv_rows(), s.hidden, s.qkv_bias},
                    {&b.o, "attn.o", s.hidden, s.q_rows(), s.o_bias},
                    {&b.gate, "mlp.gate", s.intermediate, s.hidden, s.mlp_bias},
                    {&b.up, "mlp.up", s.intermediate, s.hidden, s.mlp_bias},
                    {&b.down, "mlp.down", s.hidden, s.intermediate, s.mlp_bias}};
    for (const auto& m : matrices) {
      SA_ASSIGN_OR_RETURN(
          *m.m, ReadMatrix(weights, prefix + m.name, m.rows, m.cols, m.bias, kernels->lanes));
    }
    if (control != nullptr) ++control->progress_count;
  }
  return out;
}

Decoder::Decoder(const DecoderWeights* weights, int sequences, int64_t length)
    : w_(*weights),
      sequences_(sequences),
      length_(RoundUp(length, kLanes)),
      padded_dim_(RoundUp(w_.spec_.head_dim, kLanes)),
      frequency_(RopeInverseFrequencies(w_.spec_)) {
  const ArchitectureSpec& s = w_.spec_;
  cos_.resize(frequency_.size());
  sin_.resize(frequency_.size());
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
  const int64_t hidden = w_.spec_.hidden, lanes = w_.kernels_->lanes;
  for (int s = 0; s < sequences_; ++s) {
    const int64_t row = tokens[s];
    const bool tied = w_.embed_.empty();
    const uint16_t* in = tied ? w_.head_.panels.data() + row / lanes * lanes * hidden + row % lanes
                              : w_.embed_.data() + row * hidden;
    const int64_t stride = tied ? lanes : 1;
    for (int64_t i = 0; i < hidden; ++i)
      hidden_[i * kLanes + s] = kernels::HalfToFloat(in[i * stride]);
  }
}

void Decoder::Norm(const std::vector<float>& weight) {
  const int64_t hidden = w_.spec_.hidden;
  float sum[2][kDecodeLanes] = {};  // two sums a sequence: not one long chain of additions
  for (int64_t i = 0; i < hidden; ++i) {
    const float* h = hidden_.data() + i * kLanes;
    for (int s = 0; s < kDecodeLanes; ++s) sum[i % 2][s] += h[s] * h[s];
  }
  float factor[kDecodeLanes];
  for (int s = 0; s < kDecodeLanes; ++s) {
    const double mean = (static_cast<double>(sum[0][s]) + sum[1][s]) / static_cast<double>(hidden);
    factor[s] = static_cast<float>(1.0 / std::sqrt(mean + w_.spec_.norm_eps));
  }
  for (int64_t i = 0; i < hidden; ++i) {
    for (int s = 0; s < kDecodeLanes; ++s)
      x_[i * kLanes + s] = hidden_[i * kLanes + s] * factor[s] * weight[i];
  }
}

void Decoder::Multiply(const DecoderMatrix& m, const Lanes& x, Lanes* y) const {
  w_.kernels_->multiply(m.panels.data(), m.rows, m.cols, x.data(), sequences_, y->data());
  if (m.bias.empty()) return;
  for (int64_t i = 0; i < m.rows; ++i) {
    for (int s = 0; s < kDecodeLanes; ++s) (*y)[i * kLanes + s] += m.bias[i];
  }
}

absl::Status Decoder::Add(const DecoderMatrix& m, const Lanes& x, int64_t block, const char* name) {
  Multiply(m, x, &x_);
  float zero[kDecodeLanes] = {};  // 0 times infinity is NaN
  for (size_t i = 0; i < hidden_.size(); i += kLanes) {
    for (int s = 0; s < kDecodeLanes; ++s) {
      hidden_[i + s] += x_[i + s];
      zero[s] += hidden_[i + s] * 0.0f;
    }
  }
  for (int s = 0; s < sequences_; ++s) {
    if (zero[s] == 0.0f) continue;
    return absl::InvalidArgumentError(absl::StrCat("blocks.", block, ".", name,
                                                   ": the activations behind it are not finite at "
                                                   "token ",
                                                   position_));
  }
  return absl::OkStatus();
}

void Decoder::Rotate(int64_t heads, float scale, Lanes* x) const {
  const int64_t dim = w_.spec_.head_dim, half = dim / 2;
  for (int64_t i = 0; i < heads * half; ++i) {
    const float c = cos_[i % half], sn = sin_[i % half];
    float* a = x->data() + (i / half * dim + i % half) * kLanes;
    float* b = a + half * kLanes;
    for (int s = 0; s < kDecodeLanes; ++s) {
      const float first = a[s], second = b[s];
      a[s] = (first * c - second * sn) * scale;
      b[s] = (second * c + first * sn) * scale;
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
  for (int s = 0; s < sequences_; ++s) {
    for (int64_t head = 0; head < spec.kv_heads; ++head) {
      const int64_t place = (s * spec.kv_heads + head) * length_;
      args.q = q_.data() + head * args.group * args.dim * kLanes + s;
      args.out = mixed_.data() + head * args.group * args.dim * kLanes + s;
      args.keys = keys_[block].data() + place * args.dim;
      args.values = values_[block].data() + place * padded_dim_;
      w_.kernels_->attend(args);
    }
  }
}

absl::StatusOr<const float*> Decoder::Step(const std::vector<int32_t>& tokens,
                                           TaskControl* control) {
  const ArchitectureSpec& s = w_.spec_;
  const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(s.head_dim)));
  for (size_t i = 0; i < frequency_.size(); ++i) {
    const double angle = static_cast<double>(position_) * frequency_[i];
    cos_[i] = static_cast<float>(std::cos(angle));
    sin_[i] = static_cast<float>(std::sin(angle));
  }
  Embed(tokens);
  for (int64_t block = 0; block < s.blocks; ++block) {
    if (control != nullptr) SA_RETURN_IF_ERROR(control->Check());
    const DecoderWeights::Block& b = w_.blocks_[block];
    Norm(b.attn_norm);
    Multiply(b.q, x_, &q_);
    Multiply(b.k, x_, &k_);
    Multiply(b.v, x_, &v_);
    Rotate(s.heads, scale, &q_);
    Rotate(s.kv_heads, 1.0f, &k_);
    Remember(block);
    Attend(block);
    SA_RETURN_IF_ERROR(Add(b.o, mixed_, block, "attn.o"));
    Norm(b.mlp_norm);
    Multiply(b.gate, x_, &gate_);
    Multiply(b.up, x_, &up_);
    w_.kernels_->swiglu(gate_.data(), up_.data(), s.intermediate * kLanes);
    SA_RETURN_IF_ERROR(Add(b.down, gate_, block, "mlp.down"));
    if (control != nullptr) ++control->progress_count;
  }
  ++position_;
  Norm(w_.final_norm_);
  w_.kernels_->multiply_out(w_.head_.panels.data(), s.vocab, s.hidden, x_.data(), sequences_,
                            logits_.data());
  return logits_.data();
}

}  // namespace shiftadd::reference
