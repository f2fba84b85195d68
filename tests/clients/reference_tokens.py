#!/usr/bin/env python3
"""Counts the strings that our server and Hugging Face's tokenizers cut into different tokens, for the tokenizer of a real model.

  reference_tokens.py BASE_URL MODEL [--count N] [--seed N] [--name PACKAGE]
  (pip install gguf tokenizers sentencepiece protobuf, versions as in tests/golden/requirements.txt)

MODEL: the GGUF file or Hugging Face folder (tokenizer.json) that the served package was made of. Of a GGUF file the reference is
built here with `tokenizers`, from the file's pieces, merges and scores and by the rules that tokenizer.ggml.pre names. The strings
are those that tests/golden/make_tokenizers.py makes (all scripts, emoji, control characters, runs of spaces), every tenth with one
of the file's special tokens in it. Special tokens are parsed, none is added. Prints the first few that differ, and the count; exits
1 if there are any.
"""
import argparse
import concurrent.futures
import json
import pathlib
import random
import sys
import urllib.request

import gguf
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "golden"))
import make_tokenizers  # noqa: E402

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5
PRE_TOKENIZERS = {
    "smollm": (pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                        pre_tokenizers.ByteLevel(add_prefix_space=False)]), None),
    "gpt-2": (pre_tokenizers.ByteLevel(add_prefix_space=False), None),
    "llama-bpe": (make_tokenizers.split(make_tokenizers.LLAMA3), None),
    "qwen2": (make_tokenizers.split(make_tokenizers.QWEN2), normalizers.NFC()),
}


def of_gguf(path):
    fields = gguf.GGUFReader(path).fields

    def value(key, default=None):
        return fields["tokenizer.ggml." + key].contents() if "tokenizer.ggml." + key in fields else default

    tokens, types, kind = value("tokens"), value("token_type"), value("model")
    vocab = {token: i for i, token in enumerate(tokens) if types[i] != UNUSED}
    if kind == "gpt2":
        merges = [tuple(merge.split(" ")) for merge in value("merges")]
        tokenizer = Tokenizer(models.BPE(vocab, merges, ignore_merges=value("pre") == "llama-bpe"))
        tokenizer.pre_tokenizer, normalizer = PRE_TOKENIZERS[value("pre")]
        if normalizer is not None:
            tokenizer.normalizer = normalizer
    elif kind == "llama":
        merges = make_tokenizers.merges_of(list(zip(tokens, value("scores"))))
        tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token=tokens[types.index(UNKNOWN)] if UNKNOWN in types else None,
                                         fuse_unk=True, byte_fallback=True))
        steps = [normalizers.Replace(" ", make_tokenizers.META)]
        if value("add_space_prefix", True):
            steps.insert(0, normalizers.Prepend(make_tokenizers.META))
        tokenizer.normalizer = normalizers.Sequence(steps)
    else:
        sys.exit(f"{path}: tokenizer.ggml.model is {kind}: expected gpt2 or llama")
    added = [(token, kind) for token, kind in zip(tokens, types) if kind in (UNKNOWN, CONTROL, USER_DEFINED)]
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t, kind in added if kind != USER_DEFINED])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t, kind in added if kind == USER_DEFINED])
    for token, _ in added:
        assert tokenizer.token_to_id(token) == vocab[token], token
    return tokenizer


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
    parser.add_argument("--name", help="one of several that the server has")
    flags = parser.parse_args()
    if flags.model.suffix == ".gguf":
        tokenizer = of_gguf(flags.model)
    else:
        tokenizer = Tokenizer.from_file(str(flags.model / "tokenizer.json"))
    special = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    rng = random.Random(flags.seed)
    texts = []
    for i in range(flags.count):
        text = make_tokenizers.text(rng)
        if i % 10 == 0 and special:
            at = rng.randint(0, len(text))
            text = text[:at] + rng.choice(special) + text[at:]
        texts.append(text)
    with urllib.request.urlopen(flags.base + "/v1/models") as answer:
        served = flags.name or json.load(answer)["data"][0]["id"]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        ours = list(pool.map(lambda text: ids(flags.base, served, text), texts))
    wrong = 0
    for text, found in zip(texts, ours):
        expected = tokenizer.encode(text, add_special_tokens=False).ids
        if found == expected:
            continue
        wrong += 1
        if wrong <= 5:
            print(f"{text!r}: expected {expected}, found {found}", file=sys.stderr)
    print(f"{flags.model.name} {tokenizer.get_vocab_size()} tokens: {wrong} of {len(texts)} strings differ")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
