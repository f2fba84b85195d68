// What a transformer looks like, as data. Executors read it; families fill it (families.h).
#ifndef SHIFTADD_WORKER_MODEL_ARCHITECTURE_SPEC_H_
#define SHIFTADD_WORKER_MODEL_ARCHITECTURE_SPEC_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace shiftadd {

enum class NormKind {
  kRms,    // y = x / rms(x) * w
  kLayer,  // y = (x - mean(x)) / deviation(x) * w + b
};
// Where a block's norms stand: before what they belong to (attention, MLP), behind the residual
// sum, or before it and behind it, inside the residual branch.
enum class NormPlace { kBefore, kAfter, kAround };
enum class Activation { kSilu, kGeluTanh, kRelu };
enum class PositionKind {
  kRope,     // rotate-half convention (as in Hugging Face)
  kLearned,  // a table's row is added to the embedding
  kAlibi,    // a bias of the scores, linear in the distance
};
enum class RopeScaling { kNone, kLinear, kLlama3 };

// A decoder-only transformer. With f = attention, then f = MLP, a block computes
//   kBefore: h += f(norm(h));   kAfter: h = norm(h + f(h));   kAround: h += post_norm(f(norm(h)))
//   attention(x) = o(attend(q(x), k(x), v(x)));   MLP(x) = down(act(gate(x)) * up(x)), or
//   down(act(up(x))) if not gated.
// Canonical tensor names, all weights [out, in] row-major with rotate-half RoPE rows:
//   embed [vocab, embed_dim]; head [vocab, embed_dim] (absent if tied); final_norm [hidden];
//   embed_norm [hidden]; positions [context + position_offset, hidden];
//   embed_proj [hidden, embed_width]; head_proj [embed_width, hidden];
//   blocks.B.attn_norm, blocks.B.mlp_norm, blocks.B.attn_post_norm, blocks.B.mlp_post_norm
//   [hidden]; blocks.B.attn.q_norm, blocks.B.attn.k_norm [head_dim]; blocks.B.attn.q|k|v|o;
//   blocks.B.mlp.gate|up|down; biases: the weight's name + ".bias".
struct ArchitectureSpec {
  std::string family;  // "llama", … (families.h)
  int64_t vocab = 0;
  int64_t hidden = 0;
  int64_t intermediate = 0;
  int64_t blocks = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t context = 0;  // trained context length, tokens
  NormKind norm = NormKind::kRms;
  double norm_eps = 1e-5;
  Activation activation = Activation::kSilu;
  bool gated = true;
  PositionKind position = PositionKind::kRope;
  double rope_theta = 10000.0;
  RopeScaling rope_scaling = RopeScaling::kNone;
  double rope_factor = 1.0;           // kLinear, kLlama3
  double rope_low_freq_factor = 1.0;  // kLlama3
  double rope_high_freq_factor = 4.0;
  int64_t rope_original_context = 0;
  bool tied_embeddings = false;
  bool qkv_bias = false;
  bool o_bias = false;
  bool mlp_bias = false;
  int64_t bos_token = -1;           // -1: none
  std::vector<int64_t> eos_tokens;  // may be several
  bool add_bos = false;             // the tokenizer puts BOS before a text

  // What LLaMA has not. In JSON these stand only where they differ from their defaults.
  NormPlace norm_place = NormPlace::kBefore;
  bool has_final_norm = true;
  bool embed_norm = false;       // the norm's kind, behind the embedding
  double embed_scale = 1.0;      // the embedding times this
  int64_t embed_width = 0;       // above 0: the embedding is narrower than hidden, and projected
  int64_t position_offset = 0;   // kLearned: position p has row p + offset
  bool qk_norm = false;          // RMS norm of each head's query and key, before RoPE
  double attention_scale = 0.0;  // of scores; 0: 1 / sqrt(head_dim)
  double attention_cap = 0.0;    // above 0: scores become cap * tanh(score / cap)
  double logit_cap = 0.0;        // the same of logits
  int64_t window = 0;            // local blocks: a token sees so many, itself among them
  std::vector<int64_t> local_blocks;  // rising
  double rope_local_theta = 0.0;      // above 0: of local blocks, whose frequencies are not scaled

  int64_t q_rows() const { return heads * head_dim; }
  int64_t kv_rows() const { return kv_heads * head_dim; }
  int64_t embed_dim() const { return embed_width > 0 ? embed_width : hidden; }
  bool rope() const { return position == PositionKind::kRope; }
  double score_scale() const;
  bool IsLocal(int64_t block) const;
  // Tokens that one sees in this block, itself among them; 0: all before it.
  int64_t WindowOf(int64_t block) const { return IsLocal(block) ? window : 0; }
};

// Canonical JSON: every field (but see above), keys sorted. FromJson: INVALID_ARGUMENT names a
// field that is missing, unknown, of the wrong type or out of range (dimensions 1..2^24, blocks <=
// 1024, heads % kv_heads == 0, …).
nlohmann::json ToJson(const ArchitectureSpec& spec);
absl::StatusOr<ArchitectureSpec> ArchitectureSpecFromJson(const nlohmann::json& json);

// The inverse RoPE frequencies [head_dim / 2], with scaling applied, in double; of local blocks
// where those have a theta of their own.
std::vector<double> RopeInverseFrequencies(const ArchitectureSpec& spec, bool local = false);

// ALiBi: the score of a key at distance d is lowered by slope * d, a slope each head. Press et al.
// 2022; where heads is no power of two, the slopes of twice as many fill up, every second one.
std::vector<double> AlibiSlopes(int64_t heads);

// What `spec` asks for beyond a LLaMA (RMS norms before, gated SiLU, RoPE, no window, no cap …),
// each in a few words: what an executor that knows only that must refuse.
std::vector<std::string> BeyondLlama(const ArchitectureSpec& spec);
// UNIMPLEMENTED, naming them, if there are any. `who`: "the GPU executor".
absl::Status RefuseBeyondLlama(const ArchitectureSpec& spec, const std::string& who);

// A linear layer of a block. `input` names the activation it reads: layers with the same input
// share a Hessian.
enum class BlockInput { kAttn, kAttnOut, kMlp, kMlpAct };  // q,k,v | o | gate,up | down
inline constexpr int kBlockInputs = 4;
struct LinearLayer {
  std::string name;  // blocks.B.attn.q
  std::string kind;  // q, k, v, o, gate, up, down
  int64_t block = 0;
  int64_t rows = 0, cols = 0;
  BlockInput input = BlockInput::kAttn;
};
// In the order q, k, v, o, gate, up, down; gate only if the MLP is gated.
std::vector<LinearLayer> BlockLayers(const ArchitectureSpec& spec, int64_t block);
bool HasBias(const ArchitectureSpec& spec, BlockInput input);

// Tensors that are neither layers of blocks nor embedding or head: norms, biases, positions,
// projections.
struct PlainTensor {
  std::string name;
  std::vector<int64_t> shape;
  int64_t size() const { return shape.size() == 2 ? shape[0] * shape[1] : shape[0]; }
};
// In canonical order: the ends', then block by block.
std::vector<PlainTensor> PlainTensors(const ArchitectureSpec& spec);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_MODEL_ARCHITECTURE_SPEC_H_
