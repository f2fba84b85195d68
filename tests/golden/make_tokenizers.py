"""Writes tokenizers.json: small tokenizers of every kind, and the ids that Hugging Face's tokenizers gives.

    python3 tests/golden/make_tokenizers.py [--count 200] [--out tests/golden]

Packages: requirements.txt. Vocabularies are trained here on generated text, so nothing is
downloaded. tests/deep.sh makes 10,000 strings with another seed into a folder of its own.
"""
import argparse
import base64
import io
import json
import pathlib
import random
import tempfile
import unicodedata

import sentencepiece
import tokenizers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).resolve().parent
META = "\u2581"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
          r"\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
# Mistral's of byte-level BPE (NeMo, Small 3, Ministral).
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
          r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|"
          r"\s*[\r\n]+|\s+(?!\S)|\s+")
# DeepSeek's LLaMAs of code cut one after the other.
DEEPSEEK_CODER = [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"]
BLOOM = " ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+"

SCRIPTS = [(0x21, 0x7e), (0xa1, 0x17f), (0x370, 0x3ff), (0x400, 0x4ff), (0x531, 0x58f), (0x5d0, 0x5ea),
           (0x620, 0x6d3), (0x905, 0x939), (0x985, 0x9b9), (0xb85, 0xbb9), (0xe01, 0xe4e), (0x10a0, 0x10ff),
           (0x1100, 0x11ff), (0x1200, 0x137c), (0x1780, 0x17dd), (0x1e00, 0x1eff), (0x3041, 0x3096),
           (0x30a0, 0x30ff), (0x4e00, 0x9fff), (0xac00, 0xd7a3), (0x10330, 0x1034a), (0x1d400, 0x1d7ff),
           (0x2190, 0x22ff), (0xff01, 0xff5e)]
WORDS = ("the of and to in is that for was with as by at from model weight layer shift add bits token planes "
         "it's we'll I'M don't They'RE naive caf\u00e9 \u00fcber \u0434\u043e\u043c \u03bb\u03cc\u03b3\u03bf\u03c2 \u6771\u4eac "
         "\u0645\u0631\u062d\u0628\u0627 def return self None 0 1 12 123 1234 3.14 1e-5 0x1F $9.99 50%").split()
EMOJI = ["\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f44d\U0001f3fd", "\U0001f1e9\U0001f1ea", "\u2764\ufe0f",
         "\U0001f3f3\ufe0f\u200d\U0001f308", "1\ufe0f\u20e3", "\U0001fae0"]
MARKS = ["\u0301", "\u0308", "\u0327", "\u3099", "\u093c", "\u05b0", "\u064b", "\u1fbe"]
SPACES = [" ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", " \n ", "\u00a0", "\u2003", "\u3000", "\u2028", "\u200b", "\ufeff", "\u0085",
          "\x0b", "\x0c", "\u180e", "        "]
CONTROLS = [chr(c) for c in range(1, 32)] + ["\x7f", "\x80", "\x9f", "\u200e", "\u202e", "\ufffd", "\ufffe", "\U000e0061", "\0"]
SPECIAL = ["<s>", "</s>", "<unk>", "<|end|>", " <|end|> ", "<0x0A>", META, META + META, "<mask>", " <mask>  x", "[tool]", "<|"]


def assigned(low, high, rng):
    while True:
        c = chr(rng.randint(low, high))
        if unicodedata.category(c) != "Cn":
            return c


def text(rng):
    """One string: a few runs of a few kinds."""
    out = []
    for _ in range(rng.randint(1, 7)):
        kind = rng.random()
        if kind < 0.35:
            out.append(rng.choice(["", " "]) + " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 5))))
        elif kind < 0.6:
            low, high = rng.choice(SCRIPTS)
            run = "".join(assigned(low, high, rng) for _ in range(rng.randint(1, 8)))
            out.append("".join(c + (rng.choice(MARKS) if rng.random() < 0.15 else "") for c in run))
        elif kind < 0.7:
            out.append("".join(rng.choice(EMOJI) for _ in range(rng.randint(1, 3))))
        elif kind < 0.83:
            out.append("".join(rng.choice(SPACES) for _ in range(rng.randint(1, 3))))
        elif kind < 0.89:
            out.append("".join(rng.choice(CONTROLS) for _ in range(rng.randint(1, 3))))
        elif kind < 0.95:
            out.append(rng.choice(SPECIAL))
        else:
            out.append("".join(rng.choice("0123456789.,-+/()[]{}\"'#_*\\") for _ in range(rng.randint(1, 10))))
    return "".join(out)


def corpus():
    rng = random.Random(20260101)
    lines = [" ".join(rng.choice(WORDS) for _ in range(12)) for _ in range(400)]
    return lines + [line.replace("\0", " ") for line in (text(rng) for _ in range(600))]


def byte_level(pre, normalizer=None, post=None, ignore_merges=False, specials=("<s>", "</s>", "<|end|>")):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=480, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
                                  special_tokens=[AddedToken(s, special=True, normalized=False) for s in specials])
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.add_tokens([AddedToken("[tool]", normalized=False)])
    if post is not None:
        tokenizer.post_processor = post
    return tokenizer, None


def bos(token, number):
    return processors.TemplateProcessing(single=f"{token} $A", pair=f"{token} $A {token} $B", special_tokens=[(token, number)])


# A few of the kinds of rules that nmt_nfkc has, whose own map is 240 KB: sources and targets in code points.
RULES = ([(f"{c + 0xfee0:X}", f"{c:X}") for c in range(0x21, 0x7f)] +  # full width
         [(f"{c:X}", "20") for c in (9, 0xa, 0xd, 0xa0, 0x2003, 0x2028, 0x3000, 0x200b, 0xfeff)] +
         [(f"{c:X}", "") for c in (1, 2, 3, 0x7f, 0x8f, 0x9f)] +
         [("65 301", "E9"), ("75 308", "FC"), ("61 308", "E4"), ("69 308", "EF"), ("FB01", "66 69"), ("2460", "31"),
          ("BD", "31 2044 32"), ("AC00", "1100 1161"), ("1D400", "41"), ("2764 FE0F", "2764"),
          ("FDFA", "635 644 649 20 627 644 644 647")])


def train_sentencepiece(kind, byte_fallback, add_dummy_prefix, normalization=None):
    """normalization: the name of one of SentencePiece's, or a list of rules; spaces are then folded, as they are by default."""
    model = io.BytesIO()
    if normalization is None:
        form = dict(normalization_rule_name="identity", remove_extra_whitespaces=False, allow_whitespace_only_pieces=True)
    elif isinstance(normalization, str):
        form = dict(normalization_rule_name=normalization)
    else:
        rules = tempfile.NamedTemporaryFile("w", suffix=".tsv")
        rules.write("".join(f"{source}\t{target}\n" for source, target in normalization))
        rules.flush()
        form = dict(normalization_rule_tsv=rules.name)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line.replace("\n", " ") for line in corpus()[:430 if byte_fallback else 520]]), model_writer=model, model_type=kind,
        vocab_size=640 if byte_fallback else 900, byte_fallback=byte_fallback, character_coverage=0.98,
        add_dummy_prefix=add_dummy_prefix, user_defined_symbols=["[tool]"], hard_vocab_limit=False, minloglevel=2,
        split_digits=True, num_threads=1, **form)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = [(processor.id_to_piece(i), processor.get_score(i)) for i in range(processor.get_piece_size())]
    return processor, model.getvalue(), pieces


