#!/usr/bin/env python3
"""Perplexity of a text by a running server and by transformers on exports of its package.

  export_perplexity.py BASE_URL TEXT_FILE TOLERANCE EXPORT...   (pip install transformers torch accelerate gguf)

BASE_URL: http://host:port of shiftadd-server. EXPORT: a folder of `shiftadd export`, hf-fp16 or gguf, or MODEL=FOLDER, where the
server holds several packages (else its first). Fails if a log-perplexity differs from the server's by more than TOLERANCE.
transformers computes in float32 on the fp16 weights.
"""

import json
import math
import pathlib
import sys
import urllib.request

import torch
import transformers


transformers.utils.logging.disable_progress_bar()


def first_model(base):
    with urllib.request.urlopen(base + "/v1/models") as answer:
        return json.load(answer)["data"][0]["id"]


def server_log_perplexity(base, model, text):
    request = {"model": model, "prompt": text, "max_tokens": 0, "echo": True, "logprobs": 0}
    call = urllib.request.Request(base + "/v1/completions", json.dumps(request).encode(),
                                  {"Content-Type": "application/json"})
    with urllib.request.urlopen(call) as answer:
        numbers = json.load(answer)["choices"][0]["logprobs"]["token_logprobs"]
    numbers = [n for n in numbers if n is not None]
    call = urllib.request.Request(base + "/tokenize", json.dumps({"model": model, "prompt": text}).encode(),
                                  {"Content-Type": "application/json"})
    with urllib.request.urlopen(call) as answer:
        ids = json.load(answer)["tokens"]
    return -sum(numbers) / len(numbers), len(numbers), ids


def export_log_perplexity(folder, text, served):
    gguf = sorted(pathlib.Path(folder).glob("*.gguf"))
    options = {"gguf_file": gguf[0].name} if gguf else {}
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options).eval()
    # transformers does not read tokenizer.ggml.pre: of a GGUF file it takes the weights, and the server's token ids.
    ids = served if gguf else transformers.AutoTokenizer.from_pretrained(folder)(text).input_ids
    ids = torch.tensor([ids])
    with torch.no_grad():
        logits = model(ids).logits[0, :-1].double()
    chosen = torch.log_softmax(logits, -1).gather(1, ids[0, 1:, None])
    return -chosen.mean().item(), ids.shape[1] - 1


def main():
    base, text_file, tolerance, folders = sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4:]
    text = pathlib.Path(text_file).read_text(encoding="utf-8")
    good, before = True, ""
    for export in folders:
        model, folder = export.split("=", 1) if "=" in export else (first_model(base), export)
        if model != before:
            before = model
            expected, count, ids = server_log_perplexity(base, model, text)
            print(f"server, {model}: {count} tokens, perplexity {math.exp(expected):.4f}")
        found, tokens = export_log_perplexity(folder, text, ids)
        fits = tokens == count and abs(found - expected) <= tolerance
        good = good and fits
        print(f"transformers {transformers.__version__} on {pathlib.Path(folder).name}: {tokens} tokens, perplexity "
              f"{math.exp(found):.4f}, log differs by {found - expected:+.2e}: {'ok' if fits else 'FAILED'}", flush=True)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
