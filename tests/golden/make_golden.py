#!/usr/bin/env python3
"""Writes the golden values beside this file with Hugging Face's libraries and gguf-py. See README.md."""

import argparse
import hashlib
import json
import pathlib

import gguf
import numpy as np
import tokenizers
import torch
import transformers
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from golden_strings import STRINGS

HERE = pathlib.Path(__file__).resolve().parent

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def split_then_bytes(pattern):
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def digits_then_bytes(individual=True):
    return pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=individual),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])


PRE_TOKENIZERS = {
    "gpt2": pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    "gpt2_prefix_space": pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True),
    "smollm": digits_then_bytes(),
    "digit_runs": digits_then_bytes(False),
    "llama3": split_then_bytes(LLAMA3),
    "qwen2": split_then_bytes(QWEN2),
}


class Gguf:
    def __init__(self, path):
        self.reader = gguf.GGUFReader(path)
        self.tensors = {t.name: t for t in self.reader.tensors}

    def value(self, key):
        return self.reader.fields[key].contents()

    def tensor(self, name):
        t = self.tensors[name]
        return torch.from_numpy(gguf.dequantize(t.data, t.tensor_type).astype(np.float32))


def build_tokenizer(model):
    tokens = model.value("tokenizer.ggml.tokens")
    types = model.value("tokenizer.ggml.token_type")
    merges = [tuple(m.split(" ")) for m in model.value("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    assert model.value("tokenizer.ggml.pre") == "smollm"
    tokenizer.pre_tokenizer = PRE_TOKENIZERS["smollm"]
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True)
                                  for t, kind in zip(tokens, types) if kind == 3])
    return tokenizer


def write(name, value):
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    text = text.replace('},{"', '},\n{"').replace('],["', '],\n["')
    (HERE / name).write_text(text + "\n")
    print(name, len(text))