def add_sentencepiece_tokens(tokenizer, processor, strip=()):
    for i in range(processor.get_piece_size()):
        piece = processor.id_to_piece(i)
        if processor.is_control(i) or processor.is_unknown(i):
            tokenizer.add_special_tokens([AddedToken(piece, special=True, normalized=False)])
        elif piece == "[tool]":
            tokenizer.add_tokens([AddedToken(piece, normalized=False)])


def merges_of(pieces):
    """As transformers' convert_slow_tokenizer.generate_merges does it."""
    ids = {piece: i for i, (piece, _) in enumerate(pieces)}
    merges = []
    for piece, score in pieces:
        local = [(piece[:i], piece[i:], score) for i in range(1, len(piece)) if piece[:i] in ids and piece[i:] in ids]
        merges += sorted(local, key=lambda m: (ids[m[0]], ids[m[1]]))
    return [(a, b) for a, b, _ in sorted(merges, key=lambda m: (m[2], len(m[0]), len(m[1])), reverse=True)]


def sentencepiece_bpe(form):
    prefix = form != "gemma"
    processor, model, pieces = train_sentencepiece("bpe", True, prefix)
    tokenizer = Tokenizer(models.BPE({p: i for i, (p, _) in enumerate(pieces)}, merges_of(pieces), unk_token="<unk>", fuse_unk=True,
                                     byte_fallback=True))
    add_sentencepiece_tokens(tokenizer, processor)
    steps = [decoders.Replace(META, " "), decoders.ByteFallback(), decoders.Fuse()]
    if form == "llama":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(META), normalizers.Replace(" ", META)])
        tokenizer.decoder = decoders.Sequence(steps + [decoders.Strip(" ", 1, 0)])
    elif form == "mistral":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(META, prepend_scheme="first", split=False)
        tokenizer.decoder = decoders.Sequence(steps + [decoders.Strip(" ", 1, 0)])
        tokenizer.add_special_tokens([AddedToken("<mask>", special=True, normalized=False, lstrip=True, rstrip=True)])
    else:
        tokenizer.normalizer = normalizers.Replace(" ", META)
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
        tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.post_processor = bos("<s>", processor.bos_id())
    return tokenizer, model if form != "mistral" else None


