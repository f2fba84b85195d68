#!/usr/bin/env python3
"""Writes a Hugging Face folder of Llama-3-8B's shape with random bf16 weights, shard by shard, and a text.

  tests/bench/llama3_8b_folder.py FOLDER [--blocks N]     (PyTorch; uses a GPU to draw numbers if there is one)

Weights are normal with a deviation of .02, norms 1; the tokenizer is byte-level without merges, so a letter of the text
(FOLDER/text.txt, 600 KB) is a token. Good for timing and for nothing else.
"""
import argparse
import json
import os
import random
import struct

import torch

HIDDEN, INNER, KV, VOCAB = 4096, 14336, 1024, 128256


def save(path, tensors):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, t in tensors:
        size = t.numel() * 2
        header[name] = {"dtype": "BF16", "shape": list(t.shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for _, t in tensors:
            out.write(memoryview(t.cpu().view(torch.int16).numpy()).cast("B"))


def byte_letters():
    keep = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    rest = [b for b in range(256) if b not in keep]
    letters = {b: chr(b) for b in keep}
    letters.update({b: chr(256 + i) for i, b in enumerate(rest)})
    return [letters[b] for b in range(256)]


def main():
    args = argparse.ArgumentParser()
    args.add_argument("folder")
    args.add_argument("--blocks", type=int, default=32)
    args = args.parse_args()
    os.makedirs(args.folder, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)

    def normal(*shape):
        return (torch.randn(*shape, device=device) * 0.02).to(torch.bfloat16)

    def norm():
        return torch.ones(HIDDEN, dtype=torch.bfloat16)

    def block(b):
        p = f"model.layers.{b}."
        return [(p + "input_layernorm.weight", norm()), (p + "post_attention_layernorm.weight", norm()),
                (p + "self_attn.q_proj.weight", normal(HIDDEN, HIDDEN)), (p + "self_attn.k_proj.weight", normal(KV, HIDDEN)),
                (p + "self_attn.v_proj.weight", normal(KV, HIDDEN)), (p + "self_attn.o_proj.weight", normal(HIDDEN, HIDDEN)),
                (p + "mlp.gate_proj.weight", normal(INNER, HIDDEN)), (p + "mlp.up_proj.weight", normal(INNER, HIDDEN)),
                (p + "mlp.down_proj.weight", normal(HIDDEN, INNER))]

    shards = [lambda: [("model.embed_tokens.weight", normal(VOCAB, HIDDEN)), ("model.norm.weight", norm())],
              lambda: [("lm_head.weight", normal(VOCAB, HIDDEN))]]
    shards += [lambda first=b: [t for i in range(first, min(first + 4, args.blocks)) for t in block(i)]
               for b in range(0, args.blocks, 4)]
    weights = {}
    for i, shard in enumerate(shards):
        name = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        tensors = shard()
        save(os.path.join(args.folder, name), tensors)
        weights.update({t: name for t, _ in tensors})

    def write(name, value):
        with open(os.path.join(args.folder, name), "w", encoding="utf-8") as out:
            json.dump(value, out)

    write("model.safetensors.index.json", {"metadata": {}, "weight_map": weights})
    write("config.json", {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
                          "intermediate_size": INNER, "num_hidden_layers": args.blocks, "num_attention_heads": 32,
                          "num_key_value_heads": 8, "vocab_size": VOCAB, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
                          "max_position_embeddings": 8192, "tie_word_embeddings": False, "hidden_act": "silu",
                          "bos_token_id": 0, "eos_token_id": 0, "torch_dtype": "bfloat16"})
    write("generation_config.json", {"bos_token_id": 0, "eos_token_id": 0})
    tokens = ["<|endoftext|>"] + byte_letters()
    write("tokenizer.json", {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "added_tokens": [{"id": 0, "content": tokens[0], "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": True}],
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {t: i for i, t in enumerate(tokens)}, "merges": []}})
    random.seed(0)
    words = ["".join(random.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(random.randint(2, 9))) for _ in range(5000)]
    text = ""
    while len(text) < 600000:
        text += " ".join(random.choices(words, k=1000)) + ".\n"
    with open(os.path.join(args.folder, "text.txt"), "w", encoding="utf-8") as out:
        out.write(text)


main()
