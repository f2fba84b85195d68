#!/usr/bin/env python3
"""Perplexity of a full-precision model by transformers, on the tokens that our server gives a text.

  reference_perplexity.py BASE_URL TEXT_FILE MODEL [--windows N] [--length N] [--threads N]
  (pip install -r tests/golden/requirements.txt accelerate)

MODEL: a GGUF file (dequantized by the gguf package) or a Hugging Face folder. BASE_URL: http://host:port of
shiftadd-server with a package of that model, for its tokenizer. Windows as `shiftadd eval` cuts them: consecutive, without overlap, from
the text's start; exp of the mean cross entropy of all tokens but each window's first. transformers computes in float32
with eager attention. Prints one line of JSON.
"""

import argparse
import json
import math
import pathlib
import sys
import urllib.request

import torch
import transformers


def call(base, path, body=None):
    request = urllib.request.Request(base + path, None if body is None else json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def token_ids(base, text):
    model = call(base, "/v1/models")["data"][0]["id"]
    return call(base, "/tokenize", {"model": model, "prompt": text})["tokens"]


def load(path):
    path = pathlib.Path(path)
    folder, options = (path.parent, {"gguf_file": path.name}) if path.suffix == ".gguf" else (path, {})
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager",
                                                             **options).eval()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("base", "text", "model"):
        parser.add_argument(name)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=1)
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    # No more than is needed: a token of prose is 4 to 5 characters.
    text = pathlib.Path(flags.text).read_bytes().decode()[:flags.windows * flags.length * 8]
    ids = token_ids(flags.base, text)
    if len(ids) <= flags.windows * flags.length:  # the last token may be one that was cut
        raise SystemExit(f"{flags.text}: {len(ids)} tokens, expected more than {flags.windows * flags.length}")
    model = load(flags.model)
    means = []
    for window in range(flags.windows):
        part = torch.tensor([ids[window * flags.length:(window + 1) * flags.length]])
        with torch.no_grad():
            logits = model(part).logits[0, :-1]
            chosen = logits.gather(1, part[0, 1:, None])[:, 0].double()
            means.append((torch.logsumexp(logits, -1).double() - chosen).mean().item())
        print(f"window {window}: {means[-1]:.6f} nats a token", file=sys.stderr, flush=True)
    mean = sum(means) / len(means)
    print(json.dumps({"transformers": transformers.__version__, "windows": len(means), "length": flags.length,
                      "first_ids": ids[:8], "perplexity": math.exp(mean), "window_nll": means}))


if __name__ == "__main__":
    main()