def sentencepiece_unigram(byte_fallback):
    processor, model, pieces = train_sentencepiece("unigram", byte_fallback, True)
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=processor.unk_id(), byte_fallback=byte_fallback))
    add_sentencepiece_tokens(tokenizer, processor)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(META, prepend_scheme="always", split=not byte_fallback)
    steps = [decoders.Replace(META, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps) if byte_fallback else decoders.Metaspace(META, prepend_scheme="always")
    return tokenizer, None


def mapped_unigram(normalization):
    """As transformers' SpmConverter does it."""
    processor, model, pieces = train_sentencepiece("unigram", False, True, normalization)
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=processor.unk_id(), byte_fallback=False))
    add_sentencepiece_tokens(tokenizer, processor)
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap),
                                                 normalizers.Strip(left=False, right=True),
                                                 normalizers.Replace(Regex(" {2,}"), META)])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(META, prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(META, prepend_scheme="always")
    tokenizer.post_processor = bos("<s>", processor.bos_id())
    return tokenizer, model


def split(*patterns, digits=False):
    return pre_tokenizers.Sequence([*(pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns),
                                    *([pre_tokenizers.Digits(individual_digits=True)] if digits else []),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def old_added_tokens(tokenizer, _):
    """As the first conversions of LLaMA were, and OPT is: added tokens are looked for in the text's normal form, in their own."""
    document = json.loads(tokenizer.to_str())
    for token in document["added_tokens"]:
        token["normalized"] = True
    return Tokenizer.from_str(json.dumps(document)), None


def build(whole_maps):
    """whole_maps: with SentencePiece's own map of characters too."""
    more = {"unigram_nmt_nfkc": mapped_unigram("nmt_nfkc")} if whole_maps else {}
    return {
        "gpt2": byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False)),
        "opt": byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), post=bos("</s>", 1)),
        "llama3": byte_level(split(LLAMA3), post=processors.Sequence([processors.ByteLevel(trim_offsets=False), bos("<s>", 0)]),
                             ignore_merges=True),
        "qwen2": byte_level(split(QWEN2), normalizers.NFC()),
        "bloom": byte_level(split(BLOOM)),
        "tekken": byte_level(split(TEKKEN), post=bos("<s>", 0), ignore_merges=True),
        "deepseek_coder": byte_level(split(*DEEPSEEK_CODER, digits=True), normalizers.Sequence([]),
                                     post=processors.ByteLevel(trim_offsets=False)),
        "llama2": sentencepiece_bpe("llama"),
        "llama2_old": old_added_tokens(*sentencepiece_bpe("llama")),
        "mistral": sentencepiece_bpe("mistral"),
        "gemma": sentencepiece_bpe("gemma"),
        "unigram": sentencepiece_unigram(False),
        "unigram_bytes": sentencepiece_unigram(True),
        "unigram_mapped": mapped_unigram(RULES),
        **more,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=pathlib.Path, default=HERE)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    texts = ["", " ", "  ", "Hello, world", "<s>", "<|end|><|end|>", META + " x"] + [text(rng) for _ in range(args.count)]
    texts = texts[:args.count]
    entries = []
    for name, (tokenizer, model) in build(args.out != HERE).items():
        cases = []
        for t in texts:
            ids = tokenizer.encode(t).ids
            plain = tokenizer.encode(t, add_special_tokens=False).ids
            # The last number: whether decoding gives the text back.
            cases.append([ids, int(tokenizer.decode(plain, skip_special_tokens=False) == t)])
        entry = {"name": name, "tokenizer": json.loads(tokenizer.to_str()), "cases": cases}
        if model is not None:
            entry["sentencepiece"] = base64.b64encode(model).decode()
        entries.append(entry)
        print(f"{name:14} {tokenizer.get_vocab_size()} tokens, {sum(c[1] for c in cases)} of {len(cases)} come back")
    lines = ",\n".join(json.dumps(e, separators=(",", ":")) for e in entries)
    head = json.dumps({"tokenizers": tokenizers.__version__, "sentencepiece": sentencepiece.__version__, "texts": texts})
    (args.out / "tokenizers.json").write_text(head[:-1] + ', "entries": [\n' + lines + "\n]}\n")


if __name__ == "__main__":
    main()