def make_token_ids(tokenizer):
    cases = []
    for text in STRINGS:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        tokenizer.encode_special_tokens = True
        plain = tokenizer.encode(text, add_special_tokens=False).ids
        tokenizer.encode_special_tokens = False
        case = {"text": text, "ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=False)}
        if plain != ids:
            case["ids_without_special"] = plain
        cases.append(case)
    write("smollm2_tokens.json", {"tokenizers": tokenizers.__version__, "cases": cases})


def make_words():
    out = []
    for name, pre in PRE_TOKENIZERS.items():
        document = json.loads(pre.__getstate__())
        words = [[w for w, _ in pre.pre_tokenize_str(text)] for text in STRINGS]
        out.append({"name": name, "pre_tokenizer": document, "words": words})
    write("pre_tokenizers.json", {"texts": STRINGS, "pre_tokenizers": out})
    nfc = normalizers.NFC()
    write("nfc.json", {"cases": [{"text": t, "nfc": nfc.normalize_str(t)} for t in STRINGS
                                 if nfc.normalize_str(t) != t]})


CHATS = [
    [{"role": "user", "content": "What is a bit plane?"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi  "}],
    [{"role": "user", "content": " 1+1?\n"}, {"role": "assistant", "content": "2"},
     {"role": "user", "content": "And 2+2?\nThink."}],
]
CHATML = ("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
          "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
          "{% endif %}")
# The same program, as other files write it.
CHATML_LINES = """{%- for message in messages -%}
    {{- "<|im_start|>" + message["role"] + "\\n" + message["content"] + "<|im_end|>" + "\\n" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- "<|im_start|>assistant\\n" -}}
{%- endif -%}
"""
LLAMA3_CHAT = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = "
    "'<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + "
    "'<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}")


def make_chats(model, tokenizer):
    # As transformers runs templates.
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    out = []
    templates = [("smollm2", model.value("tokenizer.chat_template")), ("chatml", CHATML),
                 ("chatml_lines", CHATML_LINES), ("llama3", LLAMA3_CHAT)]
    for name, text in templates:
        template = environment.from_string(text)
        for messages in CHATS:
            for generate in (False, True):
                rendered = template.render(messages=messages, add_generation_prompt=generate,
                                           bos_token="<|begin_of_text|>")
                case = {"name": name, "messages": messages, "add_generation_prompt": generate,
                        "rendered": rendered}
                if name == "smollm2":
                    case["ids"] = tokenizer.encode(rendered, add_special_tokens=False).ids
                out.append(case)
    write("chats.json", {"templates": dict(templates), "bos": "<|begin_of_text|>", "cases": out})


def rotate_half_rows(weight, heads):
    """GGUF keeps row pairs of a head side by side; transformers keeps its two halves."""
    return weight.reshape(heads, weight.shape[0] // heads // 2, 2, -1).swapaxes(1, 2).reshape(weight.shape)


NAMES = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
         "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
         "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}


def build_model(model):
    get = lambda key: model.value("llama." + key)
    heads, kv_heads = get("attention.head_count"), get("attention.head_count_kv")
    config = transformers.LlamaConfig(
        vocab_size=get("vocab_size"), hidden_size=get("embedding_length"),
        intermediate_size=get("feed_forward_length"), num_hidden_layers=get("block_count"),
        num_attention_heads=heads, num_key_value_heads=kv_heads,
        max_position_embeddings=get("context_length"), rms_norm_eps=1e-5,
        rope_theta=float(get("rope.freq_base")), tie_word_embeddings=True, attn_implementation="eager")
    theta = getattr(config, "rope_theta", None) or config.rope_parameters["rope_theta"]
    assert theta == get("rope.freq_base"), theta
    state = {"model.embed_tokens.weight": model.tensor("token_embd.weight"),
             "lm_head.weight": model.tensor("token_embd.weight"),
             "model.norm.weight": model.tensor("output_norm.weight")}
    for block in range(get("block_count")):
        for ours, theirs in NAMES.items():
            weight = model.tensor(f"blk.{block}.{ours}.weight")
            if ours in ("attn_q", "attn_k"):
                weight = rotate_half_rows(weight, heads if ours == "attn_q" else kv_heads)
            state[f"model.layers.{block}.{theirs}.weight"] = weight
    llama = transformers.LlamaForCausalLM(config).to(torch.float32).eval()
    llama.load_state_dict(state, strict=True)
    return llama


PROMPTS = ["The capital of France is", "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
           "<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\n"]
SELECTED = 64  # logits kept at a position


def make_logits(model, tokenizer, digest):
    llama = build_model(model)
    prompts = []
    for text in PROMPTS:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        with torch.no_grad():
            logits = llama(torch.tensor([ids])).logits[0].double()
        positions = []
        for position, row in enumerate(logits):
            argmax = int(row.argmax())
            step = row.numel() // SELECTED
            indices = [i * step + (position * 37) % step for i in range(SELECTED - 1)] + [argmax]
            positions.append({"position": position, "argmax": argmax, "min": round(float(row.min()), 6),
                              "max": round(float(row.max()), 6), "indices": indices,
                              "values": [round(float(row[i]), 5) for i in indices]})
        prompts.append({"text": text, "ids": ids, "positions": positions})
        best = [int(i) for i in logits[-1].topk(3).indices]
        print(repr(text), "->", [tokenizer.decode([i]) for i in best])
    write("smollm2_logits.json",
          {"model_sha256": digest, "transformers": transformers.__version__, "torch": torch.__version__,
           "dtype": "float32", "prompts": prompts})


def make_rope():
    """Inverse frequencies as transformers computes them (float32)."""
    llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
              "original_max_position_embeddings": 8192}
    out = []
    for head_dim, theta, scaling in ((64, 100000.0, {"rope_type": "default"}), (128, 500000.0, llama3),
                                     (64, 500000.0, {**llama3, "factor": 32.0}),
                                     (80, 10000.0, {"rope_type": "linear", "factor": 4.0})):
        config = transformers.LlamaConfig(hidden_size=4 * head_dim, num_attention_heads=4, head_dim=head_dim,
                                          max_position_embeddings=131072,
                                          rope_parameters={"rope_theta": theta, **scaling})
        rotary = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(config)
        out.append({"head_dim": head_dim, "rope_theta": theta, "rope_scaling": scaling,
                    "inverse_frequencies": [float(f) for f in rotary.inv_freq]})
    write("rope.json", {"cases": out})


BLOCKS = {"Q4_0": (18, [0]), "Q4_1": (20, [0, 2]), "Q5_0": (22, [0]), "Q5_1": (24, [0, 2]), "Q8_0": (34, [0]),
          "Q4_K": (144, [0, 2]), "Q5_K": (176, [0, 2]), "Q6_K": (210, [208])}


def make_dequantized():
    """Random blocks (bytes in hexadecimal) and their values as the bits of float32."""
    random = np.random.default_rng(20260101)
    out = []
    for name, (size, halves) in BLOCKS.items():
        raw = random.integers(0, 256, (4, size), dtype=np.uint8)
        for row in raw:
            for offset in halves:  # scales must be finite
                row[offset:offset + 2] = np.frombuffer(
                    np.float16(random.normal() * 0.05).tobytes(), dtype=np.uint8)
        raw[3, halves[0]:halves[0] + 2] = (1, 0)  # the smallest subnormal
        values = gguf.dequantize(raw, gguf.GGMLQuantizationType[name]).astype(np.float32)
        out.append({"type": name, "bytes": raw.tobytes().hex(),
                    "float32_bits": values.reshape(-1).view(np.uint32).tolist()})
    for name in ("F16", "BF16"):
        bits = random.integers(0, 1 << 16, 512, dtype=np.uint16)
        exponent = 0x7c00 if name == "F16" else 0x7f80
        bits[(bits & exponent) == exponent] = 0x0001
        if name == "F16":
            values = bits.view(np.float16).astype(np.float32)
        else:
            values = (bits.astype(np.uint32) << 16).view(np.float32)
        out.append({"type": name, "bytes": bits.tobytes().hex(), "float32_bits": values.view(np.uint32).tolist()})
    write("dequantized.json", {"gguf": getattr(gguf, "__version__", ""), "cases": out})


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="SmolLM2-135M-Instruct.Q4_1.gguf")
    args = parser.parse_args()
    digest = hashlib.sha256(pathlib.Path(args.model).read_bytes()).hexdigest()
    model = Gguf(args.model)
    tokenizer = build_tokenizer(model)
    make_token_ids(tokenizer)
    make_words()
    make_chats(model, tokenizer)
    make_rope()
    make_dequantized()
    make_logits(model, tokenizer, digest)


if __name__ == "__main__":
    main()
