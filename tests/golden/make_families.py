"""Writes families.json: for a tiny model of each architecture, what transformers makes of it.

Weights are not stored. Both sides compute them from the tensor's name (weight() here, GoldenWeight in
worker/model/testing/golden_family.cc): element i of a tensor is scale * u + mean in float32, u uniform in
[-1, 1) from splitmix64(fnv1a64(name) + i). A golden entry is the config as save_pretrained writes it, the
names and shapes of the state dict, token ids and some logits at every position.

    python3 tests/golden/make_families.py     # packages: requirements.txt
"""
import json
import pathlib

import numpy as np
import torch
import transformers

HERE = pathlib.Path(__file__).resolve().parent
VOCAB = 320
TOKENS = 24
SELECTED = 24


def uniform(name, count):
    """count numbers of [-1, 1), each a multiple of 2^-23."""
    state = np.uint64(0xcbf29ce484222325)
    with np.errstate(over="ignore"):
        for byte in name.encode():
            state = (state ^ np.uint64(byte)) * np.uint64(0x100000001b3)
        x = state + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9e3779b97f4a7c15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xbf58476d1ce4e5b9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94d049bb133111eb)
        x = x ^ (x >> np.uint64(31))
    return (x >> np.uint64(40)).astype(np.float32) * np.float32(2.0 ** -23) - np.float32(1)


def weight(name, shape, zero_norms):
    """Matrices keep the scale of what they read; norms lie around 1, or around 0 where 1 is added to them."""
    u = uniform(name, int(np.prod(shape)))
    if len(shape) == 2:
        scale, mean = 2.5 / np.sqrt(shape[1]), 0.0
    elif name.endswith("bias"):
        scale, mean = 0.2, 0.0
    else:
        scale, mean = 0.4, 0.0 if zero_norms else 1.0
    return (u * np.float32(scale) + np.float32(mean)).reshape(shape).astype(np.float32)


COMMON = dict(vocab_size=VOCAB, bos_token_id=0, eos_token_id=2, pad_token_id=None)
SMALL = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=128)
LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
T = transformers
CASES = [
    ("llama", T.LlamaForCausalLM, T.LlamaConfig(**COMMON, **SMALL, rope_theta=10000.0)),
    ("llama3.1", T.LlamaForCausalLM, T.LlamaConfig(**COMMON, **SMALL, rope_parameters=LLAMA3)),
    ("mistral", T.MistralForCausalLM, T.MistralConfig(**COMMON, **SMALL, sliding_window=7)),
    ("qwen2", T.Qwen2ForCausalLM, T.Qwen2Config(**COMMON, **SMALL, tie_word_embeddings=True)),
    ("qwen2_windows", T.Qwen2ForCausalLM,
     T.Qwen2Config(**COMMON, **SMALL, use_sliding_window=True, sliding_window=5, max_window_layers=1)),
    ("qwen3", T.Qwen3ForCausalLM, T.Qwen3Config(**COMMON, **SMALL, head_dim=32)),
    ("gemma", T.GemmaForCausalLM,
     T.GemmaConfig(**COMMON, **{**SMALL, "num_key_value_heads": 1}, head_dim=32)),
    ("gemma2", T.Gemma2ForCausalLM,
     T.Gemma2Config(**COMMON, **SMALL, head_dim=32, query_pre_attn_scalar=24, sliding_window=6,
                    attn_logit_softcapping=3.0, final_logit_softcapping=4.0)),
    ("gemma3", T.Gemma3ForCausalLM,
     T.Gemma3TextConfig(**COMMON, **{**SMALL, "num_hidden_layers": 7}, head_dim=32, query_pre_attn_scalar=24,
                        sliding_window=6)),
    ("opt", T.OPTForCausalLM,
     T.OPTConfig(vocab_size=VOCAB, bos_token_id=0, eos_token_id=2, pad_token_id=1, hidden_size=64, ffn_dim=96,
                 num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=128,
                 word_embed_proj_dim=64)),
    ("opt_post_norm", T.OPTForCausalLM,
     T.OPTConfig(vocab_size=VOCAB, bos_token_id=0, eos_token_id=2, pad_token_id=1, hidden_size=64, ffn_dim=96,
                 num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=128,
                 word_embed_proj_dim=32, do_layer_norm_before=False)),
    # 6 heads: not a power of two, where ALiBi's slopes are pieced together.
    ("bloom", T.BloomForCausalLM,
     T.BloomConfig(vocab_size=VOCAB, bos_token_id=0, eos_token_id=2, hidden_size=48, n_layer=2, n_head=6)),
]


