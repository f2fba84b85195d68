#!/usr/bin/env python3
"""Writes a Hugging Face folder of Llama-3-70B's shape whose weights are a hole in a sparse file: for `submit --dry-run`.

  tests/bench/llama3_70b_folder.py FOLDER

The weights file says 141 GB and takes a few KiB; every weight is 0, which no job could quantize.
"""
import json
import os
import struct
import sys

HIDDEN, INNER, KV, VOCAB, BLOCKS = 8192, 28672, 1024, 128256, 80


def byte_letters():
    keep = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    rest = [b for b in range(256) if b not in keep]
    letters = {b: chr(b) for b in keep} | {b: chr(256 + i) for i, b in enumerate(rest)}
    return [letters[b] for b in range(256)]


def main(folder):
    os.makedirs(folder, exist_ok=True)
    shapes = {"model.embed_tokens.weight": [VOCAB, HIDDEN], "model.norm.weight": [HIDDEN], "lm_head.weight": [VOCAB, HIDDEN]}
    for b in range(BLOCKS):
        p = f"model.layers.{b}."
        shapes |= {p + "input_layernorm.weight": [HIDDEN], p + "post_attention_layernorm.weight": [HIDDEN],
                   p + "self_attn.q_proj.weight": [HIDDEN, HIDDEN], p + "self_attn.k_proj.weight": [KV, HIDDEN],
                   p + "self_attn.v_proj.weight": [KV, HIDDEN], p + "self_attn.o_proj.weight": [HIDDEN, HIDDEN],
                   p + "mlp.gate_proj.weight": [INNER, HIDDEN], p + "mlp.up_proj.weight": [INNER, HIDDEN],
                   p + "mlp.down_proj.weight": [HIDDEN, INNER]}
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 2
        for d in shape:
            size *= d
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(os.path.join(folder, "model.safetensors"), "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        out.truncate(8 + len(text) + offset)

    def write(name, value):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as out:
            json.dump(value, out)

    write("config.json", {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
                          "intermediate_size": INNER, "num_hidden_layers": BLOCKS, "num_attention_heads": 64,
                          "num_key_value_heads": 8, "vocab_size": VOCAB, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
                          "max_position_embeddings": 8192, "tie_word_embeddings": False, "hidden_act": "silu",
                          "bos_token_id": 0, "eos_token_id": 0, "torch_dtype": "bfloat16"})
    write("generation_config.json", {"bos_token_id": 0, "eos_token_id": 0})
    tokens = ["<|endoftext|>"] + byte_letters()
    byte_level = {"type": "ByteLevel", "trim_offsets": True, "use_regex": True}
    write("tokenizer.json", {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None,
        "pre_tokenizer": byte_level | {"add_prefix_space": False}, "post_processor": None,
        "decoder": byte_level | {"add_prefix_space": True},
        "added_tokens": [{"id": 0, "content": tokens[0], "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": True}],
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {t: i for i, t in enumerate(tokens)}, "merges": []}})


main(sys.argv[1])
