"""Writes family_ggufs.json: tiny models as GGUF files, and what transformers makes of the models they came from.

A case holds the head of a GGUF file as the gguf package writes it (metadata, a tokenizer, names, types and offsets of the
tensors; base64) and for each tensor how it follows from transformers' one, which is a function of its name
(make_families.py): `op` is what converting does to it.

    ""         as it is                       plus1      a Gemma norm, to which the model adds 1: the file's carries it
    permute    LLaMA's q and k: in a head, rows [half][dim/2] become [dim/2][half]
    bloom_qkv  rows [head][q, k, v][dim] become [q, k, v][head][dim]
    values     numbers that stand here (rope_freqs)

Each file is first written whole and loaded by transformers, where it knows the architecture: its logits must be those of the model.

    python3 tests/golden/make_family_ggufs.py     # packages: requirements.txt
"""
import base64
import json
import math
import pathlib
import tempfile

import gguf
import numpy as np
import torch
import transformers
from transformers.integrations.ggml import GGUF_CONFIG_MAPPING

import make_families as families

HERE = pathlib.Path(__file__).resolve().parent
T = transformers
COMMON, SMALL = families.COMMON, families.SMALL
# As in families.json, but for what a GGUF file has no place for: Gemma's scalar of scores is the heads' width.
CASES = [
    ("llama", "llama", T.LlamaForCausalLM, T.LlamaConfig(**COMMON, **SMALL, rope_theta=10000.0)),
    ("llama3.1", "llama", T.LlamaForCausalLM,
     T.LlamaConfig(**COMMON, **SMALL, rope_parameters={**families.LLAMA3, "original_max_position_embeddings": 64})),
    ("qwen2", "qwen2", T.Qwen2ForCausalLM, T.Qwen2Config(**COMMON, **SMALL, tie_word_embeddings=True)),
    ("qwen3", "qwen3", T.Qwen3ForCausalLM, T.Qwen3Config(**COMMON, **SMALL, head_dim=32)),
    ("gemma", "gemma", T.GemmaForCausalLM,
     T.GemmaConfig(**COMMON, **{**SMALL, "num_key_value_heads": 1}, head_dim=32)),
    ("gemma2", "gemma2", T.Gemma2ForCausalLM,
     T.Gemma2Config(**COMMON, **SMALL, head_dim=32, query_pre_attn_scalar=32, sliding_window=6,
                    attn_logit_softcapping=3.0, final_logit_softcapping=4.0)),
    ("gemma3", "gemma3", T.Gemma3ForCausalLM,
     T.Gemma3TextConfig(**COMMON, **{**SMALL, "num_hidden_layers": 7}, head_dim=32, query_pre_attn_scalar=32,
                        sliding_window=6)),
    ("bloom", "bloom", T.BloomForCausalLM,
     T.BloomConfig(vocab_size=families.VOCAB, bos_token_id=0, eos_token_id=2, hidden_size=48, n_layer=2, n_head=6)),
]


