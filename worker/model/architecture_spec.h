// What a transformer looks like, as data. Executors read it; families fill it (families.h).
#ifndef SHIFTADD_WORKER_MODEL_ARCHITECTURE_SPEC_H_
#define SHIFTADD_WORKER_MODEL_ARCHITECTURE_SPEC_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace shiftadd {

enum class NormKind { kRms };  // y = x / rms(x) * w
enum class Activation { kSilu };
enum class PositionKind { kRope };  // rotate-half convention (as in Hugging Face)
enum class RopeScaling { kNone, kLinear, kLlama3 };

// A decoder-only transformer with pre-norm blocks:
//   h += o(attention(q(x), k(x), v(x))), x = attn_norm(h);   h += down(act(gate(x)) * up(x)), x =
//   mlp_norm(h)
// Canonical tensor names, all weights [out, in] row-major with rotate-half RoPE rows:
//   embed [vocab, hidden]; head [vocab, hidden] (absent if tied); final_norm [hidden];
//   blocks.B.attn_norm, blocks.B.mlp_norm [hidden];
//   blocks.B.attn.q|k|v|o; blocks.B.mlp.gate|up|down; biases: the weight's name + ".bias".
struct ArchitectureSpec {
  std::string family;  // "llama"
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

  int64_t q_rows() const { return heads * head_dim; }
  int64_t kv_rows() const { return kv_heads * head_dim; }
};

// Canonical JSON: every field, keys sorted. FromJson: INVALID_ARGUMENT names a field that is
// missing, unknown, of the wrong type or out of range (dimensions 1..2^24, blocks <= 1024, heads %
// kv_heads == 0, …).
nlohmann::json ToJson(const ArchitectureSpec& spec);
absl::StatusOr<ArchitectureSpec> ArchitectureSpecFromJson(const nlohmann::json& json);

// The inverse RoPE frequencies [head_dim / 2], with scaling applied, in double.
std::vector<double> RopeInverseFrequencies(const ArchitectureSpec& spec);

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
// In the order q, k, v, o, gate, up, down.
std::vector<LinearLayer> BlockLayers(const ArchitectureSpec& spec, int64_t block);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_MODEL_ARCHITECTURE_SPEC_H_