# Our names of the linear layers, by the end of transformers' names.
KINDS = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "o_proj": "o", "out_proj": "o", "gate_proj": "gate",
         "up_proj": "up", "down_proj": "down", "fc1": "up", "fc2": "down", "query_key_value": "qkv",
         "self_attention.dense": "o", "dense_h_to_4h": "up", "dense_4h_to_h": "down"}


def token_weights(model, ids, heads):
    """Mean over rows of the squared gradient of the summed next-token loss at the outputs of block 0's layers."""
    outputs = {}

    def keep(kind):
        def hook(module, inputs, output):
            output.retain_grad()
            outputs[kind] = output
        return hook

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and ".0." in name:
            kind = next(k for end, k in KINDS.items() if name.endswith(end))
            handles.append(module.register_forward_hook(keep(kind)))
    model.zero_grad()
    logits = model(torch.tensor([ids])).logits[0]
    torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:]), reduction="sum").backward()
    gradients = {}
    for kind, output in outputs.items():
        g = output.grad.reshape(len(ids), -1)
        if kind == "qkv":  # rows are [head][q, k, v][dim]
            g = g.reshape(len(ids), heads, 3, -1)
            gradients.update({part: g[:, :, i].reshape(len(ids), -1) for i, part in enumerate("qkv")})
        else:
            gradients[kind] = g
    for handle in handles:
        handle.remove()
    return {kind: [float(f"{x:.6g}") for x in g.double().square().mean(1)] for kind, g in gradients.items()}


def make(name, model_class, config):
    torch.manual_seed(0)
    config._attn_implementation = "eager"
    model = model_class(config).to(torch.float32).eval()
    config.architectures = [model_class.__name__]
    zero_norms = name.startswith("gemma")
    tensors = {}
    tied = set(getattr(model, "_tied_weights_keys", None) or []) if config.tie_word_embeddings else set()
    state = model.state_dict()
    for key, value in state.items():
        if key in tied or key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        tensors[key] = list(value.shape)
        value.copy_(torch.from_numpy(weight(key, value.shape, zero_norms)))
    ids = [(i * 37 + 11) % VOCAB for i in range(TOKENS)]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double().numpy()
    positions = []
    for position, row in enumerate(logits):
        indices = sorted({(j * 53 + position * 7) % VOCAB for j in range(SELECTED)} | {int(row.argmax())})
        positions.append({"max": round(float(row.max()), 6), "min": round(float(row.min()), 6), "indices": indices,
                          "values": [round(float(row[i]), 6) for i in indices]})
    print(f"{name:14} logits from {logits.min():.3f} to {logits.max():.3f}, {len(tensors)} tensors")
    weights = token_weights(model, ids, config.num_attention_heads)
    return {"name": name, "config": json.loads(config.to_json_string(use_diff=True)), "tensors": tensors, "ids": ids,
            "token_weights": weights, "positions": positions}


def main():
    cases = [make(*case) for case in CASES]
    head = {"transformers": transformers.__version__, "torch": torch.__version__, "dtype": "float32"}
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    text = json.dumps(head)[:-1] + ', "cases": [\n' + lines + "\n]}\n"
    (HERE / "families.json").write_text(text)


if __name__ == "__main__":
    main()