def byte_alphabet():
    """The letters that stand for bytes in byte-level BPE, in order of the bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(b) if b in plain else chr(next(others)) for b in range(256)]


def add_tokenizer(writer, arch):
    """Three control tokens, 256 bytes, and pieces up to the vocabulary's size."""
    special = ["<s>", "<pad>", "</s>"]
    rest = families.VOCAB - len(special) - 256
    kinds = [gguf.TokenType.CONTROL] * 3
    if arch in ("llama", "gemma", "gemma2", "gemma3"):
        pieces = [f"▁{chr(97 + i % 26)}" if i < 26 else chr(97 + i % 26) if i < 52 else "▁" + "e" * (i - 50) for i in range(rest)]
        writer.add_tokenizer_model("llama")
        writer.add_token_list(special + [f"<0x{b:02X}>" for b in range(256)] + pieces)
        writer.add_token_scores([0.0] * 259 + [-float(i) for i in range(rest)])
        writer.add_token_types(kinds + [gguf.TokenType.BYTE] * 256 + [gguf.TokenType.NORMAL] * rest)
    else:
        letters = byte_alphabet()
        merges = [(letters[97 + i % 26], letters[97 + i // 26]) for i in range(rest)]
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre({"bloom": "bloom"}.get(arch, "qwen2"))
        writer.add_token_list(special + letters + [a + b for a, b in merges])
        writer.add_token_types(kinds + [gguf.TokenType.NORMAL] * (256 + rest))
        writer.add_token_merges([f"{a} {b}" for a, b in merges])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)


def add_metadata(writer, arch, config):
    get = lambda *names: next(getattr(config, n) for n in names if hasattr(config, n))
    heads = get("num_attention_heads", "n_head")
    writer.add_context_length(get("max_position_embeddings") if arch != "bloom" else 2048)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(get("num_hidden_layers", "n_layer"))
    writer.add_feed_forward_length(4 * config.hidden_size if arch == "bloom" else config.intermediate_size)
    writer.add_head_count(heads)
    if arch == "bloom":
        writer.add_head_count_kv(heads)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    rope = config.rope_parameters
    writer.add_rope_freq_base((rope.get("full_attention") or rope)["rope_theta"])
    if arch == "llama":
        writer.add_rope_dimension_count(head_dim)
        writer.add_vocab_size(config.vocab_size)
    else:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if arch in ("gemma2", "gemma3"):
        writer.add_sliding_window(config.sliding_window)
    if arch == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)


def rope_factors(config, head_dim):
    """What each frequency is divided by, as the file of a LLaMA-3.1 says."""
    r = config.rope_parameters
    low = r["original_max_position_embeddings"] / r["low_freq_factor"]
    high = r["original_max_position_embeddings"] / r["high_freq_factor"]
    factors = []
    for i in range(0, head_dim, 2):
        wave = 2 * math.pi * r["rope_theta"] ** (i / head_dim)
        if wave < high:
            factors.append(1.0)
        elif wave > low:
            factors.append(r["factor"])
        else:
            smooth = (r["original_max_position_embeddings"] / wave - r["low_freq_factor"]) / (
                r["high_freq_factor"] - r["low_freq_factor"])
            factors.append(1 / ((1 - smooth) / r["factor"] + smooth))
    return factors


def operation(arch, name):
    if arch == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
        return "permute"
    if arch.startswith("gemma") and name.endswith("norm.weight"):
        return "plus1"
    return "bloom_qkv" if "query_key_value" in name else ""


def apply(op, heads, value):
    if op == "plus1":
        return value + np.float32(1)
    if op == "permute":
        return value.reshape(heads, 2, -1, value.shape[1]).swapaxes(1, 2).reshape(value.shape)
    if op == "bloom_qkv":
        return value.reshape(heads, 3, -1, *value.shape[1:]).swapaxes(0, 1).reshape(value.shape)
    return value


def check(arch, path, config, case):
    """transformers on the file gives the logits of the model."""
    if arch not in GGUF_CONFIG_MAPPING:
        return "transformers does not read it"
    model = T.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, config=config, dtype=torch.float32,
                                                   attn_implementation="eager").eval()
    with torch.no_grad():
        logits = model(torch.tensor([case["ids"]])).logits[0].double().numpy()
    worst = max(abs(row[i] - v) for row, p in zip(logits, case["positions"]) for i, v in zip(p["indices"], p["values"]))
    return f"transformers on the file differs by {worst:.1e}"


def make(name, arch, model_class, config):
    case = families.make(name, model_class, config)
    heads = config.num_attention_heads
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, arch.upper()), config.num_hidden_layers)
    path = pathlib.Path(tempfile.mkdtemp()) / f"{name}.gguf"
    writer = gguf.GGUFWriter(path, arch)
    add_metadata(writer, arch, config)
    add_tokenizer(writer, arch)
    tensors = []
    for source, shape in case["tensors"].items():
        plain = source.removeprefix("transformer.")
        target = names.get_name(plain, try_suffixes=(".weight", ".bias"))
        op = operation(arch, source)
        turned = config.num_key_value_heads if "k_proj" in source else heads
        value = apply(op, turned, families.weight(source, shape, name.startswith("gemma")))
        writer.add_tensor(target, np.ascontiguousarray(value))
        tensors.append({"name": target, "from": source, "shape": shape, **({"op": op} if op else {}),
                        **({"heads": turned} if op in ("permute", "bloom_qkv") else {})})
    if name == "llama3.1":
        factors = [float(np.float32(f)) for f in rope_factors(config, config.hidden_size // heads)]
        writer.add_tensor("rope_freqs.weight", np.array(factors, np.float32))
        tensors.append({"name": "rope_freqs.weight", "op": "values", "values": factors})
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    reader = gguf.GGUFReader(path)
    for tensor in tensors:
        tensor["offset"] = next(int(t.data_offset) for t in reader.tensors if t.name == tensor["name"])
    head = path.read_bytes()[:min(t["offset"] for t in tensors)]
    print(f"{name:10} {len(head)} bytes of head; {check(arch, path, config, case)}")
    return {"name": name, "config": {"vocab_size": families.VOCAB}, "ids": case["ids"], "positions": case["positions"],
            "size": path.stat().st_size, "head": base64.b64encode(head).decode(), "tensors": tensors}


def main():
    cases = [make(*case) for case in CASES]
    head = {"transformers": transformers.__version__, "dtype": "float32"}
    lines = ",\n".join(json.dumps(case, separators=(",", ":"), ensure_ascii=False) for case in cases)
    (HERE / "family_ggufs.json").write_text(json.dumps(head)[:-1] + ', "cases": [\n' + lines + "\n]}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
