#!/usr/bin/env python3
"""Counts the strings that our server and transformers cut into different tokens, for the tokenizer of a real model.

  reference_tokens.py BASE_URL MODEL [--count N] [--seed N]
  (pip install -r tests/golden/requirements.txt)

MODEL: the GGUF file or Hugging Face folder that the served package was made of. The strings are those that
tests/golden/make_tokenizers.py makes (all scripts, emoji, control characters, runs of spaces). Special tokens are parsed, none
is added. Prints the first few that differ, and the count; exits 1 if there are any.
"""
import argparse
import concurrent.futures
import json
import pathlib
import random
import sys
import urllib.request

import transformers

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "golden"))
import make_tokenizers  # noqa: E402


def ids(base, model, text):
    body = json.dumps({"model": model, "prompt": text, "add_special_tokens": False}).encode()
    request = urllib.request.Request(base + "/tokenize", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["tokens"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--count", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=2)
    flags = parser.parse_args()
    gguf = {"gguf_file": flags.model.name} if flags.model.suffix == ".gguf" else {}
    tokenizer = transformers.AutoTokenizer.from_pretrained(flags.model.parent if gguf else flags.model, **gguf)
    rng = random.Random(flags.seed)
    texts = [make_tokenizers.text(rng) for _ in range(flags.count)]
    with urllib.request.urlopen(flags.base + "/v1/models") as answer:
        served = json.load(answer)["data"][0]["id"]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        ours = list(pool.map(lambda text: ids(flags.base, served, text), texts))
    wrong = 0
    for text, found in zip(texts, ours):
        expected = tokenizer.encode(text, add_special_tokens=False)
        if found == expected:
            continue
        wrong += 1
        if wrong <= 5:
            print(f"{text!r}: expected {expected}, found {found}", file=sys.stderr)
    print(f"{flags.model.name} {wrong} of {len(texts)} strings differ")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
